//! Which bytes of a disk are in use: partitions are found, and in each the blocks that its filesystem has allocated. What is free may hold an
//! earlier tenant's data; it is neither stored nor sent.
//!
//! Every reader here parses bytes that somebody else wrote: it never panics, never loops for long and takes memory in proportion to the
//! used ranges only. A filesystem that it does not fully understand, that looks damaged or that is in use, is [`Finding::Whole`].

mod bitmap;
mod btrfs;
mod crc32c;
mod ext;
mod fat;
mod fields;
mod lvm;
mod ntfs;
mod partitions;
mod plan;
mod ranges;
mod signatures;
mod swap;
mod xfs;

use crate::disk_image::Part;
use crate::{Error, Result};

pub use plan::{Plan, Region, plan};
pub use ranges::Ranges;

/// What a reader says of a partition (or of a disk without partitions).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is understood: only these bytes have to be stored.
    Used {
        /// The filesystem by its usual name: "ext4", "xfs".
        filesystem: &'static str,
        /// Its bytes in use, counted from the start of the partition.
        used: Ranges,
    },
    /// It is recognised, but all of it has to be stored.
    Whole {
        /// The filesystem by its usual name.
        filesystem: &'static str,
        /// Why, for the operator: "it was not cleanly unmounted".
        why: String,
    },
}

impl Finding {
    /// The filesystem by its usual name.
    #[must_use]
    pub fn filesystem(&self) -> &'static str {
        match self {
            Self::Used { filesystem, .. } | Self::Whole { filesystem, .. } => filesystem,
        }
    }
}

/// A reader: `None` when the volume holds something else.
type Probe = fn(&Part<'_>) -> Result<Option<Finding>>;

/// The readers by the name that is used when one fails.
const PROBES: &[(&str, Probe)] = &[
    ("btrfs", btrfs::probe),
    ("ext4", ext::probe),
    ("FAT", fat::probe),
    ("ntfs", ntfs::probe),
    ("swap", swap::probe),
    ("xfs", xfs::probe),
    ("signature", signatures::probe),
];

/// What is in a volume, as far as it is recognised, with a line for each volume within it.
///
/// # Errors
/// Those of reading the disk.
fn probe(volume: &Part<'_>) -> Result<Option<(Finding, lvm::Notes)>> {
    match (probe_filesystems(volume)?, lvm::probe(volume)?) {
        (Some(first), Some((second, _))) => Ok(Some((ambiguous(&first, &second), lvm::Notes::new()))),
        (Some(finding), None) => Ok(Some((finding, lvm::Notes::new()))),
        (None, found) => Ok(found),
    }
}

/// Two signatures: one is left over from an earlier use, but which?
fn ambiguous(first: &Finding, second: &Finding) -> Finding {
    let why = format!("it looks like {} too; wipefs shows and removes old signatures", second.filesystem());
    Finding::Whole { filesystem: first.filesystem(), why }
}

/// The filesystem of a volume, if it is recognised.
fn probe_filesystems(volume: &Part<'_>) -> Result<Option<Finding>> {
    let mut found: Option<Finding> = None;
    for (name, probe) in PROBES {
        let finding = match probe(volume) {
            // It names bytes that are not there.
            Err(Error::Source { why, .. }) => Some(Finding::Whole { filesystem: name, why: format!("it looks damaged: {why}") }),
            outcome => outcome?,
        };
        let Some(finding) = finding else { continue };
        if let Some(first) = found {
            return Ok(Some(ambiguous(&first, &finding)));
        }
        found = Some(finding);
    }
    Ok(found)
}

/// One reader alone, for fuzzing.
pub(crate) fn fuzz(name: &str, volume: &Part<'_>) {
    use crate::disk_image::DiskImage;
    for (_, probe) in PROBES.iter().filter(|(probe, _)| *probe == name) {
        if let Ok(Some(Finding::Used { used, .. })) = probe(volume) {
            assert!(used.iter().all(|range| range.end <= volume.size_bytes()), "a used range lies outside of the volume");
        }
    }
}

/// LVM2 alone, for fuzzing.
pub(crate) fn fuzz_lvm(volume: &Part<'_>) {
    use crate::disk_image::DiskImage;
    if let Ok(Some((Finding::Used { used, .. }, _))) = lvm::probe(volume) {
        assert!(used.iter().all(|range| range.end <= volume.size_bytes()), "a used range lies outside of the volume");
    }
}
