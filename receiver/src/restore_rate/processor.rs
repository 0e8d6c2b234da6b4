//! How fast one core checks and decompresses chunks like those of the image.

use std::time::{Duration, Instant};

use image::manifest::ChunkDescriptor;
use image::restore::{check_chunk, decode_chunk};
use image::{Codec, Manifest};

use super::disk::noise;
use super::per_second;

/// Some tens of chunks, after the one that warms caches up.
const TEST_TIME: Duration = Duration::from_millis(10);
/// Noise comes in pieces of this, as far as the image's chunks do not compress, and zeros between them.
const PIECE_BYTES: usize = 512;
/// Chunks that compress less than this are stored as they are.
const SHARE_MAX: f64 = 0.95;

/// Stored bytes a second.
///
/// # Errors
/// When the sample cannot be made.
pub(super) fn check_rate(manifest: &Manifest) -> Result<u64, String> {
    let (descriptor, stored) = sample(manifest)?;
    let mut raw = vec![0; descriptor.raw_bytes as usize];
    let mut check = || match descriptor.codec {
        Codec::None => check_chunk(&descriptor, &stored),
        Codec::Lz4 | Codec::Zstd => decode_chunk(&descriptor, &stored, &mut raw),
    };
    let failed = |error| format!("checking a sample: {error}");
    check().map_err(failed)?;
    let (started, mut bytes) = (Instant::now(), 0);
    while started.elapsed() < TEST_TIME {
        check().map_err(failed)?;
        bytes += u64::from(descriptor.stored_bytes);
    }
    Ok(per_second(bytes, started.elapsed()))
}

/// A full chunk with the codec that most of the image has, that compresses about as well.
fn sample(manifest: &Manifest) -> Result<(ChunkDescriptor, Vec<u8>), String> {
    let of_codec = |codec| manifest.chunks.iter().filter(move |chunk| chunk.codec == codec);
    let stored_bytes = |codec| of_codec(codec).map(|chunk| u64::from(chunk.stored_bytes)).sum::<u64>();
    let codec = [Codec::None, Codec::Lz4, Codec::Zstd].into_iter().max_by_key(|&codec| stored_bytes(codec)).unwrap_or(Codec::None);
    let raw_bytes = of_codec(codec).map(|chunk| u64::from(chunk.raw_bytes)).sum::<u64>().max(1);
    // A codec that is used saves something, of the sample too.
    let share = (stored_bytes(codec) as f64 / raw_bytes as f64).clamp(0.0, SHARE_MAX);
    let mut raw = vec![0; of_codec(codec).map(|chunk| chunk.raw_bytes).max().unwrap_or(0) as usize];
    for (seed, piece) in raw.chunks_mut(PIECE_BYTES).enumerate() {
        let noisy = (piece.len() as f64 * share) as usize;
        noise(&mut piece[..noisy], seed as u64 + 1);
    }
    let stored = match codec {
        Codec::None => raw.clone(),
        Codec::Lz4 => lz4_flex::block::compress(&raw),
        Codec::Zstd => zstd::bulk::compress(&raw, zstd::DEFAULT_COMPRESSION_LEVEL).map_err(|error| format!("making a sample: {error}"))?,
    };
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| "chunks are too large".to_owned());
    let descriptor = ChunkDescriptor {
        id: image::ChunkId(0),
        stored_bytes: length(&stored)?,
        raw_bytes: length(&raw)?,
        codec,
        hash: *blake3::hash(&stored).as_bytes(),
        raw_hash: None,
    };
    Ok((descriptor, stored))
}
