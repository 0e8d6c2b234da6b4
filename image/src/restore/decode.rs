//! Stored bytes of a chunk to raw bytes. Nothing is decompressed before its hash has been checked.

use crate::decompress::decompress_into;
use crate::manifest::ChunkDescriptor;
use crate::{Error, Result};

/// Hashed at a time: BLAKE3 works on 16 blocks of 1 KiB side by side with AVX-512, on 8 with AVX2; and half of what a first-level cache holds.
const PIECE_BYTES: usize = 16 << 10;

/// The BLAKE3 of a chunk's stored bytes, begun while they come. Bytes that have just been copied are in the cache of the core that did so: hashing them there
/// takes less than half of what it takes another core later.
#[derive(Clone, Debug, Default)]
pub struct RunningHash {
    hasher: blake3::Hasher,
    hashed_bytes: usize,
}

impl RunningHash {
    /// Of nothing yet.
    pub fn new() -> RunningHash {
        RunningHash::default()
    }

    /// Begins anew, with another chunk.
    pub fn reset(&mut self) {
        self.hasher.reset();
        self.hashed_bytes = 0;
    }

    /// Takes in what has come of the chunk so far, from its start and without a gap, in whole pieces. What was there before must not have changed.
    pub fn extend(&mut self, prefix: &[u8]) {
        let end = prefix.len() / PIECE_BYTES * PIECE_BYTES;
        if let Some(pieces) = prefix.get(self.hashed_bytes..end).filter(|pieces| !pieces.is_empty()) {
            self.hasher.update(pieces);
            self.hashed_bytes = end;
        }
    }

    /// With what is still lacking of `stored`.
    fn finish(mut self, stored: &[u8]) -> [u8; 32] {
        if self.hashed_bytes == 0 {
            return *blake3::hash(stored).as_bytes();
        }
        // What is shorter than what was hashed has another length than its chunk, which was compared before.
        self.hasher.update(stored.get(self.hashed_bytes..).unwrap_or_default());
        *self.hasher.finalize().as_bytes()
    }
}

/// Checks that `stored` is what `chunk` describes.
///
/// # Errors
/// When length or BLAKE3 differ.
pub fn check_chunk(chunk: &ChunkDescriptor, stored: &[u8]) -> Result<()> {
    check_chunk_from(chunk, stored, RunningHash::new())
}

/// The same, where hashing has `begun`.
///
/// # Errors
/// When length or BLAKE3 differ.
pub fn check_chunk_from(chunk: &ChunkDescriptor, stored: &[u8], begun: RunningHash) -> Result<()> {
    let wrong = |why: String| Err(Error::Chunk { chunk: chunk.id, why });
    if stored.len() != chunk.stored_bytes as usize {
        return wrong(format!("{} bytes instead of {}", stored.len(), chunk.stored_bytes));
    }
    if begun.finish(stored) != chunk.hash {
        return wrong("its BLAKE3 differs: it is damaged".into());
    }
    Ok(())
}

/// Checks `stored` against the chunk's BLAKE3 and decodes it into `raw`, which must have exactly the chunk's raw length.
///
/// # Errors
/// When a length or the hash differs, or it does not decompress. `raw` is then of no use.
pub fn decode_chunk(chunk: &ChunkDescriptor, stored: &[u8], raw: &mut [u8]) -> Result<()> {
    decode_chunk_from(chunk, stored, RunningHash::new(), raw)
}

/// The same, where hashing has `begun`.
///
/// # Errors
/// As [`decode_chunk`].
pub fn decode_chunk_from(chunk: &ChunkDescriptor, stored: &[u8], begun: RunningHash, raw: &mut [u8]) -> Result<()> {
    check_chunk_from(chunk, stored, begun)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkId, Codec};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_hash_that_was_begun_is_that_of_the_whole(length in 1usize..300_000, mut steps in proptest::collection::vec(0usize..300_000, 0..20)) {
            let stored: Vec<u8> = (0..length).map(|at| (at * at / 7) as u8).collect();
            let hash = *blake3::hash(&stored).as_bytes();
            let bytes = length as u32;
            let chunk = ChunkDescriptor { id: ChunkId(0), stored_bytes: bytes, raw_bytes: bytes, codec: Codec::None, hash, raw_hash: None };
            let mut begun = RunningHash::new();
            begun.extend(&[0xEE; 40_000]);
            begun.reset();
            steps.sort_unstable();
            for step in steps {
                begun.extend(&stored[..step.min(length)]);
            }
            prop_assert!(check_chunk_from(&chunk, &stored, begun.clone()).is_ok());
            let mut damaged = stored;
            damaged[length - 1] ^= 1;
            // What was hashed already is not looked at again.
            let is_hashed = begun.hashed_bytes == length;
            prop_assert_eq!(check_chunk_from(&chunk, &damaged, begun).is_ok(), is_hashed);
            prop_assert!(check_chunk(&chunk, &damaged).is_err());
        }
    }
}
