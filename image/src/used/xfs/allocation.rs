//! The free blocks of an allocation group: its header (AGF), the free-space tree by block number (bnobt) and the free list (AGFL).

use std::ops::Range;

use super::super::fields::{Stop, array, be16, be32, be64, read_vec};
use super::superblock::{Superblock, check_sum};
use crate::disk_image::Part;

/// `XFS_BTREE_MAXLEVELS`.
const LEVELS_MAX: u32 = 9;
/// Bytes of a record (start, length), and of a key.
const RECORD_BYTES: usize = 8;
/// Bytes of a pointer to a block of the group.
const POINTER_BYTES: usize = 4;

/// Free runs of blocks of a group, ascending, without overlap. The blocks of the free list are among them: they are set aside for the trees, and
/// what they hold is never read.
pub(super) fn free_blocks(volume: &Part<'_>, superblock: &Superblock, group: u32) -> Result<Vec<Range<u32>>, Stop> {
    let header = Header::read(volume, superblock, group)?;
    let mut walk = Walk { volume, superblock, group, header: &header, free: Vec::new(), free_count: 0, longest: 0 };
    walk.node(header.tree_root, header.tree_levels - 1, None)?;
    if walk.free_count != header.free_count || walk.longest != header.longest {
        return Err(Stop::damaged(format_args!(
            "the free-space tree of allocation group {group} does not have the extents its header counts"
        )));
    }
    let mut free = walk.free;
    let list = free_list(volume, superblock, group, &header)?;
    if !list.is_empty() {
        free.extend(list.into_iter().map(|block| block..block + 1));
        free.sort_unstable_by_key(|run| run.start);
        if free.windows(2).any(|pair| matches!(pair, [one, next] if one.end > next.start)) {
            return Err(Stop::damaged(format_args!("a block of the free list of allocation group {group} is free as well")));
        }
    }
    let in_tree = |block: u32| free.get(free.partition_point(|run| run.end <= block)).is_some_and(|run| run.contains(&block));
    if in_tree(header.tree_root) {
        return Err(Stop::damaged(format_args!("the free-space tree of allocation group {group} is in free space")));
    }
    Ok(free)
}

/// What the AGF says.
struct Header {
    blocks: u32,
    tree_root: u32,
    tree_levels: u32,
    list_first: u32,
    list_last: u32,
    list_count: u32,
    free_count: u32,
    longest: u32,
}

impl Header {
    fn read(volume: &Part<'_>, superblock: &Superblock, group: u32) -> Result<Self, Stop> {
        let sector = superblock.sector_bytes;
        let bytes = read_vec(volume, superblock.group_start(group) + sector as u64, sector)?;
        let header = Self {
            blocks: be32(&bytes, 12)?,
            tree_root: be32(&bytes, 16)?,
            tree_levels: be32(&bytes, 28)?,
            list_first: be32(&bytes, 40)?,
            list_last: be32(&bytes, 44)?,
            list_count: be32(&bytes, 48)?,
            free_count: be32(&bytes, 52)?,
            longest: be32(&bytes, 56)?,
        };
        if superblock.checksums {
            check_sum(&bytes, 216, "AGF")?;
        }
        let sound = bytes.starts_with(b"XAGF")
            && be32(&bytes, 4)? == 1
            && be32(&bytes, 8)? == group
            && (!superblock.checksums || array(&bytes, 64)? == superblock.metadata_uuid)
            && header.blocks == superblock.group_blocks(group)
            && (1..=LEVELS_MAX).contains(&header.tree_levels);
        if sound { Ok(header) } else { Err(Stop::damaged(format_args!("the header of allocation group {group} is wrong"))) }
    }
}

/// The blocks of the free list: a ring of block numbers in the fourth sector.
fn free_list(volume: &Part<'_>, superblock: &Superblock, group: u32, header: &Header) -> Result<Vec<u32>, Stop> {
    let damaged = || Stop::damaged(format_args!("the free list of allocation group {group} is wrong"));
    let sector = superblock.sector_bytes;
    let bytes = read_vec(volume, superblock.group_start(group) + 3 * sector as u64, sector)?;
    let start = if superblock.checksums {
        check_sum(&bytes, 32, "free list")?;
        if !bytes.starts_with(b"XAFL") || be32(&bytes, 4)? != group || array(&bytes, 8)? != superblock.metadata_uuid {
            return Err(damaged());
        }
        36
    } else {
        0
    };
    let places = ((sector - start) / 4) as u32;
    let (first, last, count) = (header.list_first, header.list_last, header.list_count);
    if first >= places || last >= places || count > places {
        return Err(damaged());
    }
    // An empty list has its last place right before the first.
    if (first + count + places - 1) % places != last {
        return Err(damaged());
    }
    let blocks = (0..count).map(|number| be32(&bytes, start + 4 * ((first + number) % places) as usize));
    let blocks = blocks.collect::<Result<Vec<u32>, Stop>>()?;
    if blocks.iter().any(|block| !(superblock.header_blocks()..header.blocks).contains(block)) {
        return Err(damaged());
    }
    Ok(blocks)
}

/// A walk over the tree from left to right. It ends: every leaf has a record, and records have to ascend.
struct Walk<'a> {
    volume: &'a Part<'a>,
    superblock: &'a Superblock,
    group: u32,
    header: &'a Header,
    free: Vec<Range<u32>>,
    free_count: u32,
    longest: u32,
}

impl Walk<'_> {
    fn damaged(&self) -> Stop {
        Stop::damaged(format_args!("the free-space tree of allocation group {} is wrong", self.group))
    }

    /// Visits a block of the tree and what is below it. Its first key is the one that led to it.
    fn node(&mut self, block: u32, level: u32, key: Option<u32>) -> Result<(), Stop> {
        let superblock = self.superblock;
        if !(superblock.header_blocks()..self.header.blocks).contains(&block) {
            return Err(self.damaged());
        }
        let offset = superblock.group_start(self.group) + u64::from(block) * superblock.block_bytes();
        // At most 64 KiB.
        let block_bytes = superblock.block_bytes() as usize;
        let bytes = read_vec(self.volume, offset, block_bytes)?;
        let head_bytes = self.check_node(&bytes, offset, level)?;
        let records = usize::from(be16(&bytes, 6)?);
        let room = block_bytes - head_bytes;
        if level == 0 {
            // Only a root may be empty: a group without free space.
            if records > room / RECORD_BYTES || records == 0 && key.is_some() {
                return Err(self.damaged());
            }
            for record in 0..records {
                let at = head_bytes + record * RECORD_BYTES;
                let start = be32(&bytes, at)?;
                if record == 0 && key.is_some_and(|key| key != start) {
                    return Err(self.damaged());
                }
                self.record(start, be32(&bytes, at + 4)?)?;
            }
            return Ok(());
        }
        let records_max = room / (RECORD_BYTES + POINTER_BYTES);
        if records == 0 || records > records_max {
            return Err(self.damaged());
        }
        for record in 0..records {
            let child_key = be32(&bytes, head_bytes + record * RECORD_BYTES)?;
            if record == 0 && key.is_some_and(|key| key != child_key) {
                return Err(self.damaged());
            }
            let pointer = be32(&bytes, head_bytes + records_max * RECORD_BYTES + record * POINTER_BYTES)?;
            self.node(pointer, level - 1, Some(child_key))?;
        }
        Ok(())
    }

    /// Checks the head of a block of the tree and returns its length.
    fn check_node(&self, bytes: &[u8], offset: u64, level: u32) -> Result<usize, Stop> {
        let superblock = self.superblock;
        let sound = u32::from(be16(bytes, 4)?) == level
            && if superblock.checksums {
                check_sum(bytes, 52, "free-space tree")?;
                bytes.starts_with(b"AB3B")
                    && be64(bytes, 16)? == offset / 512
                    && array(bytes, 32)? == superblock.metadata_uuid
                    && be32(bytes, 48)? == self.group
            } else {
                bytes.starts_with(b"ABTB")
            };
        if !sound {
            return Err(self.damaged());
        }
        Ok(if superblock.checksums { 56 } else { 16 })
    }

    fn record(&mut self, start: u32, length: u32) -> Result<(), Stop> {
        let after_last = self.free.last().map_or(self.superblock.header_blocks(), |run| run.end);
        let end = start.checked_add(length).filter(|end| length > 0 && start >= after_last && *end <= self.header.blocks);
        let end = end.ok_or_else(|| self.damaged())?;
        self.free.push(start..end);
        // Within the group's blocks, since the runs do not overlap.
        self.free_count += length;
        self.longest = self.longest.max(length);
        Ok(())
    }
}
