//! Repair symbols: a systematic, maximum-distance-separable code over the source symbols of one chunk. Any K of the K + R symbols
//! give the chunk back; source symbols travel as they are.
//!
//! Cells are contiguous: symbol `i` of a chunk is `cells[i * symbol_bytes..][..symbol_bytes]`.

use crate::ids::SymbolIndex;
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

/// R, the repair symbols that exist for a chunk of K = `source_symbols`: a quarter of K, in steps of 8. The sender cycles through
/// sources and repairs when a chunk needs more. 48 for K = 187: the code makes all of them at once, and their cost grows with R.
pub const fn repair_symbols(source_symbols: u16) -> u16 {
    source_symbols.div_ceil(4).next_multiple_of(8)
}

/// What cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cells that do not hold K (or R) symbols; a caller's mistake.
    #[error("{what}: {have} bytes where {want} are needed")]
    Size {
        /// Which buffer.
        what: &'static str,
        /// Its size.
        have: usize,
        /// The size that K, R and the symbol size ask for.
        want: usize,
    },
    /// Fewer than K distinct symbols.
    #[error("{have} symbols cannot give back a chunk of {want}")]
    TooFew {
        /// Distinct symbols given.
        have: usize,
        /// K.
        want: usize,
    },
    /// The code's own error (unsupported K or symbol size).
    #[error("erasure code: {0}")]
    Code(#[from] reed_solomon_simd::Error),
}

/// Makes repair symbols. Keeps its working memory between chunks.
pub struct Encoder {
    symbol_bytes: usize,
    code: Option<ReedSolomonEncoder>,
}

impl Encoder {
    /// An encoder for symbols of `symbol_bytes`.
    pub fn new(symbol_bytes: u16) -> Encoder {
        Encoder { symbol_bytes: usize::from(symbol_bytes), code: None }
    }

    /// Writes all R repair symbols of the chunk in `source` (K cells, the last padded with zeros) to `repair` (R cells).
    ///
    /// # Errors
    /// [`Error::Size`] when the buffers do not match `source_symbols`, [`Error::Code`] when the code does not support it.
    pub fn encode(&mut self, source_symbols: u16, source: &[u8], repair: &mut [u8]) -> Result<(), Error> {
        let (k, r) = (usize::from(source_symbols), usize::from(repair_symbols(source_symbols)));
        check_size("source symbols", source.len(), k * self.symbol_bytes)?;
        check_size("repair symbols", repair.len(), r * self.symbol_bytes)?;
        let mut code = match self.code.take() {
            Some(mut code) => {
                code.reset(k, r, self.symbol_bytes)?;
                code
            }
            None => ReedSolomonEncoder::new(k, r, self.symbol_bytes)?,
        };
        for symbol in source.chunks_exact(self.symbol_bytes) {
            code.add_original_shard(symbol)?;
        }
        {
            let encoded = code.encode()?;
            for (cell, symbol) in repair.chunks_exact_mut(self.symbol_bytes).zip(encoded.recovery_iter()) {
                cell.copy_from_slice(symbol);
            }
        }
        self.code = Some(code);
        Ok(())
    }
}

/// Restores missing source symbols. Keeps its working memory between chunks.
pub struct Decoder {
    symbol_bytes: usize,
    code: Option<ReedSolomonDecoder>,
}

impl Decoder {
    /// A decoder for symbols of `symbol_bytes`.
    pub fn new(symbol_bytes: u16) -> Decoder {
        Decoder { symbol_bytes: usize::from(symbol_bytes), code: None }
    }

    /// Fills the cells of `source` (K cells) for which `present` says no, from the others and from `repair`: indices (from K on) with
    /// their symbols. Surplus repair symbols are ignored.
    ///
    /// # Errors
    /// [`Error::TooFew`] when there are fewer than K symbols in all, [`Error::Size`] on buffers that do not match.
    pub fn decode<'a>(
        &mut self,
        source_symbols: u16,
        source: &mut [u8],
        present: impl Fn(SymbolIndex) -> bool,
        repair: impl Iterator<Item = (SymbolIndex, &'a [u8])>,
    ) -> Result<(), Error> {
        let (k, r) = (usize::from(source_symbols), usize::from(repair_symbols(source_symbols)));
        check_size("source symbols", source.len(), k * self.symbol_bytes)?;
        let missing = (0..source_symbols).filter(|&index| !present(SymbolIndex(index))).count();
        if missing == 0 {
            return Ok(());
        }
        let mut code = match self.code.take() {
            Some(mut code) => {
                code.reset(k, r, self.symbol_bytes)?;
                code
            }
            None => ReedSolomonDecoder::new(k, r, self.symbol_bytes)?,
        };
        let mut repairs = 0;
        for (index, symbol) in repair.take(missing) {
            code.add_recovery_shard(usize::from(index.0).wrapping_sub(k), symbol)?;
            repairs += 1;
        }
        if repairs < missing {
            return Err(Error::TooFew { have: k - missing + repairs, want: k });
        }
        for (index, symbol) in source.chunks_exact(self.symbol_bytes).enumerate() {
            if present(SymbolIndex(index as u16)) {
                code.add_original_shard(index, symbol)?;
            }
        }
        {
            let decoded = code.decode()?;
            for (index, symbol) in decoded.restored_original_iter() {
                source[index * self.symbol_bytes..][..self.symbol_bytes].copy_from_slice(symbol);
            }
        }
        self.code = Some(code);
        Ok(())
    }
}

fn check_size(what: &'static str, have: usize, want: usize) -> Result<(), Error> {
    if have == want { Ok(()) } else { Err(Error::Size { what, have, want }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SOURCE_SYMBOLS_MAX;
    use proptest::prelude::*;

    const SYMBOL_BYTES: u16 = 64;

    /// Bytes that differ from cell to cell, without a random source.
    fn chunk(k: u16, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..usize::from(k) * usize::from(SYMBOL_BYTES)).map(next).collect()
    }

    #[test]
    fn every_k_of_a_session_is_supported_and_stays_within_gf_256() {
        for k in 1..=SOURCE_SYMBOLS_MAX as u16 {
            assert!(ReedSolomonEncoder::supports(k.into(), repair_symbols(k).into()));
            assert!(k + repair_symbols(k) <= 256);
        }
    }

    #[test]
    fn too_few_symbols_are_an_error() {
        let mut cells = chunk(4, 1);
        let outcome = Decoder::new(SYMBOL_BYTES).decode(4, &mut cells, |index| index.0 > 0, std::iter::empty());
        assert!(matches!(outcome, Err(Error::TooFew { have: 3, want: 4 })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_k_symbols_give_the_chunk_back(
            k in 1u16..=200, seed: u64, erased in proptest::collection::vec(any::<prop::sample::Index>(), 0..48),
            order in any::<prop::sample::Index>(),
        ) {
            let original = chunk(k, seed);
            let r = repair_symbols(k);
            let mut repair = vec![0; usize::from(r) * usize::from(SYMBOL_BYTES)];
            let mut encoder = Encoder::new(SYMBOL_BYTES);
            encoder.encode(k, &original, &mut repair).unwrap();

            let mut present = vec![true; k.into()];
            for index in erased.iter().take(r.into()) {
                present[index.index(k.into())] = false;
            }
            let mut damaged = original.clone();
            for (cell, _) in damaged.chunks_exact_mut(64).zip(&present).filter(|(_, present)| !**present) {
                cell.fill(0xEE);
            }
            // Any of the repair symbols will do: start at an arbitrary one.
            let start = order.index(r.into()) as u16;
            let repairs = (0..r).map(|i| (start + i) % r).map(|i| (SymbolIndex(k + i), &repair[usize::from(i) * 64..][..64]));
            Decoder::new(SYMBOL_BYTES)
                .decode(k, &mut damaged, |index| present[usize::from(index.0)], repairs)
                .unwrap();
            prop_assert!(damaged == original);
        }
    }

    #[test]
    fn working_memory_is_reused_between_chunks_of_different_k() {
        let (mut encoder, mut decoder) = (Encoder::new(SYMBOL_BYTES), Decoder::new(SYMBOL_BYTES));
        for k in [187, 3, 1, 200, 16] {
            let original = chunk(k, u64::from(k));
            let mut repair = vec![0; usize::from(repair_symbols(k)) * 64];
            encoder.encode(k, &original, &mut repair).unwrap();
            let mut damaged = original.clone();
            damaged[..64].fill(0);
            decoder.decode(k, &mut damaged, |index| index.0 != 0, [(SymbolIndex(k), &repair[..64])].into_iter()).unwrap();
            assert!(damaged == original);
        }
    }
}
