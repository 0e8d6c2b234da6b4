//! The superblock of XFS: sizes, and the features that decide whether the rest is understood.

use std::ops::Range;

use super::super::crc32c;
use super::super::fields::{Stop, array, be16, be32, be64, le32, read, read_vec, slice, u8_at};
use crate::disk_image::{DiskImage, Part};

/// Bits of `sb_versionnum`.
mod version {
    pub(super) const NUMBER: u16 = 0x000f;
    pub(super) const LOG_V2: u16 = 0x0400;
    pub(super) const MORE_BITS: u16 = 0x8000;
}

/// `sb_features2` of version 4: all that Linux ever defined (lazy counters, attr2, parent, projid32, ftype). The CRC bit, 0x100, is version 5's.
const FEATURES2_KNOWN: u32 = 0x0000_029a;
/// `sb_features_ro_compat`: finobt, rmapbt, reflink, inobtcount. None of them moves the free-space trees.
const RO_COMPAT_KNOWN: u32 = 0x0f;
/// `sb_features_incompat`: ftype, sparse inodes, metadata UUID, bigtime, nrext64, exchange-range, parent pointers, metadata directory.
const INCOMPAT_KNOWN: u32 = 0x1ef;
const INCOMPAT_META_UUID: u32 = 0x04;
const INCOMPAT_NEEDS_REPAIR: u32 = 0x10;
/// Zoned data sections live on a realtime device, perhaps within this one.
const INCOMPAT_ZONED: u32 = 0x200;
/// `sb_features_log_incompat`: logged extended attributes. The log's own check decides whether they matter.
const LOG_INCOMPAT_KNOWN: u32 = 0x01;

/// What of the superblock the reader needs.
pub(super) struct Superblock {
    /// Version 5: metadata carries checksums, owner and UUID.
    pub(super) checksums: bool,
    /// Version 2 of the log.
    pub(super) log_v2: bool,
    block_log: u32,
    blocks: u64,
    group_size_blocks: u32,
    group_block_log: u32,
    /// How many allocation groups there are.
    pub(super) group_count: u32,
    /// Bytes of a sector: a group begins with four of them, superblock, AGF, AGI and AGFL.
    pub(super) sector_bytes: usize,
    /// In the log's record headers.
    pub(super) uuid: [u8; 16],
    /// In version 5's metadata.
    pub(super) metadata_uuid: [u8; 16],
    log_start: u64,
    /// Length of the log.
    pub(super) log_blocks: u32,
}

/// Whether the volume begins with the magic of XFS.
pub(super) fn recognised(volume: &Part<'_>) -> Result<bool, Stop> {
    let mut magic = [0; 4];
    read(volume, 0, &mut magic)?;
    Ok(&magic == b"XFSB")
}

impl Superblock {
    /// Reads and checks it.
    pub(super) fn read(volume: &Part<'_>) -> Result<Self, Stop> {
        // As long as the fields that are looked at; the checksum needs the sector's length first.
        let head = read_vec(volume, 0, 512)?;
        let version = be16(&head, 100)?;
        let sector_bytes = usize::from(be16(&head, 102)?);
        if !(512..=32768).contains(&sector_bytes) || !sector_bytes.is_power_of_two() {
            return Err(Stop::damaged(format_args!("its sectors have {sector_bytes} bytes")));
        }
        let uuid = array(&head, 32)?;
        let mut metadata_uuid = uuid;
        let checksums = match version & version::NUMBER {
            4 => {
                let features2 = if version & version::MORE_BITS != 0 { be32(&head, 200)? } else { 0 };
                if features2 & !FEATURES2_KNOWN != 0 {
                    return Err(Stop::unknown(format_args!("it has features {:#x}", features2 & !FEATURES2_KNOWN)));
                }
                false
            }
            5 => {
                let sector = read_vec(volume, 0, sector_bytes)?;
                check_sum(&sector, 224, "superblock")?;
                if check_features(&head)? & INCOMPAT_META_UUID != 0 {
                    metadata_uuid = array(&head, 248)?;
                }
                true
            }
            other => return Err(Stop::unknown(format_args!("it has version {other}"))),
        };
        if u8_at(&head, 126)? != 0 {
            return Err(Stop::Whole("mkfs.xfs did not finish it".into()));
        }
        if be64(&head, 16)? != 0 || be32(&head, 96)? != 0 && be64(&head, 48)? == 0 {
            return Err(Stop::Whole("it has a realtime device or an external log".into()));
        }
        let superblock = Self {
            checksums,
            log_v2: version & version::LOG_V2 != 0,
            block_log: u8_at(&head, 120)?.into(),
            blocks: be64(&head, 8)?,
            group_size_blocks: be32(&head, 84)?,
            group_block_log: u8_at(&head, 124)?.into(),
            group_count: be32(&head, 88)?,
            sector_bytes,
            uuid,
            metadata_uuid,
            log_start: be64(&head, 48)?,
            log_blocks: be32(&head, 96)?,
        };
        superblock.check_geometry(be32(&head, 4)?, volume.size_bytes())?;
        Ok(superblock)
    }

    /// The rules of `xfs_validate_sb_common` that the arithmetic below counts on.
    fn check_geometry(&self, block_bytes: u32, volume_bytes: u64) -> Result<(), Stop> {
        let sound = (9..=16).contains(&self.block_log)
            && block_bytes == 1 << self.block_log
            && self.sector_bytes as u64 <= self.block_bytes()
            && self.group_size_blocks >= 64
            && u64::from(self.group_size_blocks) * self.block_bytes() <= 1 << 40
            && self.group_block_log <= 31
            && self.group_size_blocks.next_power_of_two() == 1 << self.group_block_log
            && self.blocks.div_ceil(self.group_size_blocks.into()) == u64::from(self.group_count)
            && self.blocks > 0
            && self.log_blocks > 0;
        if !sound {
            return Err(Stop::damaged("the sizes in its superblock contradict each other"));
        }
        if self.blocks.checked_mul(self.block_bytes()).is_none_or(|size| size > volume_bytes) {
            return Err(Stop::damaged(format_args!("it says that it has {} blocks, the volume is smaller", self.blocks)));
        }
        if self.header_blocks() >= self.group_blocks(self.group_count - 1) {
            return Err(Stop::damaged("its last allocation group is too small"));
        }
        let (group, block) = (self.log_start >> self.group_block_log, self.log_start & ((1 << self.group_block_log) - 1));
        let inside = u32::try_from(group)
            .is_ok_and(|group| group < self.group_count && block + u64::from(self.log_blocks) <= self.group_blocks(group).into());
        if inside { Ok(()) } else { Err(Stop::damaged("its log lies outside of its allocation group")) }
    }

    pub(super) fn block_bytes(&self) -> u64 {
        1 << self.block_log
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.blocks * self.block_bytes()
    }

    /// Where a group begins, in bytes.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        u64::from(group) * u64::from(self.group_size_blocks) * self.block_bytes()
    }

    /// How many blocks a group has: the last one may be shorter.
    pub(super) fn group_blocks(&self, group: u32) -> u32 {
        let left = self.blocks - u64::from(group) * u64::from(self.group_size_blocks);
        u32::try_from(left).unwrap_or(u32::MAX).min(self.group_size_blocks)
    }

    /// A group begins with these: superblock, AGF, AGI, AGFL. The rest of their last block is nobody's.
    pub(super) fn header_bytes(&self) -> u64 {
        4 * self.sector_bytes as u64
    }

    /// Blocks that hold [`Self::header_bytes`].
    pub(super) fn header_blocks(&self) -> u32 {
        // At most 4 × 32 KiB over 512 bytes.
        self.header_bytes().div_ceil(self.block_bytes()) as u32
    }

    /// The bytes of the log.
    pub(super) fn log_range(&self) -> Range<u64> {
        let group = self.log_start >> self.group_block_log;
        let block = self.log_start & ((1 << self.group_block_log) - 1);
        let start = (group * u64::from(self.group_size_blocks) + block) * self.block_bytes();
        start..start + u64::from(self.log_blocks) * self.block_bytes()
    }
}

/// Refuses what is not known; returns the incompatible features.
fn check_features(head: &[u8]) -> Result<u32, Stop> {
    let incompatible = be32(head, 216)?;
    if incompatible & INCOMPAT_NEEDS_REPAIR != 0 {
        return Err(Stop::Whole("it asks for xfs_repair".into()));
    }
    if incompatible & INCOMPAT_ZONED != 0 {
        return Err(Stop::Whole("it has a zoned realtime section".into()));
    }
    for (kind, found, known) in [
        ("read-only compatible", be32(head, 212)?, RO_COMPAT_KNOWN),
        ("incompatible", incompatible, INCOMPAT_KNOWN),
        ("log-incompatible", be32(head, 220)?, LOG_INCOMPAT_KNOWN),
    ] {
        if found & !known != 0 {
            return Err(Stop::unknown(format_args!("it has {kind} features {:#x}", found & !known)));
        }
    }
    Ok(incompatible)
}

/// Version 5's checksum over a structure, which is taken with the checksum's own four bytes as zeros and stored little-endian.
pub(super) fn check_sum(bytes: &[u8], at: usize, what: &str) -> Result<(), Stop> {
    let rest = slice(bytes, at + 4, bytes.len().saturating_sub(at + 4))?;
    if crc32c::checksum(&[slice(bytes, 0, at)?, &[0; 4], rest]) == le32(bytes, at)? {
        Ok(())
    } else {
        Err(Stop::damaged(format_args!("the checksum of its {what} is wrong")))
    }
}
