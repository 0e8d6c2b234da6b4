//! The header of a qcow2 image, checked. Layout: docs/interop/qcow2.rst of QEMU.

use super::Refused;
use crate::manifest::SIZE_BYTES_MAX;

/// The part of the header that version 3 always has.
pub(super) const HEADER_BYTES: usize = 104;
const MAGIC: [u8; 4] = *b"QFI\xfb";
/// QEMU's own limits.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const L1_BYTES_MAX: u64 = 32 << 20;
const BACKING_NAME_BYTES_MAX: u32 = 1023;
/// The header extension that names the format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// Incompatible feature bits.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClusterCodec {
    /// Raw deflate, without zlib's header.
    Deflate,
    /// A zstd frame.
    Zstd,
}

/// What the header says, in range.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) cluster_bits: u32,
    pub(super) size_bytes: u64,
    pub(super) l1_entries: usize,
    pub(super) l1_offset: u64,
    pub(super) codec: ClusterCodec,
    /// Entries of L2 tables have 16 bytes: an entry and the bitmaps of its 32 subclusters.
    pub(super) extended_l2: bool,
    /// Version 3, where bit 0 of an entry means that the cluster reads as zeros.
    pub(super) has_zero_bit: bool,
    /// Where the name of the backing file lies, and its bytes.
    pub(super) backing_name: Option<(u64, usize)>,
    /// Where the header extensions begin.
    extensions_offset: u64,
}

/// Reads big-endian numbers at fixed places.
pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

pub(super) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

impl Header {
    /// Reads the first [`HEADER_BYTES`] of an image of `file_bytes`; fewer when it is shorter.
    pub(super) fn parse(bytes: &[u8], file_bytes: u64) -> Result<Self, Refused> {
        let short = || Refused::from("its header is cut off");
        let u32_at = |at| be32(bytes, at).ok_or_else(short);
        let u64_at = |at| be64(bytes, at).ok_or_else(short);
        if !bytes.starts_with(&MAGIC) {
            return Err("it does not begin as a qcow2 image".into());
        }
        let version = u32_at(4)?;
        if version != 2 && version != 3 {
            return Err(format!("its qcow version is {version}, 2 and 3 are read: convert it with `qemu-img convert -O raw IN OUT`").into());
        }
        let (features, header_bytes) = if version == 3 { (u64_at(72)?, u64::from(u32_at(100)?)) } else { (0, 72) };
        check_features(features)?;
        let cluster_bits = u32_at(20)?;
        if !CLUSTER_BITS.contains(&cluster_bits) || header_bytes > 1 << cluster_bits || (version == 3 && header_bytes < 104) {
            return Err("its header is damaged: the cluster size or the header's length is out of range".into());
        }
        if u32_at(32)? != 0 {
            return Err("it is encrypted: convert it with `qemu-img convert --object secret,… --image-opts … -O raw`".into());
        }
        let codec = match bytes.get(104).filter(|_| header_bytes > 104 && features & COMPRESSION_TYPE != 0) {
            None | Some(0) => ClusterCodec::Deflate,
            Some(1) => ClusterCodec::Zstd,
            Some(other) => return Err(format!("its compression type {other} is unknown").into()),
        };
        let size_bytes = u64_at(24)?;
        if size_bytes > SIZE_BYTES_MAX {
            return Err("its header is damaged: the size is out of range".into());
        }
        let extended_l2 = features & EXTENDED_L2 != 0;
        if extended_l2 && cluster_bits < 14 {
            return Err("its header is damaged: clusters of less than 16 KiB have no subclusters".into());
        }
        let (l1_entries, l1_offset) = (u64::from(u32_at(36)?), u64_at(40)?);
        let l2_bits = cluster_bits - if extended_l2 { 4 } else { 3 };
        let needed = size_bytes.div_ceil(1 << (cluster_bits + l2_bits));
        let end = l1_offset.checked_add(l1_entries * 8);
        if l1_entries < needed || l1_entries * 8 > L1_BYTES_MAX || end.is_none_or(|end| end > file_bytes) {
            return Err("its header is damaged: the L1 table is too small, too large or cut off".into());
        }
        let (name_offset, name_bytes) = (u64_at(8)?, u32_at(16)?);
        if name_offset != 0 && name_bytes > BACKING_NAME_BYTES_MAX {
            return Err("its header is damaged: the backing file's name is too long".into());
        }
        Ok(Self {
            cluster_bits,
            size_bytes,
            // At most 4 Mi, and only as many as are looked at.
            l1_entries: needed as usize,
            l1_offset,
            codec,
            extended_l2,
            has_zero_bit: version == 3,
            backing_name: (name_offset != 0 && name_bytes != 0).then_some((name_offset, name_bytes as usize)),
            extensions_offset: header_bytes,
        })
    }

    /// The format of the backing file as the header extensions in `first_cluster` name it, if they do.
    pub(super) fn backing_format<'a>(&self, first_cluster: &'a [u8]) -> Option<&'a [u8]> {
        let mut at = usize::try_from(self.extensions_offset).ok()?;
        // Each takes at least its head of 8 bytes.
        loop {
            let (kind, length) = (be32(first_cluster, at)?, be32(first_cluster, at.checked_add(4)?)? as usize);
            let data = first_cluster.get(at.checked_add(8)?..)?.get(..length);
            match kind {
                0 => return None,
                BACKING_FORMAT => return data,
                _ => at = at.checked_add(8)?.checked_add(length.checked_next_multiple_of(8)?)?,
            }
        }
    }
}

fn check_features(features: u64) -> Result<(), Refused> {
    if features & CORRUPT != 0 {
        return Err("it is marked as corrupt: repair it with `qemu-img check -r all`".into());
    }
    if features & DIRTY != 0 {
        return Err("it was not closed cleanly, or is in use: shut its machine down, or repair it with `qemu-img check -r all`".into());
    }
    if features & EXTERNAL_DATA_FILE != 0 {
        return Err("its data is in another file: convert it with `qemu-img convert -O qcow2 IN OUT`".into());
    }
    if features & !(DIRTY | CORRUPT | EXTERNAL_DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2) != 0 {
        return Err("it uses a feature that is not known here: convert it with `qemu-img convert -O raw IN OUT`".into());
    }
    Ok(())
}
