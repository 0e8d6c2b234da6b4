//! Manifest to bytes. The layout is described in docs/pack-format.md; [`super::decode`] is its mirror image.

use super::cursor::{put_string, put_varint, put_zigzag};
use super::{Body, ChunkDescriptor, Content, Entry, EntryKind, Extent, Manifest, RAW_BYTES_MAX, envelope};
use crate::{Codec, Error, PAGE_BYTES, Result};

/// First bytes of a manifest.
pub(super) const MAGIC: [u8; 4] = *b"DCMF";
/// Version of the layout that knows no hashes of raw bytes. Still written when there is nothing that they would be needed for.
pub(super) const VERSION_WITHOUT_RAW_HASHES: u16 = 1;
/// Version of the layout.
pub(super) const VERSION: u16 = 2;

/// The manifest as a section that stands alone.
///
/// # Errors
/// When it would be longer than readers accept.
pub(crate) fn encode(manifest: &Manifest, codec: Codec) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    put_string(&mut raw, manifest.name.as_bytes());
    raw.push(manifest.kind().to_byte());
    put_varint(&mut raw, u64::from(manifest.chunk_pages));
    put_chunks(&mut raw, manifest);
    let mut extents = ExtentEncoder { chunk_pages: manifest.chunk_pages, expected_page: 0 };
    match &manifest.body {
        Body::Disk(disk) => {
            put_varint(&mut raw, disk.size_bytes);
            extents.put(&mut raw, &disk.extents);
        }
        Body::Tree(tree) => {
            put_varint(&mut raw, tree.entries.len() as u64);
            let mut previous_mtime_s = 0;
            for (index, entry) in tree.entries.iter().enumerate() {
                put_entry(&mut raw, entry, index, &mut previous_mtime_s);
                if let EntryKind::File { size_bytes, extents: range } = &entry.kind {
                    put_varint(&mut raw, *size_bytes);
                    extents.put(&mut raw, &tree.extents[range.clone()]);
                }
            }
        }
    }

    let raw_bytes = raw.len() as u64;
    if raw_bytes > RAW_BYTES_MAX {
        return Err(Error::Limit(format!("the manifest of {} has {raw_bytes} bytes, more than 1 GiB", manifest.name)));
    }
    let (codec, payload) = envelope::seal(raw, codec);
    let mut section = Vec::with_capacity(16 + payload.len());
    section.extend_from_slice(&MAGIC);
    section.extend_from_slice(&version_of(manifest).to_le_bytes());
    section.extend_from_slice(&[codec.to_byte(), 0]);
    section.extend_from_slice(&raw_bytes.to_le_bytes());
    section.extend_from_slice(&payload);
    Ok(section)
}

/// The lowest version that can say it all: an uncompressed chunk's raw bytes are its stored bytes.
fn version_of(manifest: &Manifest) -> u16 {
    let says_more = |chunk: &ChunkDescriptor| chunk.codec != Codec::None && chunk.raw_hash.is_some();
    if manifest.chunks.iter().any(says_more) { VERSION } else { VERSION_WITHOUT_RAW_HASHES }
}

/// Columns, so that what is alike stands together and compresses; the hashes, which do not, come last.
fn put_chunks(raw: &mut Vec<u8>, manifest: &Manifest) {
    put_varint(raw, manifest.chunks.len() as u64);
    let mut next_id = 0;
    for chunk in &manifest.chunks {
        put_varint(raw, u64::from(chunk.id.0 - next_id));
        next_id = chunk.id.0 + 1;
    }
    for chunk in &manifest.chunks {
        put_varint(raw, u64::from(chunk.raw_bytes) / PAGE_BYTES as u64);
    }
    for chunk in &manifest.chunks {
        // Stored as it is: 0 saved. Every codec but none saves at least one byte.
        let saved = u64::from(chunk.raw_bytes - chunk.stored_bytes);
        put_varint(raw, if chunk.codec == Codec::None { 0 } else { saved });
    }
    for chunk in &manifest.chunks {
        raw.push(chunk.codec.to_byte());
    }
    for chunk in &manifest.chunks {
        raw.extend_from_slice(&chunk.hash);
    }
    if version_of(manifest) == VERSION {
        for chunk in manifest.chunks.iter().filter(|chunk| chunk.codec != Codec::None) {
            // The packer makes all of them or none.
            raw.extend_from_slice(&chunk.raw_hash.unwrap_or_default());
        }
    }
}

/// Extents as (kind and length, where from): offsets follow from the lengths, and most data continues where the last data ended.
struct ExtentEncoder {
    chunk_pages: u32,
    /// The page (chunk index × chunk pages + page in chunk) after the last data extent.
    expected_page: u64,
}

impl ExtentEncoder {
    fn put(&mut self, raw: &mut Vec<u8>, extents: &[Extent]) {
        put_varint(raw, extents.len() as u64);
        for extent in extents {
            let kind = match extent.content {
                Content::Data { .. } => 0,
                Content::Zero => 1,
                Content::Hole => 2,
            };
            // Bit 2: the length is in bytes, else in pages.
            let page_bytes = PAGE_BYTES as u64;
            if extent.length % page_bytes == 0 {
                put_varint(raw, (extent.length / page_bytes) << 3 | kind);
            } else {
                put_varint(raw, extent.length << 3 | 4 | kind);
            }
            if let Content::Data { chunk, page } = extent.content {
                let first_page = u64::from(chunk) * u64::from(self.chunk_pages) + u64::from(page);
                put_zigzag(raw, first_page as i64 - self.expected_page as i64);
                self.expected_page = first_page + crate::units::pages_of(extent.length);
            }
        }
    }
}

fn put_entry(raw: &mut Vec<u8>, entry: &Entry, index: usize, previous_mtime_s: &mut i64) {
    let kind = match entry.kind {
        EntryKind::Directory => 0,
        EntryKind::File { .. } => 1,
        EntryKind::Symlink { .. } => 2,
        EntryKind::HardLink { .. } => 3,
        EntryKind::CharacterDevice { .. } => 4,
        EntryKind::BlockDevice { .. } => 5,
        EntryKind::Fifo => 6,
        EntryKind::Socket => 7,
    };
    raw.push(kind);
    put_string(raw, &entry.name);
    // Most entries follow their directory closely.
    put_varint(raw, (index - entry.parent as usize) as u64);
    if let EntryKind::HardLink { original } = entry.kind {
        put_varint(raw, (index - original as usize) as u64);
        return;
    }
    put_varint(raw, u64::from(entry.mode));
    put_varint(raw, u64::from(entry.uid));
    put_varint(raw, u64::from(entry.gid));
    put_zigzag(raw, entry.mtime_s.wrapping_sub(*previous_mtime_s));
    *previous_mtime_s = entry.mtime_s;
    put_varint(raw, u64::from(entry.mtime_ns));
    put_varint(raw, entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        put_string(raw, name);
        put_string(raw, value);
    }
    match &entry.kind {
        EntryKind::Symlink { target } => put_string(raw, target),
        EntryKind::CharacterDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            put_varint(raw, u64::from(*major));
            put_varint(raw, u64::from(*minor));
        }
        _ => {}
    }
}
