//! ext2, ext3 and ext4: the blocks that their bitmaps say are in use, less what of them holds nothing: the log of a clean journal, bitmaps and
//! inodes that were never initialised. Layouts are those of the kernel's fs/ext4/ext4.h and Documentation/filesystems/ext4.

mod checksum;
mod groups;
mod journal;
mod superblock;

use super::fields::{Stop, finding};
use super::{Finding, Ranges};
use crate::Result;
use crate::disk_image::{DiskImage, Part};
use superblock::Superblock;

pub(super) fn probe(volume: &Part<'_>) -> Result<Option<Finding>> {
    let Some(bytes) = superblock::read(volume)? else { return Ok(None) };
    let name = superblock::name(&bytes);
    finding(name, Superblock::parse(&bytes, volume.size_bytes()).and_then(|superblock| used(volume, &superblock))).map(Some)
}

fn used(volume: &Part<'_>, superblock: &Superblock) -> Result<Ranges, Stop> {
    superblock.check_not_in_use(volume)?;
    let mut found = groups::read(volume, superblock)?;
    if let Some(inode) = superblock.journal_inode {
        journal::leave_out(volume, superblock, inode, &mut found)?;
    }
    let unneeded: Ranges = found.unneeded.into_iter().collect();
    let mut used = found.used.without(&unneeded);
    // A hash tree or a footer of another layer may stand behind a filesystem.
    used.push(superblock.size_bytes()..volume.size_bytes());
    Ok(used)
}
