//! How fast one core checks and decompresses chunks like those of the image.

use std::time::{Duration, Instant};

use image::manifest::ChunkDescriptor;
use image::restore::{check_chunk, decode_chunk};
use image::{Codec, Manifest};

use super::disk::noise;
use super::per_second;

/// Some tens of chunks, after the one that warms caches up.
const TEST_TIME: Duration = Duration::from_millis(10);
/// A chunk of 200 symbols of a jumbo frame each is no larger, whatever a manifest says.
const SAMPLE_BYTES_MAX: u32 = 2 << 20;
/// Noise comes in pieces of this, as far as the image's chunks do not compress, and zeros between them.
const PIECE_BYTES: usize = 512;
/// Chunks that compress less than this are stored as they are.
const SHARE_MAX: f64 = 0.95;

/// Stored bytes a second, in the image's mixture of codecs.
///
/// # Errors
/// When a sample cannot be made.
pub(super) fn check_rate(manifest: &Manifest) -> Result<u64, String> {
    let (mut stored_bytes, mut time) = (0, Duration::ZERO);
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let of_codec: Vec<&ChunkDescriptor> = manifest.chunks.iter().filter(|chunk| chunk.codec == codec).collect();
        if of_codec.is_empty() {
            continue;
        }
        let bytes = of_codec.iter().map(|chunk| u64::from(chunk.stored_bytes)).sum::<u64>();
        stored_bytes += bytes;
        time += Duration::from_secs_f64(bytes as f64 / rate_of(codec, &of_codec)? as f64);
    }
    Ok(per_second(stored_bytes, time))
}

/// Stored bytes a second of chunks like these, which all have that codec.
fn rate_of(codec: Codec, chunks: &[&ChunkDescriptor]) -> Result<u64, String> {
    let (descriptor, stored) = sample(codec, chunks)?;
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

/// As large as the largest of `chunks`, within reason, and compresses about as well as all of them.
fn sample(codec: Codec, chunks: &[&ChunkDescriptor]) -> Result<(ChunkDescriptor, Vec<u8>), String> {
    let stored_bytes = chunks.iter().map(|chunk| u64::from(chunk.stored_bytes)).sum::<u64>();
    let raw_bytes = chunks.iter().map(|chunk| u64::from(chunk.raw_bytes)).sum::<u64>().max(1);
    // A codec that is used saves something, of the sample too.
    let share = (stored_bytes as f64 / raw_bytes as f64).clamp(0.0, SHARE_MAX);
    let mut raw = vec![0; chunks.iter().map(|chunk| chunk.raw_bytes).max().unwrap_or(0).min(SAMPLE_BYTES_MAX) as usize];
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
