//! The extents of btrfs: what its extent tree counts as allocated, data and tree blocks alike.

use std::ops::Range;

use super::super::fields::{Stop, le64, u8_at};
use super::chunks::Chunks;
use super::superblock::{Root, Superblock};
use super::tree::{Key, Reader};
use crate::disk_image::Part;

/// `BTRFS_EXTENT_TREE_OBJECTID`, and the kinds of items that are looked at.
const EXTENT_TREE: u64 = 2;
const ROOT_ITEM: u8 = 132;
const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;

/// The ranges of all extents on the device, in no order.
pub(super) fn read(volume: &Part<'_>, superblock: &Superblock, chunks: &Chunks) -> Result<Vec<Range<u64>>, Stop> {
    let reader = Reader { volume, superblock, chunks };
    let mut extent_root = None;
    reader.walk(superblock.root, &mut |key, item| {
        if key.object == EXTENT_TREE && key.kind == ROOT_ITEM {
            // btrfs_root_item: bytenr, level.
            extent_root = Some(Root { logical: le64(item, 176)?, level: u8_at(item, 238)? });
        }
        Ok(())
    })?;
    let extent_root = extent_root.ok_or_else(|| Stop::damaged("it has no extent tree"))?;

    let mut extents = Extents { chunks, ranges: Vec::new(), pending: 0..0, bytes: 0 };
    reader.walk(extent_root, &mut |key, _| extents.item(key, superblock))?;
    if extents.bytes != superblock.bytes_used {
        let why = format_args!("its extents have {} bytes, its superblock counts {}", extents.bytes, superblock.bytes_used);
        return Err(Stop::damaged(why));
    }
    extents.finish()
}

struct Extents<'a> {
    chunks: &'a Chunks,
    ranges: Vec<Range<u64>>,
    /// Logical addresses that are not among the ranges yet: extents that touch become one range.
    pending: Range<u64>,
    bytes: u64,
}

impl Extents<'_> {
    fn item(&mut self, key: Key, superblock: &Superblock) -> Result<(), Stop> {
        let length = match key.kind {
            EXTENT_ITEM => key.offset,
            METADATA_ITEM => superblock.node_bytes.into(),
            _ => return Ok(()),
        };
        let end = key.object.checked_add(length);
        let sound = length > 0 && key.object >= self.pending.end && key.object.is_multiple_of(superblock.sector_bytes);
        let end = end.filter(|_| sound && length.is_multiple_of(superblock.sector_bytes));
        let end = end.ok_or_else(|| Stop::damaged(format_args!("the extent at logical address {} is wrong", key.object)))?;
        // No extent crosses a chunk's end.
        self.chunks.physical(key.object, length)?;
        // Cannot overflow: extents do not overlap.
        self.bytes += length;
        let joined = self.pending.end == key.object && self.chunks.physical(self.pending.start, end - self.pending.start).is_ok();
        if joined {
            self.pending.end = end;
        } else {
            self.flush()?;
            self.pending = key.object..end;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if !self.pending.is_empty() {
            self.ranges.extend(self.chunks.copies(self.pending.start, self.pending.end - self.pending.start)?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Range<u64>>, Stop> {
        self.flush()?;
        Ok(self.ranges)
    }
}
