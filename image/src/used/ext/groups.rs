//! Block groups: their descriptors and block bitmaps.

use std::ops::Range;

use super::superblock::Superblock;
use crate::disk_image::Part;
use crate::used::fields::{self, Stop, le16, le32, read_vec};
use crate::used::{Ranges, bitmap};

/// bg_flags
const INODE_UNINIT: u16 = 0x1;
const BLOCK_UNINIT: u16 = 0x2;

/// What the groups say, in bytes of the volume.
pub(super) struct Groups {
    /// What is allocated.
    pub(super) used: Ranges,
    /// Bitmaps and inode tables.
    pub(super) metadata: Ranges,
    /// Allocated, but without content that counts. In any order.
    pub(super) unneeded: Vec<Range<u64>>,
    /// The inode table of each group, its first block.
    pub(super) inode_tables: Vec<u64>,
}

/// A group's descriptor.
struct Descriptor {
    block_bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    free_clusters: u64,
    unused_inodes: u64,
    flags: u16,
    bitmap_checksum: u32,
    has_whole_checksum: bool,
}

impl Descriptor {
    fn parse(superblock: &Superblock, group: u32, bytes: &[u8]) -> Result<Self, Stop> {
        if !superblock.checksums.descriptor_is_right(group, bytes) {
            return Err(Stop::damaged(format_args!("the descriptor of group {group} has the wrong checksum")));
        }
        let wide = bytes.len() >= 64;
        let wide32 = |low: usize, high: usize| -> Result<u64, Stop> {
            Ok(u64::from(le32(bytes, low)?) | if wide { u64::from(le32(bytes, high)?) << 32 } else { 0 })
        };
        let wide16 = |low: usize, high: usize| -> Result<u32, Stop> {
            Ok(u32::from(le16(bytes, low)?) | if wide { u32::from(le16(bytes, high)?) << 16 } else { 0 })
        };
        let has_flags = superblock.checksums.have_uninitialised();
        Ok(Self {
            block_bitmap: wide32(0, 0x20)?,
            inode_bitmap: wide32(4, 0x24)?,
            inode_table: wide32(8, 0x28)?,
            free_clusters: wide16(0xc, 0x2c)?.into(),
            unused_inodes: if has_flags { wide16(0x1c, 0x32)?.into() } else { 0 },
            flags: if has_flags { le16(bytes, 0x12)? } else { 0 },
            bitmap_checksum: wide16(0x18, 0x38)?,
            has_whole_checksum: wide,
        })
    }

    /// Block bitmap, inode bitmap and inode table, as blocks.
    fn metadata(&self, superblock: &Superblock) -> Result<[Range<u64>; 3], Stop> {
        let run = |start: u64, blocks: u64| {
            let end = start.checked_add(blocks).filter(|&end| start > superblock.first_data_block && end <= superblock.blocks);
            end.map(|end| start..end).ok_or_else(|| Stop::damaged("a bitmap or inode table is out of range"))
        };
        Ok([run(self.block_bitmap, 1)?, run(self.inode_bitmap, 1)?, run(self.inode_table, superblock.inode_table_blocks())?])
    }
}

/// Reads all groups. Each has a descriptor of 32 bytes or more and bitmaps of its own, so that time and memory are in proportion to what the
/// volume really holds.
pub(super) fn read(volume: &Part<'_>, superblock: &Superblock) -> Result<Groups, Stop> {
    let block_bytes = superblock.block_bytes;
    let mut found = Groups { used: Ranges::default(), metadata: Ranges::default(), unneeded: Vec::new(), inode_tables: Vec::new() };
    // The boot block; without bigalloc and with 1 KiB blocks it is in no group.
    found.used.push(0..superblock.first_data_block.max(1) * block_bytes);
    let mut metadata = Vec::new();
    let mut bitmap = vec![0; block_bytes as usize];
    for number in 0..superblock.descriptor_blocks() {
        let at = superblock.descriptor_block(number);
        if at >= superblock.blocks {
            return Err(Stop::damaged("its group descriptors are out of range"));
        }
        metadata.push(at..at + 1);
        let descriptors = read_vec(volume, at * block_bytes, block_bytes as usize)?;
        let first = number * superblock.descriptors_per_block();
        let groups = first as u32..superblock.groups;
        for (group, bytes) in groups.zip(descriptors.chunks_exact(superblock.descriptor_bytes as usize)) {
            let descriptor = Descriptor::parse(superblock, group, bytes)?;
            let own = descriptor.metadata(superblock)?;
            add_group(volume, superblock, group, &descriptor, &own, &mut bitmap, &mut found.used)?;
            note_unneeded(superblock, &descriptor, &mut found.unneeded);
            found.inode_tables.push(descriptor.inode_table);
            metadata.extend(own);
        }
    }
    let blocks: u64 = metadata.iter().map(|run| run.end - run.start).sum();
    found.metadata = metadata.into_iter().map(|run| run.start * block_bytes..run.end * block_bytes).collect();
    if found.metadata.bytes() != blocks * block_bytes {
        return Err(Stop::damaged("bitmaps or inode tables overlap"));
    }
    if !found.metadata.iter().all(|range| found.used.covers(&range)) {
        return Err(Stop::damaged("bitmaps or inode tables lie in free blocks"));
    }
    Ok(found)
}

/// Adds the allocated clusters of one group, and checks their number.
fn add_group(
    volume: &Part<'_>,
    superblock: &Superblock,
    group: u32,
    descriptor: &Descriptor,
    own: &[Range<u64>; 3],
    bitmap: &mut [u8],
    used: &mut Ranges,
) -> Result<(), Stop> {
    let start = superblock.group_start(group);
    let end = (start + superblock.blocks_per_group).min(superblock.blocks);
    let clusters = (end - start).div_ceil(superblock.cluster_blocks);
    let mut used_clusters = 0;
    let mut add = |run: Range<u64>| {
        used_clusters += run.end - run.start;
        let block = |cluster: u64| (start + cluster * superblock.cluster_blocks).min(end);
        used.push(block(run.start) * superblock.block_bytes..block(run.end) * superblock.block_bytes);
    };
    if descriptor.flags & BLOCK_UNINIT != 0 {
        // There is only metadata in it (fs/ext4/balloc.c, `ext4_init_block_bitmap`).
        let leading = start..(start + superblock.leading_blocks(group)).min(end);
        let within = own.iter().map(|run| run.start.max(start)..run.end.min(end)).filter(|run| !run.is_empty());
        let in_clusters =
            |run: Range<u64>| (run.start - start) / superblock.cluster_blocks..(run.end - start).div_ceil(superblock.cluster_blocks);
        let runs: Ranges = within.chain([leading]).map(in_clusters).filter(|run| !run.is_empty()).collect();
        runs.iter().for_each(&mut add);
    } else {
        fields::read(volume, descriptor.block_bitmap * superblock.block_bytes, bitmap)?;
        let checked = bitmap.get(..(superblock.blocks_per_group / superblock.cluster_blocks / 8) as usize).unwrap_or_default();
        if !superblock.checksums.bitmap_is_right(checked, descriptor.bitmap_checksum, descriptor.has_whole_checksum) {
            return Err(Stop::damaged(format_args!("the block bitmap of group {group} has the wrong checksum")));
        }
        bitmap::runs(bitmap, clusters).for_each(&mut add);
    }
    if used_clusters + descriptor.free_clusters != clusters {
        return Err(Stop::damaged(format_args!("the block bitmap of group {group} does not agree with its count of free blocks")));
    }
    Ok(())
}

/// What of a group's metadata was never initialised: nobody reads it, and it may hold what was there before. It restores as zeros.
fn note_unneeded(superblock: &Superblock, descriptor: &Descriptor, unneeded: &mut Vec<Range<u64>>) {
    let block_bytes = superblock.block_bytes;
    let block = |number: u64| number * block_bytes..(number + 1) * block_bytes;
    if descriptor.flags & BLOCK_UNINIT != 0 {
        unneeded.push(block(descriptor.block_bitmap));
    }
    let mut unused_inodes = descriptor.unused_inodes.min(superblock.inodes_per_group);
    if descriptor.flags & INODE_UNINIT != 0 {
        unneeded.push(block(descriptor.inode_bitmap));
        unused_inodes = superblock.inodes_per_group;
    }
    if unused_inodes > 0 {
        let table = descriptor.inode_table * block_bytes;
        let used_bytes = (superblock.inodes_per_group - unused_inodes) * superblock.inode_bytes;
        unneeded.push(table + used_bytes..table + superblock.inode_table_blocks() * block_bytes);
    }
}
