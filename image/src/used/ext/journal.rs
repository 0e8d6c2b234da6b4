//! The journal of ext3 and ext4: when it is clean, its log is of no use to anybody, and holds old metadata or even data. Only its superblock is kept.

use std::ops::Range;

use super::groups::Groups;
use super::superblock::{Superblock, first_log_block};
use crate::disk_image::Part;
use crate::used::fields::{Stop, array, le16, le32, read_vec, slice};

/// The longest journal that mke2fs makes, in blocks. The log of a longer one is kept.
const BLOCKS_MAX: u64 = 10_240_000;
/// More runs than any journal has, which is made in one piece when it can be. The log of a journal of more is kept.
const RUNS_MAX: usize = 1 << 20;
/// fs/ext4/ext4_extents.h
const EXTENT_MAGIC: u16 = 0xf30a;
const EXTENT_DEPTH_MAX: u16 = 5;
/// i_flags
const EXTENTS_FLAG: u32 = 0x8_0000;
const INLINE_DATA_FLAG: u32 = 0x1000_0000;

/// Adds what of the journal has no use to `groups.unneeded`.
pub(super) fn leave_out(volume: &Part<'_>, superblock: &Superblock, inode: u32, groups: &mut Groups) -> Result<(), Stop> {
    let block_bytes = superblock.block_bytes;
    let Some(runs) = map(volume, superblock, inode, groups)? else { return Ok(()) };
    let Some(first) = runs.first() else { return Err(Stop::damaged("its journal is empty")) };
    let header = read_vec(volume, first.start * block_bytes, 1024)?;
    let mut kept = first_log_block(&header)?;
    for run in runs {
        let bytes = run.start * block_bytes..run.end * block_bytes;
        if !groups.used.covers(&bytes) || groups.metadata.next_from(bytes.start).is_some_and(|other| other.start < bytes.end) {
            return Err(Stop::damaged("its journal lies in blocks that are not its own"));
        }
        let skipped = kept.min(run.end - run.start);
        kept -= skipped;
        groups.unneeded.push(bytes.start + skipped * block_bytes..bytes.end);
    }
    Ok(())
}

/// The blocks of the journal, in the order of the file. `None` when it is too large to be looked at.
fn map(volume: &Part<'_>, superblock: &Superblock, number: u32, groups: &Groups) -> Result<Option<Vec<Range<u64>>>, Stop> {
    let index = u64::from(number - 1);
    let group = (index / superblock.inodes_per_group) as usize;
    let table = groups.inode_tables.get(group).ok_or_else(|| Stop::damaged("its journal's inode is out of range"))?;
    let offset = table * superblock.block_bytes + index % superblock.inodes_per_group * superblock.inode_bytes;
    let inode = read_vec(volume, offset, superblock.inode_bytes as usize)?;
    let flags = le32(&inode, 0x20)?;
    // i_mode: a regular file.
    if le16(&inode, 0)? & 0xf000 != 0x8000 || flags & INLINE_DATA_FLAG != 0 || !superblock.checksums.inode_is_right(number, &inode) {
        return Err(Stop::damaged("its journal's inode is not right"));
    }
    let size_bytes = u64::from(le32(&inode, 4)?) | u64::from(le32(&inode, 0x6c)?) << 32;
    let blocks = size_bytes / superblock.block_bytes;
    if blocks > BLOCKS_MAX {
        return Ok(None);
    }
    let root = slice(&inode, 40, 60)?;
    let mut walk = Walk { volume, superblock, blocks, done: 0, runs: Vec::new() };
    let outcome = if flags & EXTENTS_FLAG != 0 { walk.extents(root, None) } else { walk.block_map(root) };
    if walk.runs.len() >= RUNS_MAX {
        return Ok(None);
    }
    outcome?;
    Ok(Some(walk.runs))
}

/// A walk over the map of a file without holes.
struct Walk<'a> {
    volume: &'a Part<'a>,
    superblock: &'a Superblock,
    /// Blocks of the file.
    blocks: u64,
    /// Blocks that were found.
    done: u64,
    runs: Vec<Range<u64>>,
}

impl Walk<'_> {
    fn damaged() -> Stop {
        Stop::damaged("the map of its journal is not right")
    }

    /// The next blocks of the file.
    fn add(&mut self, start: u64, blocks: u64) -> Result<(), Stop> {
        let end = start.checked_add(blocks).filter(|&end| start >= self.superblock.first_data_block && end <= self.superblock.blocks);
        let end = end.filter(|_| start > 0 && blocks > 0 && blocks <= self.blocks - self.done).ok_or_else(Self::damaged)?;
        self.done += blocks;
        if let Some(last) = self.runs.last_mut().filter(|last| last.end == start) {
            last.end = end;
            return Ok(());
        }
        if self.runs.len() >= RUNS_MAX {
            return Err(Self::damaged());
        }
        self.runs.push(start..end);
        Ok(())
    }

    fn block(&self, number: u64) -> Result<Vec<u8>, Stop> {
        if number == 0 || number >= self.superblock.blocks {
            return Err(Self::damaged());
        }
        read_vec(self.volume, number * self.superblock.block_bytes, self.superblock.block_bytes as usize)
    }

    /// A node of an extent tree. Every leaf adds blocks, of which there is a limited number, so that no tree takes for ever.
    fn extents(&mut self, node: &[u8], depth_expected: Option<u16>) -> Result<(), Stop> {
        let (magic, entries, depth) = (le16(node, 0)?, le16(node, 2)?, le16(node, 6)?);
        if magic != EXTENT_MAGIC || entries == 0 || depth > EXTENT_DEPTH_MAX || depth_expected.is_some_and(|expected| expected != depth) {
            return Err(Self::damaged());
        }
        for entry in 1..=usize::from(entries) {
            let bytes: [u8; 12] = array(node, entry * 12)?;
            if u64::from(le32(&bytes, 0)?) != self.done {
                return Err(Self::damaged());
            }
            if depth == 0 {
                // Above 32768: allocated but not written.
                let length = u64::from(le16(&bytes, 4)?);
                let length = if length > 32768 { length - 32768 } else { length };
                let start = u64::from(le32(&bytes, 8)?) | u64::from(le16(&bytes, 6)?) << 32;
                self.add(start, length)?;
            } else {
                let child = u64::from(le32(&bytes, 4)?) | u64::from(le16(&bytes, 8)?) << 32;
                let child = self.block(child)?;
                self.extents(&child, Some(depth - 1))?;
            }
        }
        Ok(())
    }

    /// The map of ext2 and ext3: twelve blocks, then one of pointers, one of pointers to such, and one of pointers to those.
    fn block_map(&mut self, root: &[u8]) -> Result<(), Stop> {
        for entry in 0..15 {
            if self.done == self.blocks {
                break;
            }
            self.pointer(le32(root, entry * 4)?, entry.saturating_sub(11))?;
        }
        if self.done == self.blocks { Ok(()) } else { Err(Self::damaged()) }
    }

    fn pointer(&mut self, block: u32, depth: usize) -> Result<(), Stop> {
        if depth == 0 {
            return self.add(block.into(), 1);
        }
        let pointers = self.block(block.into())?;
        for entry in 0..pointers.len() / 4 {
            if self.done == self.blocks {
                break;
            }
            self.pointer(le32(&pointers, entry * 4)?, depth - 1)?;
        }
        Ok(())
    }
}
