//! The units everything else is counted in: pages, chunks, and the two small enumerations that are stored as a byte.

use std::fmt;

/// Bytes of a page, the unit of deduplication. Filesystems place file data at multiples of 4 KiB, so this is the largest
/// page with which the same file is found in two independently built images.
pub const PAGE_BYTES: usize = 4096;

/// Pages of a full chunk unless the pack says otherwise: 256 KiB stays in a core's L2 cache while a chunk is assembled,
/// hashed and decompressed.
pub const CHUNK_PAGES_DEFAULT: u32 = 64;

/// The most pages a pack may put in a chunk: 4 MiB, so that no file can make a reader allocate more for one.
pub const CHUNK_PAGES_MAX: u32 = 1024;

/// The dense number of a chunk in its pack, which is also its address on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub u32);

impl ChunkId {
    /// The id as an index into a table of all chunks of the pack.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How the stored bytes of a chunk or section become its raw bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Stored as they are.
    None,
    /// One LZ4 block without a frame around it. For chunks only.
    Lz4,
    /// One zstd frame (RFC 8878).
    #[default]
    Zstd,
}

/// What one byte of an LZ4 block can expand to: a byte of a match's length stands for at most 255.
const LZ4_EXPANSION_MAX: u64 = 255;

impl Codec {
    /// The number that stands for the codec in files.
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Whether a chunk of `raw_bytes` may be stored as `stored_bytes`: compression always saves something, and LZ4 cannot save more than it can.
    pub(crate) fn allows(self, stored_bytes: u32, raw_bytes: u32) -> bool {
        match self {
            Self::None => stored_bytes == raw_bytes,
            Self::Lz4 => (1..raw_bytes).contains(&stored_bytes) && u64::from(raw_bytes) <= u64::from(stored_bytes) * LZ4_EXPANSION_MAX,
            Self::Zstd => (1..raw_bytes).contains(&stored_bytes),
        }
    }

    /// The name used on the command line and in listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// What an image is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// The bytes of a disk or partition.
    Disk,
    /// Files under a directory.
    Tree,
}

impl ImageKind {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Disk => 0,
            Self::Tree => 1,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Disk),
            1 => Some(Self::Tree),
            _ => None,
        }
    }

    /// The word used in listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Tree => "tree",
        }
    }
}

/// `value` rounded up to a multiple of `unit`. Saturates, so that a hostile length cannot wrap to a small one.
pub(crate) fn round_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit).saturating_mul(unit)
}

/// Pages that `bytes` occupy, the last one padded.
pub(crate) fn pages_of(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_allows_only_lengths_that_it_can_make() {
        for (codec, stored_bytes, allowed) in [
            (Codec::None, 4096, true),
            (Codec::None, 4095, false),
            (Codec::Lz4, 4096, false),
            (Codec::Lz4, 17, true),
            (Codec::Lz4, 16, false),
            (Codec::Zstd, 4096, false),
            (Codec::Zstd, 1, true),
            (Codec::Zstd, 0, false),
        ] {
            assert_eq!(codec.allows(stored_bytes, 4096), allowed, "{codec:?} of {stored_bytes} bytes");
            assert_eq!(Codec::from_byte(codec.to_byte()), Some(codec));
        }
    }
}
