//! Bytes to manifest. The input is hostile: every count is bounded by the bytes that are left, every reference is checked
//! against what precedes it, and anything that [`super::encode`] would not have written is refused.

use std::collections::HashSet;
use std::sync::Arc;

use super::cursor::{Cursor, Malformed};
use super::encode::{MAGIC, VERSION, VERSION_WITHOUT_RAW_HASHES};
use super::{
    Body, ChunkDescriptor, Content, DiskBody, Entry, EntryKind, Extent, Manifest, NAME_BYTES_MAX, PATH_BYTES_MAX, RAW_BYTES_MAX,
    SIZE_BYTES_MAX, TreeBody, Xattr, check_image_name, chunk_pages_in_range, envelope,
};
use crate::{ChunkId, Codec, ImageKind, PAGE_BYTES};

/// An id, the page count, the saving, the codec and the hash.
const CHUNK_BYTES_MIN: usize = 4 + 32;
/// A zero extent: kind and length.
const EXTENT_BYTES_MIN: usize = 1;
/// A hard link: kind, name of one byte, parent, original.
const ENTRY_BYTES_MIN: usize = 5;
/// The kernel's limits on extended attributes: XATTR_NAME_MAX, XATTR_SIZE_MAX.
const XATTR_NAME_BYTES_MAX: usize = 255;
const XATTR_VALUE_BYTES_MAX: usize = 65536;

pub(super) fn decode(section: &[u8]) -> Result<Manifest, Malformed> {
    let mut envelope = Cursor::new(section);
    if envelope.array()? != MAGIC {
        return Err("it does not begin like a manifest".into());
    }
    let version = u16::from_le_bytes(envelope.array()?);
    if !(VERSION_WITHOUT_RAW_HASHES..=VERSION).contains(&version) {
        return Err(Malformed(format!("its version is {version}, this program reads {VERSION_WITHOUT_RAW_HASHES} to {VERSION}")));
    }
    let codec = Codec::from_byte(envelope.byte()?).ok_or("its codec is unknown")?;
    if envelope.byte()? != 0 {
        return Err("a reserved byte is not 0".into());
    }
    let raw_bytes = u64::from_le_bytes(envelope.array()?);
    if raw_bytes > RAW_BYTES_MAX {
        return Err("it announces more than 1 GiB".into());
    }
    let raw = envelope::open(&section[16..], codec, raw_bytes)?;

    let mut cursor = Cursor::new(&raw);
    let name = std::str::from_utf8(cursor.string(128)?).map_err(|_| "the name is not UTF-8")?.to_owned();
    check_image_name(&name).map_err(|error| Malformed(error.to_string()))?;
    let kind = ImageKind::from_byte(cursor.byte()?).ok_or("the kind is unknown")?;
    let chunk_pages = cursor.varint_u32()?;
    if !chunk_pages_in_range(chunk_pages) {
        return Err("the chunk size is out of range".into());
    }
    let chunks = chunks(&mut cursor, chunk_pages, version)?;
    let mut extents = ExtentDecoder::new(&chunks, chunk_pages);
    let body = match kind {
        ImageKind::Disk => {
            let size_bytes = size(&mut cursor)?;
            let mut decoded = Vec::new();
            extents.take(&mut cursor, size_bytes, &mut decoded)?;
            Body::Disk(DiskBody { size_bytes, extents: decoded })
        }
        ImageKind::Tree => Body::Tree(Arc::new(tree(&mut cursor, &mut extents)?)),
    };
    if !cursor.is_empty() {
        return Err("bytes follow its end".into());
    }
    if extents.used.iter().any(|used| !used) {
        return Err("it names a chunk that it does not use".into());
    }
    Ok(Manifest { name, chunk_pages, chunks, body })
}

fn size(cursor: &mut Cursor<'_>) -> Result<u64, Malformed> {
    let size_bytes = cursor.varint()?;
    if size_bytes > SIZE_BYTES_MAX {
        return Err("a size is out of range".into());
    }
    Ok(size_bytes)
}

fn chunks(cursor: &mut Cursor<'_>, chunk_pages: u32, version: u16) -> Result<Vec<ChunkDescriptor>, Malformed> {
    let count = cursor.count(CHUNK_BYTES_MIN)?;
    let mut chunks = Vec::with_capacity(count);
    let mut next_id = 0u32;
    for _ in 0..count {
        // u32::MAX itself stays free, so that the next id can be counted.
        let id = cursor.varint_u32()?.checked_add(next_id).filter(|&id| id != u32::MAX).ok_or("a chunk id is out of range")?;
        next_id = id + 1;
        let id = ChunkId(id);
        chunks.push(ChunkDescriptor { id, stored_bytes: 0, raw_bytes: 0, codec: Codec::None, hash: [0; 32], raw_hash: None });
    }
    for chunk in &mut chunks {
        let pages = cursor.varint_u32()?;
        if !(1..=chunk_pages).contains(&pages) {
            return Err("a chunk's length is out of range".into());
        }
        chunk.raw_bytes = pages * PAGE_BYTES as u32;
    }
    for chunk in &mut chunks {
        let saved = cursor.varint_u32()?;
        if saved >= chunk.raw_bytes {
            return Err("a chunk's stored length is out of range".into());
        }
        chunk.stored_bytes = chunk.raw_bytes - saved;
    }
    for chunk in &mut chunks {
        chunk.codec = Codec::from_byte(cursor.byte()?).ok_or("a chunk's codec is unknown")?;
        if !chunk.codec.allows(chunk.stored_bytes, chunk.raw_bytes) {
            return Err("a chunk's stored length does not fit its codec".into());
        }
    }
    for chunk in &mut chunks {
        chunk.hash = cursor.array()?;
    }
    for chunk in &mut chunks {
        chunk.raw_hash = match chunk.codec {
            Codec::None => Some(chunk.hash),
            _ if version == VERSION => Some(cursor.array()?),
            _ => None,
        };
    }
    if version == VERSION && chunks.iter().all(|chunk| chunk.codec == Codec::None) {
        return Err("its version is higher than its content needs".into());
    }
    Ok(chunks)
}

struct ExtentDecoder<'a> {
    chunks: &'a [ChunkDescriptor],
    chunk_pages: u64,
    expected_page: u64,
    /// Per chunk: whether an extent has named it.
    used: Vec<bool>,
}

impl<'a> ExtentDecoder<'a> {
    fn new(chunks: &'a [ChunkDescriptor], chunk_pages: u32) -> Self {
        Self { chunks, chunk_pages: u64::from(chunk_pages), expected_page: 0, used: vec![false; chunks.len()] }
    }

    /// Appends the extents of one disk or file, which must cover exactly `size_bytes`.
    fn take(&mut self, cursor: &mut Cursor<'_>, size_bytes: u64, out: &mut Vec<Extent>) -> Result<(), Malformed> {
        let count = cursor.count(EXTENT_BYTES_MIN)?;
        out.reserve(count);
        let mut target_offset = 0u64;
        for _ in 0..count {
            let head = cursor.varint()?;
            let in_pages = head & 4 == 0;
            let length = if in_pages { (head >> 3).saturating_mul(PAGE_BYTES as u64) } else { head >> 3 };
            if length == 0 || length > size_bytes - target_offset {
                return Err("an extent's length is out of range".into());
            }
            if !in_pages && length.is_multiple_of(PAGE_BYTES as u64) {
                return Err("an extent's length is not in its shortest form".into());
            }
            let content = match head & 3 {
                0 => self.data(cursor, length)?,
                1 => Content::Zero,
                2 => Content::Hole,
                _ => return Err("an extent's kind is unknown".into()),
            };
            out.push(Extent { target_offset, length, content });
            target_offset += length;
        }
        if target_offset != size_bytes {
            return Err("the extents do not cover the whole size".into());
        }
        Ok(())
    }

    fn data(&mut self, cursor: &mut Cursor<'_>, length: u64) -> Result<Content, Malformed> {
        let first_page = self.expected_page.checked_add_signed(cursor.zigzag()?).ok_or("an extent's chunk is out of range")?;
        let (chunk, page) = (first_page / self.chunk_pages, first_page % self.chunk_pages);
        let descriptor = self.chunks.get(chunk as usize).ok_or("an extent's chunk is out of range")?;
        let room = u64::from(descriptor.raw_bytes).saturating_sub(page * PAGE_BYTES as u64);
        if length > room {
            return Err("an extent reaches beyond its chunk".into());
        }
        self.used[chunk as usize] = true;
        self.expected_page = first_page + crate::units::pages_of(length);
        Ok(Content::Data { chunk: chunk as u32, page: page as u32 })
    }
}

fn tree(cursor: &mut Cursor<'_>, extents: &mut ExtentDecoder<'_>) -> Result<TreeBody, Malformed> {
    let count = cursor.count(ENTRY_BYTES_MIN)?;
    let mut body = TreeBody { entries: Vec::with_capacity(count), extents: Vec::new() };
    // Length of each entry's path, to refuse what no system call could name.
    let mut path_bytes: Vec<u16> = Vec::with_capacity(count);
    let mut previous_mtime_s = 0;
    for index in 0..count {
        let entry = entry(cursor, index, &body.entries, &mut previous_mtime_s)?;
        let mut entry = entry;
        if let EntryKind::File { size_bytes, extents: range } = &mut entry.kind {
            *size_bytes = size(cursor)?;
            let start = body.extents.len();
            extents.take(cursor, *size_bytes, &mut body.extents)?;
            *range = start..body.extents.len();
            if body.extents[start..].iter().any(|extent| !extent.target_offset.is_multiple_of(PAGE_BYTES as u64)) {
                return Err("an extent of a file does not begin at a page".into());
            }
        }
        let before = if index == 0 { 0 } else { usize::from(path_bytes[entry.parent as usize]) + 1 };
        let length = before + entry.name.len();
        if length > PATH_BYTES_MAX {
            return Err("a path is too long".into());
        }
        path_bytes.push(length as u16);
        body.entries.push(entry);
    }
    if body.entries.is_empty() {
        return Err("the tree has no root".into());
    }
    let mut names = HashSet::with_capacity(count);
    if !body.entries.iter().skip(1).all(|entry| names.insert((entry.parent, entry.name.as_slice()))) {
        return Err("a directory holds a name twice".into());
    }
    Ok(body)
}

fn entry(cursor: &mut Cursor<'_>, index: usize, earlier: &[Entry], previous_mtime_s: &mut i64) -> Result<Entry, Malformed> {
    let kind = cursor.byte()?;
    let name = cursor.string(NAME_BYTES_MAX)?.to_vec();
    let parent = reference(cursor, index)?;
    if index == 0 {
        if kind != 0 || !name.is_empty() || parent != 0 {
            return Err("the first entry is not a root directory".into());
        }
    } else {
        check_name(&name)?;
        if parent as usize == index || earlier[parent as usize].kind != EntryKind::Directory {
            return Err("an entry's parent is no directory before it".into());
        }
    }
    if kind == 3 {
        let original = reference(cursor, index)?;
        let valid = |entry: &Entry| !matches!(entry.kind, EntryKind::Directory | EntryKind::HardLink { .. });
        if !earlier.get(original as usize).is_some_and(valid) {
            return Err("a hard link names no earlier file".into());
        }
        let kind = EntryKind::HardLink { original };
        return Ok(Entry { parent, name, mode: 0, uid: 0, gid: 0, mtime_s: 0, mtime_ns: 0, xattrs: Vec::new(), kind });
    }
    let mode = u16::try_from(cursor.varint()?).ok().filter(|mode| mode & !0o7777 == 0).ok_or("a mode is out of range")?;
    let (uid, gid) = (cursor.varint_u32()?, cursor.varint_u32()?);
    if uid == u32::MAX || gid == u32::MAX {
        // Means "leave as it is" to chown.
        return Err("an owner is out of range".into());
    }
    let mtime_s = previous_mtime_s.wrapping_add(cursor.zigzag()?);
    *previous_mtime_s = mtime_s;
    let mtime_ns = cursor.varint_u32()?;
    if mtime_ns >= 1_000_000_000 {
        return Err("a time is out of range".into());
    }
    let xattrs = xattrs(cursor)?;
    let kind = match kind {
        0 => EntryKind::Directory,
        // The caller, who has the extents, fills it in.
        1 => EntryKind::File { size_bytes: 0, extents: 0..0 },
        2 => {
            let target = cursor.string(PATH_BYTES_MAX)?.to_vec();
            if target.is_empty() || target.contains(&0) {
                return Err("a symbolic link's target is not valid".into());
            }
            EntryKind::Symlink { target }
        }
        4 => EntryKind::CharacterDevice { major: cursor.varint_u32()?, minor: cursor.varint_u32()? },
        5 => EntryKind::BlockDevice { major: cursor.varint_u32()?, minor: cursor.varint_u32()? },
        6 => EntryKind::Fifo,
        7 => EntryKind::Socket,
        _ => return Err("an entry's kind is unknown".into()),
    };
    Ok(Entry { parent, name, mode, uid, gid, mtime_s, mtime_ns, xattrs, kind })
}

/// An earlier entry, stored as the distance back to it.
fn reference(cursor: &mut Cursor<'_>, index: usize) -> Result<u32, Malformed> {
    let distance = cursor.varint()?;
    let entry = (index as u64).checked_sub(distance).ok_or("an entry refers to one before the first")?;
    u32::try_from(entry).map_err(|_| "there are too many entries".into())
}

/// One component: nothing that leaves its directory.
fn check_name(name: &[u8]) -> Result<(), Malformed> {
    if !is_component(name) {
        return Err("an entry's name is not valid".into());
    }
    Ok(())
}

/// Whether a name stays in its directory.
pub(super) fn is_component(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

fn xattrs(cursor: &mut Cursor<'_>) -> Result<Vec<Xattr>, Malformed> {
    let count = cursor.count(2)?;
    let mut xattrs: Vec<Xattr> = Vec::new();
    for _ in 0..count {
        let name = cursor.string(XATTR_NAME_BYTES_MAX)?;
        if name.is_empty() || name.contains(&0) || xattrs.last().is_some_and(|(last, _)| last.as_slice() >= name) {
            return Err("an extended attribute's name is not valid".into());
        }
        xattrs.push((name.to_vec(), cursor.string(XATTR_VALUE_BYTES_MAX)?.to_vec()));
    }
    Ok(xattrs)
}
