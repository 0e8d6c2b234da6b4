//! The fixed structures of a pack file: header, section directory, trailer, and the records of the tables.
//! All integers are little-endian. docs/pack-format.md is the same for people who write another reader.
//!
//! ```text
//! 0                       header, 4096 bytes
//! 4096                    chunk records: stored bytes, zeros up to the next multiple of 4096, in any order of ids
//! end of chunk records    sections, one directly after the other
//! after the last section  section directory: 64 bytes per section
//! after the directory     signature, when the pack is signed
//! last 64 bytes           trailer
//! ```
//!
//! Header
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `DISCUSPK` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | page bytes, 4096 |
//! | 16 | 4 | chunk pages: pages of a full chunk, 1 to 1024 |
//! | 20 | 4 | chunk count |
//! | 24 | 4 | segment count |
//! | 28 | 4 | image count |
//! | 32 | 4064 | reserved, 0 |
//!
//! Directory entry
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 2 | kind: 1 chunk table, 2 segment table, 3 image table, 4 manifest |
//! | 2 | 2 | codec: 0 none, 2 zstd |
//! | 4 | 4 | id: the image's index for a manifest, else 0 |
//! | 8 | 8 | offset in the file |
//! | 16 | 8 | stored bytes |
//! | 24 | 8 | raw bytes |
//! | 32 | 32 | BLAKE3 of the stored bytes |
//!
//! The directory lists the chunk table, the segment table, the image table and then the manifests in order of the images.
//!
//! Trailer
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | offset of the directory |
//! | 8 | 8 | bytes of the directory |
//! | 16 | 8 | bytes of the signature between directory and trailer: 0 or 112 |
//! | 24 | 32 | root |
//! | 56 | 8 | magic `DISCUSND` |
//!
//! root = BLAKE3(header, then directory). As the directory holds the hash of every section and the chunk table the hash of every
//! chunk, the root stands for all content.
//!
//! Signature
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `DISCUSSG` |
//! | 8 | 4 | algorithm: 1 Ed25519 (RFC 8032) |
//! | 12 | 4 | reserved, 0 |
//! | 16 | 32 | public key |
//! | 48 | 64 | signature of the trailer's 64 bytes |
//!
//! Chunk table: per chunk, in order of ids, 56 bytes
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | offset in the file, a multiple of 4096 |
//! | 8 | 4 | stored bytes |
//! | 12 | 4 | raw bytes, a multiple of 4096 |
//! | 16 | 4 | segment |
//! | 20 | 1 | codec: 0 none, 1 lz4, 2 zstd |
//! | 21 | 3 | reserved, 0 |
//! | 24 | 32 | BLAKE3 of the stored bytes |
//!
//! Segment table: per segment 12 bytes and a bitmap
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | first chunk |
//! | 4 | 4 | chunk count |
//! | 8 | 4 | pages, so that one can tell how full its chunks are |
//! | 12 | (image count + 7) / 8 | the images that want it: bit i % 8 of byte i / 8 |
//!
//! Image table: per image
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | kind: 0 disk, 1 tree |
//! | 1 | 1 | n, length of the name |
//! | 2 | n | name |
//! | 2 + n | 8 | logical bytes: size of the disk, or of all files |
//! | 10 + n | 8 | used bytes: what is neither zero nor hole |
//! | 18 + n | 8 | zero bytes |
//! | 26 + n | 8 | hole bytes |

use crate::signature::{PUBLIC_KEY_BYTES, PublicKey, SIGNATURE_BYTES};
use crate::{Codec, PAGE_BYTES};

/// First bytes of a pack.
pub const MAGIC: [u8; 8] = *b"DISCUSPK";
/// Last bytes of a pack.
pub const END_MAGIC: [u8; 8] = *b"DISCUSND";
/// First bytes of a signature.
pub const SIGNATURE_MAGIC: [u8; 8] = *b"DISCUSSG";
/// The only algorithm of signatures: Ed25519.
const SIGNATURE_ALGORITHM: u32 = 1;
/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes of the header, and the unit that chunk records are aligned to: what O_DIRECT asks for on any disk.
pub const ALIGN_BYTES: usize = 4096;
/// Bytes of an entry of the section directory.
pub const DIRECTORY_ENTRY_BYTES: usize = 64;
/// Bytes of the trailer.
pub const TRAILER_BYTES: usize = 64;
/// Bytes of an entry of the chunk table.
pub const CHUNK_ENTRY_BYTES: usize = 56;
/// Bytes of an entry of the segment table before its bitmap.
pub const SEGMENT_ENTRY_BYTES: usize = 12;
/// The most images of a pack: keeps the bitmaps of segments small.
pub const IMAGES_MAX: usize = 4096;

/// The little-endian integers of a fixed record, taken from its front. The caller has checked the length once.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Option<&[u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Pages of a full chunk.
    pub chunk_pages: u32,
    /// Chunks in the pack.
    pub chunks: u32,
    /// Segments in the pack.
    pub segments: u32,
    /// Images in the pack.
    pub images: u32,
}

impl Header {
    /// The header as stored.
    #[must_use]
    pub fn encode(&self) -> [u8; ALIGN_BYTES] {
        let mut out = [0; ALIGN_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        let fields = [VERSION, PAGE_BYTES as u32, self.chunk_pages, self.chunks, self.segments, self.images];
        for (place, field) in out[8..32].chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    /// Bytes of the section directory: three tables and a manifest per image.
    #[must_use]
    pub fn directory_bytes(&self) -> usize {
        (3 + self.images as usize) * DIRECTORY_ENTRY_BYTES
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(bytes: &[u8; ALIGN_BYTES]) -> Result<Self, String> {
        let mut fields = Fields(bytes);
        let mut take = || fields.u32().ok_or_else(|| "too short".to_owned());
        let magic = [take()?, take()?].map(u32::to_le_bytes).concat();
        if magic != MAGIC {
            return Err("it does not begin like a pack".into());
        }
        let version = take()?;
        if version != VERSION {
            return Err(format!("its version is {version}, this program reads {VERSION}"));
        }
        if take()? != PAGE_BYTES as u32 {
            return Err("its page size is not 4096".into());
        }
        let header = Self { chunk_pages: take()?, chunks: take()?, segments: take()?, images: take()? };
        if !crate::manifest::chunk_pages_in_range(header.chunk_pages) {
            return Err("its chunk size is out of range".into());
        }
        if header.images as usize > IMAGES_MAX {
            return Err("it announces too many images".into());
        }
        if bytes[32..].iter().any(|&byte| byte != 0) {
            return Err("a reserved byte is not 0".into());
        }
        Ok(header)
    }
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// One record per chunk.
    ChunkTable,
    /// One record per segment.
    SegmentTable,
    /// One record per image.
    ImageTable,
    /// The manifest of one image.
    Manifest,
}

/// One entry of the section directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// What the section holds.
    pub kind: SectionKind,
    /// How it is compressed.
    pub codec: Codec,
    /// The image of a manifest, else 0.
    pub id: u32,
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub stored_bytes: u64,
    /// Bytes when decoded.
    pub raw_bytes: u64,
    /// BLAKE3 of the stored bytes.
    pub hash: [u8; 32],
}

impl DirectoryEntry {
    /// Appends the entry as stored.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind: u16 = match self.kind {
            SectionKind::ChunkTable => 1,
            SectionKind::SegmentTable => 2,
            SectionKind::ImageTable => 3,
            SectionKind::Manifest => 4,
        };
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&u16::from(self.codec.to_byte()).to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.stored_bytes.to_le_bytes());
        out.extend_from_slice(&self.raw_bytes.to_le_bytes());
        out.extend_from_slice(&self.hash);
    }

    /// Reads one entry; `None` when it is not valid.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let kind = match fields.u16()? {
            1 => SectionKind::ChunkTable,
            2 => SectionKind::SegmentTable,
            3 => SectionKind::ImageTable,
            4 => SectionKind::Manifest,
            _ => return None,
        };
        let codec = Codec::from_byte(u8::try_from(fields.u16()?).ok()?)?;
        Some(Self {
            kind,
            codec,
            id: fields.u32()?,
            offset: fields.u64()?,
            stored_bytes: fields.u64()?,
            raw_bytes: fields.u64()?,
            hash: fields.array()?,
        })
    }
}

/// The last bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the section directory begins.
    pub directory_offset: u64,
    /// Its length.
    pub directory_bytes: u64,
    /// Bytes of the signature after it: 0 when the pack is not signed.
    pub signature_bytes: u64,
    /// BLAKE3 over header and directory.
    pub root: [u8; 32],
}

impl Trailer {
    /// The trailer as stored.
    #[must_use]
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        out[..8].copy_from_slice(&self.directory_offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.directory_bytes.to_le_bytes());
        out[16..24].copy_from_slice(&self.signature_bytes.to_le_bytes());
        out[24..56].copy_from_slice(&self.root);
        out[56..].copy_from_slice(&END_MAGIC);
        out
    }

    /// Reads a trailer; `None` when it is none.
    #[must_use]
    pub fn decode(bytes: &[u8; TRAILER_BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (directory_offset, directory_bytes, signature_bytes) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let root = fields.array()?;
        let signature_in_range = [0, SignatureBlock::BYTES as u64].contains(&signature_bytes);
        let trailer = Self { directory_offset, directory_bytes, signature_bytes, root };
        (signature_in_range && fields.array()? == END_MAGIC).then_some(trailer)
    }
}

/// A signature as it stands in a pack. Its message is the trailer, which ends with a magic that nothing else has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureBlock {
    /// The key that it says it is by.
    pub key: PublicKey,
    /// Ed25519 of the trailer.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl SignatureBlock {
    /// Bytes of the block.
    pub const BYTES: usize = 16 + PUBLIC_KEY_BYTES + SIGNATURE_BYTES;

    /// The block as stored.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&SIGNATURE_MAGIC);
        out[8..12].copy_from_slice(&SIGNATURE_ALGORITHM.to_le_bytes());
        out[16..48].copy_from_slice(&self.key.to_bytes());
        out[48..].copy_from_slice(&self.signature);
        out
    }

    /// Reads a block; `None` when it is none. The signature itself is not checked.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (magic, algorithm, reserved) = (fields.array()?, fields.u32()?, fields.u32()?);
        let (key, signature) = (PublicKey::from_bytes(&fields.array()?)?, fields.array()?);
        let valid = magic == SIGNATURE_MAGIC && algorithm == SIGNATURE_ALGORITHM && reserved == 0 && fields.0.is_empty();
        valid.then_some(Self { key, signature })
    }
}

/// BLAKE3 over header and directory.
#[must_use]
pub fn root(header: &[u8; ALIGN_BYTES], directory: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(header).update(directory).finalize().as_bytes()
}
