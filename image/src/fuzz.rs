//! One function per parser of foreign bytes, for fuzzing: it must return, whatever it is given.

use crate::disk_image::{Part, SliceImage};
use crate::used;

/// A disk with whatever partition table and filesystems.
pub fn partitions(bytes: &[u8]) {
    if let Ok(plan) = used::plan(&SliceImage(bytes)) {
        assert!(plan.used_bytes() <= bytes.len() as u64);
    }
}

/// A swap partition.
pub fn swap(bytes: &[u8]) {
    used::fuzz("swap", &Part::whole(&SliceImage(bytes)));
}

/// An ext2, ext3 or ext4 filesystem.
pub fn ext4(bytes: &[u8]) {
    used::fuzz("ext4", &Part::whole(&SliceImage(bytes)));
}
