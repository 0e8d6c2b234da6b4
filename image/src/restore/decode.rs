//! Stored bytes of a chunk to raw bytes. Nothing is decompressed before its hash has been checked.

use crate::decompress::decompress_into;
use crate::manifest::ChunkDescriptor;
use crate::{Error, Result};

/// Checks that `stored` is what `chunk` describes.
///
/// # Errors
/// When length or BLAKE3 differ.
pub fn check_chunk(chunk: &ChunkDescriptor, stored: &[u8]) -> Result<()> {
    let wrong = |why: String| Err(Error::Chunk { chunk: chunk.id, why });
    if stored.len() != chunk.stored_bytes as usize {
        return wrong(format!("{} bytes instead of {}", stored.len(), chunk.stored_bytes));
    }
    if *blake3::hash(stored).as_bytes() != chunk.hash {
        return wrong("its BLAKE3 differs: it is damaged".into());
    }
    Ok(())
}

/// Checks `stored` against the chunk's BLAKE3 and decodes it into `raw`, which must have exactly the chunk's raw length.
///
/// # Errors
/// When a length or the hash differs, or it does not decompress. `raw` is then of no use.
pub fn decode_chunk(chunk: &ChunkDescriptor, stored: &[u8], raw: &mut [u8]) -> Result<()> {
    check_chunk(chunk, stored)?;
    let wrong = |why: String| Err(Error::Chunk { chunk: chunk.id, why });
    if raw.len() != chunk.raw_bytes as usize {
        return wrong(format!("room for {} raw bytes instead of {}", raw.len(), chunk.raw_bytes));
    }
    match decompress_into(chunk.codec, stored, raw) {
        Ok(length) if length == chunk.raw_bytes as usize => Ok(()),
        Ok(length) => wrong(format!("it decompresses to {length} bytes instead of {}", chunk.raw_bytes)),
        Err(error) => wrong(format!("it does not decompress: {error}")),
    }
}
