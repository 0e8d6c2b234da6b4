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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Codec {
    /// Stored as they are.
    None,
    /// One zstd frame (RFC 8878).
    #[default]
    Zstd,
}

impl Codec {
    /// The number that stands for the codec in files. 1 is kept free for lz4.
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 2,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The name used on the command line and in listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
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
