//! btrfs on one device: used are the superblocks, the reserved first mebibyte and the extents of the extent tree, in each of their copies.
//!
//! Numbers on disk are little-endian. Layouts: include/uapi/linux/btrfs_tree.h of Linux, and the "On-disk format" pages of btrfs's documentation.
//! btrfs never overwrites what its superblock points to, so there is no clean flag: what the superblock's trees say is true, however the
//! filesystem was left. Only an fsync log, whose blocks are in no tree, needs to be replayed first.

mod chunks;
mod extents;
mod superblock;
mod tree;

use superblock::Superblock;

use super::fields::{Stop, finding};
use super::{Finding, Ranges};
use crate::Result;
use crate::disk_image::{DiskImage, Part};

/// Bytes at the start of a device that the allocator leaves alone (`BTRFS_DEVICE_RANGE_RESERVED`): boot loaders and the first superblock.
const RESERVED_BYTES: u64 = 1 << 20;

/// What is in use of `volume`; `None` when it is not btrfs.
///
/// # Errors
/// When the volume cannot be read.
pub(super) fn probe(volume: &Part<'_>) -> Result<Option<Finding>> {
    match superblock::recognised(volume) {
        Ok(true) => finding("btrfs", used(volume)).map(Some),
        Ok(false) | Err(Stop::Whole(_)) => Ok(None),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

fn used(volume: &Part<'_>) -> Result<Ranges, Stop> {
    let superblock = Superblock::read(volume)?;
    let chunks = chunks::read(volume, &superblock)?;
    let extents = extents::read(volume, &superblock, &chunks)?;
    let device_bytes = superblock.device_bytes;
    let fixed = std::iter::once(0..RESERVED_BYTES.min(device_bytes))
        .chain(superblock::places(device_bytes))
        // What follows the device's end belongs to nobody that is known.
        .chain(std::iter::once(device_bytes..volume.size_bytes()));
    Ok(fixed.chain(extents).collect())
}
