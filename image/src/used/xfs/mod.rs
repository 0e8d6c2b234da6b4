//! XFS, versions 4 and 5: used is what the free-space trees of the allocation groups do not hold, without the contents of the clean log.
//!
//! Numbers on disk are big-endian. Layouts: fs/xfs/libxfs/xfs_format.h and xfs_log_format.h of Linux, and the "XFS Algorithms & Data Structures"
//! book.

mod allocation;
mod log;
mod superblock;

use superblock::Superblock;

use super::fields::{Stop, finding};
use super::{Finding, Ranges};
use crate::Result;
use crate::disk_image::{DiskImage, Part};

/// What is in use of `volume`; `None` when it is not XFS.
///
/// # Errors
/// When the volume cannot be read.
pub(super) fn probe(volume: &Part<'_>) -> Result<Option<Finding>> {
    match superblock::recognised(volume) {
        Ok(true) => finding("xfs", used(volume)).map(Some),
        Ok(false) | Err(Stop::Whole(_)) => Ok(None),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

fn used(volume: &Part<'_>) -> Result<Ranges, Stop> {
    let superblock = Superblock::read(volume)?;
    let log_range = superblock.log_range();
    let log_kept = log::kept(volume, &superblock)?;

    let mut used = Ranges::default();
    for group in 0..superblock.group_count {
        let free = allocation::free_blocks(volume, &superblock, group)?;
        let start = superblock.group_start(group);
        let mut block = superblock.header_blocks();
        used.push(start..start + superblock.header_bytes());
        for run in free {
            used.push(start + u64::from(block) * superblock.block_bytes()..start + u64::from(run.start) * superblock.block_bytes());
            block = run.end;
        }
        used.push(
            start + u64::from(block) * superblock.block_bytes()
                ..start + u64::from(superblock.group_blocks(group)) * superblock.block_bytes(),
        );
    }
    // What follows the last group belongs to nobody that is known.
    used.push(superblock.size_bytes()..volume.size_bytes());

    if !used.next_from(log_range.start).is_some_and(|range| range.start <= log_range.start && range.end >= log_range.end) {
        return Err(Stop::damaged("blocks of the log are free"));
    }
    let without_log = used.without(&std::iter::once(log_range).collect());
    Ok(without_log.iter().chain(log_kept.iter()).collect())
}
