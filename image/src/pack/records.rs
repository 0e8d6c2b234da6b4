//! The records of a pack's three tables, and how each table becomes a section and is read back. [`super::format`] has the layout.

use super::format::{ALIGN_BYTES, CHUNK_ENTRY_BYTES, Fields, Header, SEGMENT_ENTRY_BYTES};
use crate::manifest::{ChunkDescriptor, check_image_name};
use crate::{ChunkId, Codec, ImageKind, ImageSet, PAGE_BYTES};

/// Where a chunk is in the pack, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Where its stored bytes begin in the file: a multiple of 4096. They are padded with zeros to the next one.
    pub offset: u64,
    /// Bytes as stored and sent.
    pub stored_bytes: u32,
    /// Bytes when decoded.
    pub raw_bytes: u32,
    /// The segment it belongs to.
    pub segment: u32,
    /// How it is compressed.
    pub codec: Codec,
    /// BLAKE3 of the stored bytes.
    pub hash: [u8; 32],
    /// BLAKE3 of the raw bytes. Manifests hold it; the chunk table does not, so that of an opened pack knows it of uncompressed chunks
    /// only.
    pub raw_hash: Option<[u8; 32]>,
}

impl ChunkRecord {
    /// The same, as manifests say it.
    #[must_use]
    pub fn descriptor(&self, id: ChunkId) -> ChunkDescriptor {
        let Self { stored_bytes, raw_bytes, codec, hash, raw_hash, .. } = *self;
        ChunkDescriptor { id, stored_bytes, raw_bytes, codec, hash, raw_hash }
    }

    /// Whether a manifest's descriptor says the same, as far as this record says it.
    #[must_use]
    pub fn agrees_with(&self, described: &ChunkDescriptor) -> bool {
        let raw_hash = self.raw_hash.or(described.raw_hash);
        ChunkDescriptor { raw_hash, ..self.descriptor(described.id) } == *described
    }
}

/// Consecutive chunks that the same images want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first one.
    pub first_chunk: ChunkId,
    /// How many there are.
    pub chunks: u32,
    /// The pages in them.
    pub pages: u32,
    /// Who wants them.
    pub images: ImageSet,
}

/// What the pack says of an image besides its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its name.
    pub name: String,
    /// Disk or tree.
    pub kind: ImageKind,
    /// Size of the disk, or of all files.
    pub logical_bytes: u64,
    /// Bytes that are neither zero nor hole, before deduplication.
    pub used_bytes: u64,
    /// Bytes in pages of zeros.
    pub zero_bytes: u64,
    /// Bytes that the source did not store.
    pub hole_bytes: u64,
    /// Raw bytes of the chunks it needs: its used bytes after deduplication, in whole pages. Computed, not stored.
    pub unique_bytes: u64,
    /// Stored bytes of the chunks it needs: what it costs to send it alone. Computed, not stored.
    pub stored_bytes: u64,
    /// How many chunks it needs. Computed, not stored.
    pub chunks: u32,
}

pub(super) fn encode_chunks(chunks: &[ChunkRecord]) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunks.len() * CHUNK_ENTRY_BYTES);
    for chunk in chunks {
        out.extend_from_slice(&chunk.offset.to_le_bytes());
        out.extend_from_slice(&chunk.stored_bytes.to_le_bytes());
        out.extend_from_slice(&chunk.raw_bytes.to_le_bytes());
        out.extend_from_slice(&chunk.segment.to_le_bytes());
        out.extend_from_slice(&[chunk.codec.to_byte(), 0, 0, 0]);
        out.extend_from_slice(&chunk.hash);
    }
    out
}

/// `data_end` is where the chunk records end and the sections begin.
pub(super) fn decode_chunks(raw: &[u8], header: &Header, data_end: u64) -> Result<Vec<ChunkRecord>, String> {
    if raw.len() as u64 != u64::from(header.chunks) * CHUNK_ENTRY_BYTES as u64 {
        return Err("its length does not fit the number of chunks".into());
    }
    let entry = |(id, bytes)| chunk(bytes, header, data_end).ok_or_else(|| format!("the record of chunk {id} is not valid"));
    raw.chunks_exact(CHUNK_ENTRY_BYTES).enumerate().map(entry).collect()
}

fn chunk(bytes: &[u8], header: &Header, data_end: u64) -> Option<ChunkRecord> {
    let mut fields = Fields(bytes);
    let (offset, stored_bytes, raw_bytes, segment) = (fields.u64()?, fields.u32()?, fields.u32()?, fields.u32()?);
    let [codec, reserved @ ..] = fields.array::<4>()?;
    let codec = Codec::from_byte(codec)?;
    let hash = fields.array()?;
    let raw_in_range = raw_bytes.is_multiple_of(PAGE_BYTES as u32) && (1..=header.chunk_pages).contains(&(raw_bytes / PAGE_BYTES as u32));
    let stored_in_range = codec.allows(stored_bytes, raw_bytes);
    let place_in_range = offset.is_multiple_of(ALIGN_BYTES as u64)
        && offset >= ALIGN_BYTES as u64
        && offset <= data_end
        && crate::units::round_up(stored_bytes.into(), ALIGN_BYTES as u64) <= data_end - offset;
    (raw_in_range && stored_in_range && place_in_range && segment < header.segments && reserved == [0; 3]).then_some(ChunkRecord {
        offset,
        stored_bytes,
        raw_bytes,
        segment,
        codec,
        hash,
        raw_hash: (codec == Codec::None).then_some(hash),
    })
}

pub(super) fn encode_segments(segments: &[Segment], images: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for segment in segments {
        out.extend_from_slice(&segment.first_chunk.0.to_le_bytes());
        out.extend_from_slice(&segment.chunks.to_le_bytes());
        out.extend_from_slice(&segment.pages.to_le_bytes());
        let start = out.len();
        out.resize(start + images.div_ceil(8), 0);
        for image in segment.images.iter() {
            out[start + image / 8] |= 1 << (image % 8);
        }
    }
    out
}

/// Checks that the segments tile the chunks and agree with them.
pub(super) fn decode_segments(raw: &[u8], header: &Header, chunks: &[ChunkRecord]) -> Result<Vec<Segment>, String> {
    let images = header.images as usize;
    let entry_bytes = SEGMENT_ENTRY_BYTES + images.div_ceil(8);
    if raw.len() as u64 != u64::from(header.segments) * entry_bytes as u64 {
        return Err("its length does not fit the number of segments".into());
    }
    let mut segments = Vec::with_capacity(header.segments as usize);
    let mut next_chunk = 0;
    for (index, bytes) in raw.chunks_exact(entry_bytes).enumerate() {
        let wrong = || format!("segment {index} is not valid");
        let segment = segment(bytes, images).ok_or_else(wrong)?;
        let end = segment.first_chunk.index() + segment.chunks as usize;
        let members = chunks.get(segment.first_chunk.index()..end).ok_or_else(wrong)?;
        let pages: u64 = members.iter().map(|chunk| u64::from(chunk.raw_bytes) / PAGE_BYTES as u64).sum();
        let full = |chunk: &ChunkRecord| chunk.raw_bytes as usize == header.chunk_pages as usize * PAGE_BYTES;
        let filled = members.split_last().is_some_and(|(_, before)| before.iter().all(full));
        let agrees = members.iter().all(|chunk| chunk.segment as usize == index) && pages == u64::from(segment.pages);
        if segment.first_chunk.index() != next_chunk || !filled || !agrees {
            return Err(wrong());
        }
        next_chunk = end;
        segments.push(segment);
    }
    if next_chunk != chunks.len() {
        return Err("the segments do not hold every chunk".into());
    }
    Ok(segments)
}

fn segment(bytes: &[u8], images: usize) -> Option<Segment> {
    let mut fields = Fields(bytes);
    let (first_chunk, chunks, pages) = (ChunkId(fields.u32()?), fields.u32()?, fields.u32()?);
    let bitmap = fields.bytes(images.div_ceil(8))?;
    let set_bits = (0..bitmap.len() * 8).filter(|bit| bitmap[bit / 8] & (1 << (bit % 8)) != 0);
    let members: ImageSet = set_bits.collect();
    let in_range = members.iter().all(|image| image < images);
    (in_range && !members.is_empty()).then_some(Segment { first_chunk, chunks, pages, images: members })
}

pub(super) fn encode_images(images: &[ImageInfo]) -> Vec<u8> {
    let mut out = Vec::new();
    for image in images {
        out.extend_from_slice(&[image.kind.to_byte(), image.name.len() as u8]);
        out.extend_from_slice(image.name.as_bytes());
        for bytes in [image.logical_bytes, image.used_bytes, image.zero_bytes, image.hole_bytes] {
            out.extend_from_slice(&bytes.to_le_bytes());
        }
    }
    out
}

/// The computed fields are taken from the segments and their chunks.
pub(super) fn decode_images(raw: &[u8], header: &Header, chunks: &[ChunkRecord], segments: &[Segment]) -> Result<Vec<ImageInfo>, String> {
    let mut fields = Fields(raw);
    let mut images: Vec<ImageInfo> = Vec::new();
    for index in 0..header.images {
        let image = image(&mut fields).ok_or_else(|| format!("the record of image {index} is not valid"))?;
        if images.iter().any(|earlier| earlier.name == image.name) {
            return Err(format!("two images have the name {}", image.name));
        }
        images.push(image);
    }
    if !fields.0.is_empty() {
        return Err("bytes follow its end".into());
    }
    for segment in segments {
        let members = &chunks[segment.first_chunk.index()..][..segment.chunks as usize];
        let stored_bytes: u64 = members.iter().map(|chunk| u64::from(chunk.stored_bytes)).sum();
        for image in segment.images.iter() {
            images[image].unique_bytes += u64::from(segment.pages) * PAGE_BYTES as u64;
            images[image].stored_bytes += stored_bytes;
            images[image].chunks += segment.chunks;
        }
    }
    Ok(images)
}

fn image(fields: &mut Fields<'_>) -> Option<ImageInfo> {
    let kind = ImageKind::from_byte(fields.u8()?)?;
    let length = usize::from(fields.u8()?);
    let name = std::str::from_utf8(fields.bytes(length)?).ok()?.to_owned();
    check_image_name(&name).ok()?;
    let (logical_bytes, used_bytes, zero_bytes, hole_bytes) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
    let (unique_bytes, stored_bytes, chunks) = (0, 0, 0);
    Some(ImageInfo { name, kind, logical_bytes, used_bytes, zero_bytes, hole_bytes, unique_bytes, stored_bytes, chunks })
}
