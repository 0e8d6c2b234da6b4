//! Everything in a pack but the chunks: tables, manifests, directory, trailer and header, written when the chunks are known.

use super::body::ByteCounts;
use super::format::{DirectoryEntry, Header, SectionKind};
use super::proof::encode_end;
use super::records::{ChunkRecord, ImageInfo, Segment, encode_chunks, encode_images, encode_segments};
use crate::manifest::{self, Body, Extent, Manifest, envelope};
use crate::partial_file::PartialFile;
use crate::signature::SecretKey;
use crate::{ChunkId, Codec, Error, Result};

/// What the sections are made of.
pub(super) struct Content<'a> {
    pub(super) names: &'a [String],
    pub(super) chunk_pages: u32,
    /// For the sections.
    pub(super) codec: Codec,
    pub(super) segments: &'a [Segment],
    pub(super) records: Vec<ChunkRecord>,
    /// Where the chunk records end.
    pub(super) data_end: u64,
    /// Signs the pack.
    pub(super) key: Option<&'a SecretKey>,
    /// By image. Extents name chunks by id.
    pub(super) bodies: Vec<(Body, ByteCounts)>,
}

/// Writes everything after the chunks, and the header.
pub(super) fn write(file: &PartialFile, content: Content<'_>) -> Result<()> {
    let Content { names, chunk_pages, codec, segments, records, data_end, key, bodies } = content;
    let header = Header { chunk_pages, chunks: records.len() as u32, segments: segments.len() as u32, images: names.len() as u32 };
    let mut sections = Sections { offset: data_end, bytes: Vec::new(), directory: Vec::new() };
    sections.add(SectionKind::ChunkTable, 0, encode_chunks(&records), codec);
    sections.add(SectionKind::SegmentTable, 0, encode_segments(segments, names.len()), codec);
    let mut infos = Vec::new();
    let mut manifests = Vec::new();
    for (name, (body, counts)) in names.iter().zip(bodies) {
        let manifest = into_manifest(name.clone(), chunk_pages, &records, body);
        infos.push(ImageInfo {
            name: name.clone(),
            kind: manifest.kind(),
            logical_bytes: counts.used + counts.zero + counts.hole,
            used_bytes: counts.used,
            zero_bytes: counts.zero,
            hole_bytes: counts.hole,
            unique_bytes: 0,
            stored_bytes: 0,
            chunks: 0,
        });
        manifests.push(manifest::encode(&manifest, codec)?);
    }
    sections.add(SectionKind::ImageTable, 0, encode_images(&infos), codec);
    for (image, manifest) in manifests.into_iter().enumerate() {
        // Compressed inside, so that it can be sent as it is.
        sections.add(SectionKind::Manifest, image as u32, manifest, Codec::None);
    }

    let header = header.encode();
    let Sections { offset: directory_offset, mut bytes, directory } = sections;
    bytes.extend_from_slice(&encode_end(&header, &directory, directory_offset, key));
    let write = |bytes: &[u8], offset| {
        std::os::unix::fs::FileExt::write_all_at(file.file(), bytes, offset).map_err(Error::io("writing", file.partial_path()))
    };
    write(&bytes, data_end)?;
    write(&header, 0)
}

/// The sections so far.
struct Sections {
    /// Where in the file the next one begins.
    offset: u64,
    bytes: Vec<u8>,
    directory: Vec<u8>,
}

impl Sections {
    fn add(&mut self, kind: SectionKind, id: u32, raw: Vec<u8>, codec: Codec) {
        let raw_bytes = raw.len() as u64;
        let (codec, stored) = envelope::seal(raw, codec);
        let (offset, stored_bytes) = (self.offset, stored.len() as u64);
        let hash = *blake3::hash(&stored).as_bytes();
        DirectoryEntry { kind, codec, id, offset, stored_bytes, raw_bytes, hash }.encode(&mut self.directory);
        self.offset += stored_bytes;
        self.bytes.extend_from_slice(&stored);
    }
}

/// Numbers the chunks that the body uses from 0, as manifests do.
fn into_manifest(name: String, chunk_pages: u32, records: &[ChunkRecord], mut body: Body) -> Manifest {
    let extents: &mut Vec<Extent> = match &mut body {
        Body::Disk(disk) => &mut disk.extents,
        // Just built, so there is one reference and nothing is cloned.
        Body::Tree(tree) => &mut std::sync::Arc::make_mut(tree).extents,
    };
    const UNUSED: u32 = u32::MAX;
    let mut local = vec![UNUSED; records.len()];
    for extent in extents.iter() {
        if let manifest::Content::Data { chunk, .. } = extent.content {
            local[chunk as usize] = 0;
        }
    }
    let mut chunks = Vec::new();
    for (id, local) in local.iter_mut().enumerate().filter(|(_, local)| **local != UNUSED) {
        *local = chunks.len() as u32;
        chunks.push(records[id].descriptor(ChunkId(id as u32)));
    }
    for extent in extents {
        if let manifest::Content::Data { chunk, .. } = &mut extent.content {
            *chunk = local[*chunk as usize];
        }
    }
    Manifest { name, chunk_pages, chunks, body }
}
