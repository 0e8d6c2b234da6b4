//! The superblock of btrfs: sizes, the roots of the first trees, and the features that decide whether the rest is understood.

use std::ops::Range;

use super::super::crc32c;
use super::super::fields::{Stop, array, le16, le32, le64, read, read_vec, slice, u8_at};
use crate::disk_image::{DiskImage, Part};

/// Where the first superblock is (`BTRFS_SUPER_INFO_OFFSET`).
const FIRST: u64 = 64 << 10;
const SUPERBLOCK_BYTES: usize = 4096;
/// Where its mirrors are, on devices that are large enough (`btrfs_sb_offset`).
const MIRRORS: [u64; 2] = [64 << 20, 256 << 30];
const MAGIC: &[u8; 8] = b"_BHRfS_M";
/// `flags`: written, relocated, and (1 << 32) a seed device. An error, a dump of metadata or a UUID that is being changed are not among them.
const FLAGS_KNOWN: u64 = 1 | 2 | 1 << 32;
/// `incompat_flags`: mixed backrefs, default subvolume, mixed groups, lzo, zstd, big metadata, extended irefs, RAID 5/6 (refused by chunk), skinny
/// metadata, no holes, metadata UUID, RAID 1C3/4 (refused by chunk), simple quotas. Not zoned devices, extent tree v2, RAID stripe tree.
const INCOMPAT_KNOWN: u64 = 0x1_0fff;
const INCOMPAT_METADATA_UUID: u64 = 1 << 10;
/// `compat_ro_flags`: free-space tree and its validity, verity, block-group tree.
const COMPAT_RO_KNOWN: u64 = 0x0f;
/// `csum_type`: CRC-32C; the others are xxHash, SHA-256 and BLAKE2b.
const CHECKSUM_CRC32C: u16 = 0;

/// What of the superblock the reader needs.
pub(super) struct Superblock {
    /// In the head of every tree block.
    pub(super) metadata_uuid: [u8; 16],
    /// The root of the tree of roots.
    pub(super) root: Root,
    /// The root of the tree of chunks.
    pub(super) chunk_root: Root,
    /// Bytes of all extents, without their copies.
    pub(super) bytes_used: u64,
    /// Bytes of a sector: extents are multiples of it.
    pub(super) sector_bytes: u64,
    /// Bytes of a tree block.
    pub(super) node_bytes: u32,
    /// The only device's id.
    pub(super) device_id: u64,
    /// The only device's size.
    pub(super) device_bytes: u64,
    /// The chunks that hold the chunk tree: keys and items one after another.
    pub(super) system_chunks: Vec<u8>,
}

/// Where a tree begins.
#[derive(Clone, Copy)]
pub(super) struct Root {
    pub(super) logical: u64,
    pub(super) level: u8,
}

/// Whether there is a superblock.
pub(super) fn recognised(volume: &Part<'_>) -> Result<bool, Stop> {
    let mut magic = [0; 8];
    read(volume, FIRST + 64, &mut magic)?;
    Ok(&magic == MAGIC)
}

/// The places of all superblocks on a device.
pub(super) fn places(device_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let places = std::iter::once(FIRST).chain(MIRRORS).map(|start| start..start + SUPERBLOCK_BYTES as u64);
    places.filter(move |place| place.end <= device_bytes)
}

/// Whether the checksum in front of a superblock or tree block is right.
pub(super) fn checksum_is_right(bytes: &[u8]) -> Result<bool, Stop> {
    let covered = slice(bytes, 32, bytes.len().saturating_sub(32))?;
    Ok(crc32c::checksum(&[covered]) == le32(bytes, 0)?)
}

impl Superblock {
    /// Reads and checks it.
    pub(super) fn read(volume: &Part<'_>) -> Result<Self, Stop> {
        let bytes = read_vec(volume, FIRST, SUPERBLOCK_BYTES)?;
        let checksum_type = le16(&bytes, 196)?;
        if checksum_type != CHECKSUM_CRC32C {
            return Err(Stop::unknown(format_args!("its checksums are not CRC-32C but type {checksum_type}")));
        }
        if !checksum_is_right(&bytes)? || le64(&bytes, 48)? != FIRST {
            return Err(Stop::damaged("the checksum or the place of its superblock is wrong"));
        }
        let incompatible = le64(&bytes, 188)?;
        for (kind, found, known) in [
            ("flags", le64(&bytes, 56)?, FLAGS_KNOWN),
            ("incompatible features", incompatible, INCOMPAT_KNOWN),
            ("read-only compatible features", le64(&bytes, 180)?, COMPAT_RO_KNOWN),
        ] {
            if found & !known != 0 {
                return Err(Stop::unknown(format_args!("it has {kind} {:#x}", found & !known)));
            }
        }
        let devices = le64(&bytes, 136)?;
        if devices != 1 {
            return Err(Stop::Whole(format!("it spans {devices} devices")));
        }
        if le64(&bytes, 96)? != 0 {
            return Err(Stop::Whole(
                "it was not cleanly unmounted (its fsync log is to be replayed): mount and unmount it before packing".into(),
            ));
        }
        let metadata_uuid = if incompatible & INCOMPAT_METADATA_UUID != 0 { 571 } else { 32 };
        let system_chunks_bytes = le32(&bytes, 160)? as usize;
        if system_chunks_bytes > 2048 {
            return Err(Stop::damaged("its array of system chunks is too long"));
        }
        let superblock = Self {
            metadata_uuid: array(&bytes, metadata_uuid)?,
            root: Root { logical: le64(&bytes, 80)?, level: u8_at(&bytes, 198)? },
            chunk_root: Root { logical: le64(&bytes, 88)?, level: u8_at(&bytes, 199)? },
            bytes_used: le64(&bytes, 120)?,
            sector_bytes: le32(&bytes, 144)?.into(),
            node_bytes: le32(&bytes, 148)?,
            // dev_item at 201: its id, the device's size.
            device_id: le64(&bytes, 201)?,
            device_bytes: le64(&bytes, 209)?,
            system_chunks: slice(&bytes, 811, system_chunks_bytes)?.to_vec(),
        };
        let is_size = |bytes: u64| (4096..=65536).contains(&bytes) && bytes.is_power_of_two();
        if !is_size(superblock.sector_bytes) || !is_size(superblock.node_bytes.into()) {
            return Err(Stop::damaged("the sizes of its sectors and nodes are impossible"));
        }
        if superblock.device_bytes > volume.size_bytes() {
            return Err(Stop::damaged(format_args!("it says that it has {} bytes, the volume is smaller", superblock.device_bytes)));
        }
        Ok(superblock)
    }
}
