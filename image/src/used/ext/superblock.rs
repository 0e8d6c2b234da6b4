//! The superblock: geometry, features, and whether the filesystem is clean. What is not known to be harmless stops the reader.

use super::checksum::{Checksums, crc16};
use crate::Result;
use crate::disk_image::{DiskImage, Part};
use crate::used::crc32c;
use crate::used::fields::{Stop, array, be32, le16, le32, le64, read_vec, slice};

/// Where the superblock is, whatever the block size, and its bytes.
const OFFSET: u64 = 1024;
const BYTES: usize = 1024;

/// Features that are named here. (s_feature_compat, s_feature_incompat, s_feature_ro_compat)
mod feature {
    pub(super) const HAS_JOURNAL: u32 = 0x4;
    pub(super) const SPARSE_SUPER2: u32 = 0x200;
    /// dir_prealloc, imagic_inodes, has_journal, ext_attr, resize_inode, dir_index, sparse_super2, fast_commit, stable_inodes, orphan_file.
    pub(super) const COMPAT_KNOWN: u32 = 0x1e3f;

    pub(super) const RECOVER: u32 = 0x4;
    pub(super) const JOURNAL_DEVICE: u32 = 0x8;
    pub(super) const META_BG: u32 = 0x10;
    pub(super) const BITS_64: u32 = 0x80;
    pub(super) const MMP: u32 = 0x100;
    pub(super) const CSUM_SEED: u32 = 0x2000;
    /// filetype, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, metadata_csum_seed, largedir, inline_data, encrypt, casefold.
    pub(super) const INCOMPAT_KNOWN: u32 = 0x3e7d2;

    pub(super) const SPARSE_SUPER: u32 = 0x1;
    pub(super) const GDT_CSUM: u32 = 0x10;
    pub(super) const BIGALLOC: u32 = 0x200;
    pub(super) const METADATA_CSUM: u32 = 0x400;
    pub(super) const ORPHAN_PRESENT: u32 = 0x10000;
    /// sparse_super, large_file, huge_file, gdt_csum, dir_nlink, extra_isize, quota, bigalloc, metadata_csum, read-only, project, shared_blocks,
    /// verity.
    pub(super) const RO_COMPAT_KNOWN: u32 = 0xf77b;
    /// Those of incompat and ro_compat that ext3 has too: filetype, recover, journal_dev, meta_bg; sparse_super, large_file.
    pub(super) const EXT3_INCOMPAT: u32 = 0x1e;
    pub(super) const EXT3_RO_COMPAT: u32 = 0x3;
}

/// In which groups the superblock and the descriptors are repeated.
enum Backups {
    All,
    /// Groups 0 and 1 and the powers of 3, 5 and 7.
    Sparse,
    /// Group 0 and these two.
    Two([u32; 2]),
}

/// What of the superblock the reader needs, checked.
pub(super) struct Superblock {
    pub(super) block_bytes: u64,
    pub(super) blocks: u64,
    /// 1 when blocks are of 1 KiB (the boot block is outside of all groups), else 0.
    pub(super) first_data_block: u64,
    pub(super) blocks_per_group: u64,
    /// Blocks for which a bit of the bitmaps stands: more than 1 with bigalloc.
    pub(super) cluster_blocks: u64,
    pub(super) inodes_per_group: u64,
    pub(super) inode_bytes: u64,
    pub(super) groups: u32,
    pub(super) descriptor_bytes: u64,
    pub(super) checksums: Checksums,
    /// The inode of the journal, when it is in the filesystem.
    pub(super) journal_inode: Option<u32>,
    reserved_descriptor_blocks: u64,
    /// Blocks of descriptors that stand together after the superblock; the others are spread over their groups (meta_bg).
    first_meta_group: Option<u64>,
    backups: Backups,
    /// The block of multiple-mount protection.
    mmp_block: Option<u64>,
}

/// The bytes of the superblock, if there is one.
pub(super) fn read(volume: &Part<'_>) -> Result<Option<[u8; BYTES]>> {
    let mut bytes = [0; BYTES];
    if volume.size_bytes() < OFFSET + BYTES as u64 {
        return Ok(None);
    }
    volume.read_at(OFFSET, &mut bytes)?;
    Ok((bytes[0x38..0x3a] == [0x53, 0xef]).then_some(bytes))
}

/// The name by which the filesystem is mounted.
pub(super) fn name(bytes: &[u8; BYTES]) -> &'static str {
    let at = |at| le32(bytes, at).unwrap_or(0);
    let (compat, incompat, ro_compat) = (at(0x5c), at(0x60), at(0x64));
    match (compat & feature::HAS_JOURNAL, incompat & !feature::EXT3_INCOMPAT, ro_compat & !feature::EXT3_RO_COMPAT) {
        (0, 0, 0) => "ext2",
        (_, 0, 0) => "ext3",
        _ => "ext4",
    }
}

impl Superblock {
    /// Checks everything that later arithmetic relies on: no sum or product of these fields overflows 64 bits.
    pub(super) fn parse(bytes: &[u8; BYTES], volume_bytes: u64) -> Result<Self, Stop> {
        let revision = le32(bytes, 0x4c)?;
        let features = |at| if revision == 0 { Ok(0) } else { le32(bytes, at) };
        let (compat, incompat, ro_compat) = (features(0x5c)?, features(0x60)?, features(0x64)?);
        let has = |features: u32, feature: u32| features & feature != 0;
        let metadata_csum = has(ro_compat, feature::METADATA_CSUM);
        if metadata_csum && (bytes[0x175] != 1 || crc32c::update(!0, slice(bytes, 0, 0x3fc)?) != le32(bytes, 0x3fc)?) {
            return Err(Stop::damaged("its superblock has the wrong checksum"));
        }
        if has(incompat, feature::JOURNAL_DEVICE) {
            return Err(Stop::unknown("it is another filesystem's journal"));
        }
        if has(incompat, feature::RECOVER) {
            return Err(Stop::Whole(
                "its journal has to be replayed: it is mounted, or was not cleanly unmounted; e2fsck -p repairs it".into(),
            ));
        }
        let state = le16(bytes, 0x3a)?;
        if state & 1 == 0 || state & !1 != 0 {
            return Err(Stop::Whole("it was not cleanly unmounted or has errors; e2fsck -p repairs it".into()));
        }
        if le32(bytes, 0xe8)? != 0 || has(ro_compat, feature::ORPHAN_PRESENT) {
            return Err(Stop::Whole("it has deleted files that are still open; e2fsck -p removes them".into()));
        }
        for (which, unknown) in [
            ("compatible", compat & !feature::COMPAT_KNOWN),
            ("incompatible", incompat & !feature::INCOMPAT_KNOWN),
            ("read-only compatible", ro_compat & !feature::RO_COMPAT_KNOWN & !feature::ORPHAN_PRESENT),
        ] {
            if unknown != 0 {
                return Err(Stop::unknown(format_args!("it has the {which} features {unknown:#x}")));
            }
        }

        let wide = has(incompat, feature::BITS_64);
        let geometry = || Stop::damaged("its superblock describes an impossible layout");
        let sound = |sound: bool| if sound { Ok(()) } else { Err(geometry()) };
        let log_block_bytes = le32(bytes, 0x18)?;
        sound(log_block_bytes <= 6)?;
        let block_bytes = 1024u64 << log_block_bytes;
        let blocks = u64::from(le32(bytes, 0x4)?) | if wide { u64::from(le32(bytes, 0x150)?) << 32 } else { 0 };
        let first_data_block = u64::from(le32(bytes, 0x14)?);
        let size_bytes = blocks.checked_mul(block_bytes).ok_or_else(geometry)?;
        if size_bytes > volume_bytes {
            return Err(Stop::damaged(format_args!("it has {size_bytes} bytes, its partition {volume_bytes}")));
        }
        let bigalloc = has(ro_compat, feature::BIGALLOC);
        let log_cluster_bytes = if bigalloc { le32(bytes, 0x1c)? } else { log_block_bytes };
        sound((log_block_bytes..=20).contains(&log_cluster_bytes))?;
        let cluster_blocks = 1u64 << (log_cluster_bytes - log_block_bytes);
        let blocks_per_group = u64::from(le32(bytes, 0x20)?);
        let clusters_per_group = if bigalloc { u64::from(le32(bytes, 0x24)?) } else { blocks_per_group };
        let inodes_per_group = u64::from(le32(bytes, 0x28)?);
        // mke2fs makes groups of at least 256 blocks; a bitmap is one block.
        sound((256..=block_bytes * 8).contains(&clusters_per_group) && clusters_per_group.is_multiple_of(8))?;
        sound(blocks_per_group == clusters_per_group * cluster_blocks)?;
        sound((1..=block_bytes * 8).contains(&inodes_per_group))?;
        let expected_first = u64::from(block_bytes == 1024 && !bigalloc);
        sound(first_data_block == expected_first && blocks > first_data_block)?;
        let inode_bytes = if revision == 0 { 128 } else { u64::from(le16(bytes, 0x58)?) };
        sound(inode_bytes.is_power_of_two() && (128..=block_bytes).contains(&inode_bytes))?;
        let descriptor_bytes = if wide { u64::from(le16(bytes, 0xfe)?) } else { 32 };
        sound(descriptor_bytes.is_power_of_two() && (32..=1024).contains(&descriptor_bytes) && (!wide || descriptor_bytes >= 64))?;
        let groups = u32::try_from((blocks - first_data_block).div_ceil(blocks_per_group)).map_err(|_| geometry())?;
        sound(u64::from(le32(bytes, 0)?) == u64::from(groups) * inodes_per_group)?;

        let uuid: [u8; 16] = array(bytes, 0x68)?;
        let checksums = match () {
            () if metadata_csum && has(incompat, feature::CSUM_SEED) => Checksums::Crc32c(le32(bytes, 0x270)?),
            () if metadata_csum => Checksums::Crc32c(crc32c::update(!0, &uuid)),
            () if has(ro_compat, feature::GDT_CSUM) => Checksums::Crc16(crc16(!0, &uuid)),
            () => Checksums::None,
        };
        let backups = match () {
            () if has(compat, feature::SPARSE_SUPER2) => Backups::Two([le32(bytes, 0x24c)?, le32(bytes, 0x250)?]),
            () if has(ro_compat, feature::SPARSE_SUPER) => Backups::Sparse,
            () => Backups::All,
        };
        let journal = le32(bytes, 0xe0)?;
        Ok(Self {
            block_bytes,
            blocks,
            first_data_block,
            blocks_per_group,
            cluster_blocks,
            inodes_per_group,
            inode_bytes,
            groups,
            descriptor_bytes,
            checksums,
            journal_inode: (has(compat, feature::HAS_JOURNAL) && journal != 0).then_some(journal),
            reserved_descriptor_blocks: le16(bytes, 0xce)?.into(),
            first_meta_group: if has(incompat, feature::META_BG) { Some(le32(bytes, 0x104)?.into()) } else { None },
            backups,
            mmp_block: if has(incompat, feature::MMP) { Some(le64(bytes, 0x168)?) } else { None },
        })
    }

    /// Multiple-mount protection: another machine may have it mounted (fs/ext4/mmp.c).
    pub(super) fn check_not_in_use(&self, volume: &Part<'_>) -> Result<(), Stop> {
        const MAGIC: u32 = 0x004d_4d50;
        const CLEAN: u32 = 0xff4d_4d50;
        let Some(block) = self.mmp_block else { return Ok(()) };
        if block >= self.blocks {
            return Err(Stop::damaged("its block of multiple-mount protection is out of range"));
        }
        let bytes = read_vec(volume, block * self.block_bytes, 8)?;
        if le32(&bytes, 0)? != MAGIC || le32(&bytes, 4)? != CLEAN {
            return Err(Stop::Whole("its multiple-mount protection says that it is in use".into()));
        }
        Ok(())
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.blocks * self.block_bytes
    }

    pub(super) fn descriptors_per_block(&self) -> u64 {
        self.block_bytes / self.descriptor_bytes
    }

    /// Blocks of descriptors.
    pub(super) fn descriptor_blocks(&self) -> u64 {
        u64::from(self.groups).div_ceil(self.descriptors_per_block())
    }

    pub(super) fn inode_table_blocks(&self) -> u64 {
        (self.inodes_per_group * self.inode_bytes).div_ceil(self.block_bytes)
    }

    pub(super) fn group_start(&self, group: u32) -> u64 {
        self.first_data_block + u64::from(group) * self.blocks_per_group
    }

    /// The block that holds the superblock.
    fn superblock_block(&self) -> u64 {
        OFFSET / self.block_bytes
    }

    /// Where a block of descriptors is (fs/ext4/super.c, `descriptor_loc`). May be out of range.
    pub(super) fn descriptor_block(&self, number: u64) -> u64 {
        if self.first_meta_group.is_none_or(|first| number < first) {
            return self.superblock_block() + 1 + number;
        }
        let group = (number * self.descriptors_per_block()) as u32;
        // With 1 KiB blocks and bigalloc the superblock is block 1 of group 0, not block 0.
        let shift = u64::from(self.block_bytes == 1024 && number == 0 && self.first_data_block == 0);
        self.group_start(group) + u64::from(self.has_superblock(group)) + shift
    }

    /// Blocks that the superblock and the descriptors take at the beginning of a group (fs/ext4/balloc.c, `ext4_num_base_meta_blocks`).
    pub(super) fn leading_blocks(&self, group: u32) -> u64 {
        let superblocks = u64::from(self.has_superblock(group));
        let per_block = self.descriptors_per_block();
        let meta_group = u64::from(group) / per_block;
        match self.first_meta_group {
            Some(first) if meta_group >= first => {
                let place = u64::from(group) % per_block;
                superblocks + u64::from(place <= 1 || place == per_block - 1)
            }
            first if superblocks > 0 => superblocks + first.unwrap_or(self.descriptor_blocks()) + self.reserved_descriptor_blocks,
            _ => 0,
        }
    }

    fn has_superblock(&self, group: u32) -> bool {
        let is_power =
            |base: u32| (1..).map_while(|exponent| base.checked_pow(exponent)).take_while(|power| *power <= group).any(|p| p == group);
        match self.backups {
            Backups::All => true,
            Backups::Sparse => group <= 1 || [3, 5, 7].into_iter().any(is_power),
            Backups::Two(groups) => group == 0 || groups.contains(&group),
        }
    }
}

/// The journal's own superblock: where its log begins, if it is clean.
pub(super) fn first_log_block(bytes: &[u8]) -> Result<u64, Stop> {
    // include/linux/jbd2.h, journal_superblock_t; big-endian. Kind 3 is version 1, 4 is version 2.
    let (magic, kind, start, error) = (be32(bytes, 0)?, be32(bytes, 4)?, be32(bytes, 0x1c)?, be32(bytes, 0x20)?);
    if magic != 0xc03b_3998 || !(3..=4).contains(&kind) {
        return Err(Stop::damaged("its journal has no superblock"));
    }
    if start != 0 || error != 0 {
        return Err(Stop::Whole("its journal is not empty; e2fsck -p repairs it".into()));
    }
    Ok(be32(bytes, 0x14)?.max(1).into())
}
