//! An image of a pack as a source, so that a new pack can be made of it: a disk or tree with the same runs, pages and holes as when it was packed.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::Pack;
use crate::manifest::{Body, Content, Entry, EntryKind, Extent, Manifest};
use crate::restore::decode_chunk;
use crate::source::{PageSink, Source};
use crate::{Error, ImageKind, PAGE_BYTES, Result};

/// Decoded chunks that are kept: an image reads from several segments in turns, from each mostly in order.
const CACHE_BYTES: usize = 64 << 20;
const CACHE_CHUNKS_MIN: usize = 8;

/// Image number `image` of a pack.
pub(super) struct PackSource {
    pack: Arc<Pack>,
    manifest: Manifest,
    cache: ChunkCache,
}

impl PackSource {
    pub(super) fn new(pack: Arc<Pack>, image: usize) -> Result<Self> {
        let manifest = pack.manifest(image)?;
        let room = (CACHE_BYTES / manifest.chunk_bytes_max().max(1)).max(CACHE_CHUNKS_MIN);
        Ok(Self { pack, manifest, cache: ChunkCache { room, clock: 0, chunks: HashMap::new() } })
    }
}

impl Source for PackSource {
    fn kind(&self) -> ImageKind {
        self.manifest.kind()
    }

    fn path(&self) -> &Path {
        self.pack.path()
    }

    fn scan(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let Self { pack, manifest, cache } = self;
        let mut reader = ExtentReader { pack, manifest, cache };
        match &manifest.body {
            Body::Disk(disk) => reader.hand_over(&disk.extents, sink),
            Body::Tree(tree) => {
                for entry in &tree.entries {
                    let (entry, extents) = without_extents(entry);
                    sink.entry(entry)?;
                    reader.hand_over(tree.extents.get(extents).unwrap_or_default(), sink)?;
                }
                Ok(())
            }
        }
    }

    fn estimated_bytes(&self) -> u64 {
        self.manifest.logical_bytes()
    }
}

/// The entry as sources describe it, and the range of its extents.
fn without_extents(entry: &Entry) -> (Entry, std::ops::Range<usize>) {
    let mut entry = entry.clone();
    let range = match &mut entry.kind {
        EntryKind::File { extents, .. } => std::mem::replace(extents, 0..0),
        _ => 0..0,
    };
    (entry, range)
}

struct ExtentReader<'a> {
    pack: &'a Pack,
    manifest: &'a Manifest,
    cache: &'a mut ChunkCache,
}

impl ExtentReader<'_> {
    /// Every extent is a run of its own: pages are cut from the start of each run, as they were when the image was packed.
    fn hand_over(&mut self, extents: &[Extent], sink: &mut dyn PageSink) -> Result<()> {
        for extent in extents {
            match extent.content {
                Content::Hole => sink.hole(extent.target_offset, extent.length)?,
                Content::Zero => sink.data(extent.target_offset, extent.length, &mut |buffer| {
                    buffer.fill(0);
                    Ok(())
                })?,
                Content::Data { chunk, page } => {
                    let raw = self.cache.chunk(self.pack, self.manifest, chunk)?;
                    let start = page as usize * PAGE_BYTES;
                    let end = start.saturating_add(usize::try_from(extent.length).unwrap_or(usize::MAX));
                    let short = || Error::pack(self.pack.path(), format!("chunk {chunk}"), "an extent reaches beyond it");
                    let mut rest = raw.get(start..end).ok_or_else(short)?;
                    sink.data(extent.target_offset, extent.length, &mut |buffer| {
                        let (now, later) = rest.split_at_checked(buffer.len()).ok_or_else(short)?;
                        buffer.copy_from_slice(now);
                        rest = later;
                        Ok(())
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Decoded chunks, the least recently used one is given up.
struct ChunkCache {
    room: usize,
    clock: u64,
    /// By index in the manifest: when it was used last, and its raw bytes.
    chunks: HashMap<u32, (u64, Vec<u8>)>,
}

impl ChunkCache {
    fn chunk(&mut self, pack: &Pack, manifest: &Manifest, index: u32) -> Result<&[u8]> {
        self.clock += 1;
        if !self.chunks.contains_key(&index) {
            let mut buffer = if self.chunks.len() >= self.room { self.give_up() } else { Vec::new() };
            read(pack, manifest, index, &mut buffer)?;
            self.chunks.insert(index, (0, buffer));
        }
        let (used, raw) = self.chunks.get_mut(&index).ok_or(Error::Stopped)?;
        *used = self.clock;
        Ok(raw)
    }

    /// The buffer of the chunk that was not used for the longest time.
    fn give_up(&mut self) -> Vec<u8> {
        let oldest = self.chunks.iter().min_by_key(|(_, (used, _))| *used).map(|(index, _)| *index);
        oldest.and_then(|index| self.chunks.remove(&index)).map(|(_, buffer)| buffer).unwrap_or_default()
    }
}

/// Reads, checks and decodes a chunk.
fn read(pack: &Pack, manifest: &Manifest, index: u32, raw: &mut Vec<u8>) -> Result<()> {
    let missing = || Error::pack(pack.path(), "chunk table", format!("it does not have chunk {index} of {}", manifest.name));
    let descriptor = manifest.chunks.get(index as usize).ok_or_else(missing)?;
    let record = pack.chunks().get(descriptor.id.index()).filter(|record| record.agrees_with(descriptor)).ok_or_else(missing)?;
    let mut stored = vec![0; record.stored_bytes as usize];
    pack.file.read_exact_at(&mut stored, record.offset).map_err(Error::io("reading", pack.path()))?;
    raw.resize(record.raw_bytes as usize, 0);
    decode_chunk(descriptor, &stored, raw).map_err(|error| Error::pack(pack.path(), format!("chunk {}", descriptor.id), error.to_string()))
}
