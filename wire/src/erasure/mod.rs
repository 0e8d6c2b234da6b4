//! Repair symbols: a systematic, maximum-distance-separable code over the source symbols of one chunk. Any K of the K + R symbols
//! give the chunk back; source symbols travel as they are.
//!
//! Repair symbol `j` is the sum over all sources `i` of `c(j, i)` times source `i` in GF(2^8), `c` being a Cauchy matrix that depends
//! on neither K nor R: each repair symbol can be made alone. Decoding subtracts the sources that are there from `e` repair
//! symbols and solves the `e` x `e` system that is left, so its work grows with what is missing and not with K + R.
//!
//! Cells are contiguous: symbol `i` of a chunk is `cells[i * symbol_bytes..][..symbol_bytes]`.

mod field;
mod kernel;

pub use kernel::Kernel;

use crate::ids::SymbolIndex;
use kernel::ROWS_MAX;
use std::ops::Range;

/// R, the repair symbols that exist for a chunk of K = `source_symbols`: a quarter of K, in steps of 8. The sender cycles through
/// sources and repairs when a chunk needs more. 48 for K = 187.
pub const fn repair_symbols(source_symbols: u16) -> u16 {
    source_symbols.div_ceil(4).next_multiple_of(8)
}

/// What cannot be encoded or decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
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
    /// K is 0 or K + R is more than the field has elements.
    #[error("the code has no chunks of {0} source symbols")]
    SourceSymbols(u16),
    /// A symbol index that is no repair symbol of the chunk, or is given twice.
    #[error("symbol {0} is no repair symbol of this chunk or is given twice")]
    Repair(u16),
}

/// Makes repair symbols.
pub struct Encoder {
    symbol_bytes: usize,
    kernel: Kernel,
}

impl Encoder {
    /// An encoder for symbols of `symbol_bytes`.
    pub fn new(symbol_bytes: u16) -> Encoder {
        Encoder { symbol_bytes: usize::from(symbol_bytes), kernel: Kernel::best() }
    }

    /// Uses `kernel` rather than the best one, to compare them.
    ///
    /// # Panics
    /// Encoding panics when the processor lacks it; see [`Kernel::available`].
    #[must_use]
    pub fn with_kernel(self, kernel: Kernel) -> Encoder {
        Encoder { kernel, ..self }
    }

    /// Writes all R repair symbols of the chunk in `source` (K cells, the last padded with zeros) to `repair` (R cells).
    ///
    /// # Errors
    /// Those of [`Encoder::encode_some`].
    pub fn encode(&mut self, source_symbols: u16, source: &[u8], repair: &mut [u8]) -> Result<(), Error> {
        self.encode_some(source_symbols, source, 0..repair_symbols(source_symbols), repair)
    }

    /// Writes the repair symbols `wanted` (counted from 0: symbol index less K) of the chunk in `source` to the cells of `repair`.
    ///
    /// # Errors
    /// [`Error::Size`] when the buffers do not match, [`Error::SourceSymbols`] and [`Error::Repair`] when the code has no such symbols.
    pub fn encode_some(&mut self, source_symbols: u16, source: &[u8], wanted: Range<u16>, repair: &mut [u8]) -> Result<(), Error> {
        let k = check_source_symbols(source_symbols)?;
        check_size("source symbols", source.len(), k * self.symbol_bytes)?;
        check_size("repair symbols", repair.len(), wanted.len() * self.symbol_bytes)?;
        if wanted.end > repair_symbols(source_symbols) {
            return Err(Error::Repair(source_symbols + wanted.end));
        }
        let sources: Vec<&[u8]> = source.chunks_exact(self.symbol_bytes).collect();
        let factors: Vec<u8> = wanted.flat_map(|repair| (0..k).map(move |source| field::coefficient(repair as u8, source as u8))).collect();
        repair.fill(0);
        let mut cells: Vec<&mut [u8]> = repair.chunks_exact_mut(self.symbol_bytes).collect();
        add_rows(self.kernel, &mut cells, &sources, &factors, self.symbol_bytes);
        Ok(())
    }
}

/// Restores missing source symbols. Keeps its working memory between chunks.
pub struct Decoder {
    symbol_bytes: usize,
    kernel: Kernel,
    syndromes: Vec<u8>,
}

impl Decoder {
    /// A decoder for symbols of `symbol_bytes`.
    pub fn new(symbol_bytes: u16) -> Decoder {
        Decoder { symbol_bytes: usize::from(symbol_bytes), kernel: Kernel::best(), syndromes: Vec::new() }
    }

    /// Uses `kernel` rather than the best one, to compare them.
    ///
    /// # Panics
    /// Decoding panics when the processor lacks it; see [`Kernel::available`].
    #[must_use]
    pub fn with_kernel(self, kernel: Kernel) -> Decoder {
        Decoder { kernel, ..self }
    }

    /// Fills the cells of `source` (K cells) for which `present` says no, from the others and from `repair`: indices (from K on) with
    /// their symbols. Surplus repair symbols are ignored.
    ///
    /// # Errors
    /// [`Error::TooFew`] when there are fewer than K symbols in all, [`Error::Repair`] on an index that the chunk does not have or
    /// that comes twice, [`Error::Size`] on buffers that do not match. `source` is unchanged then.
    pub fn decode<'a>(
        &mut self,
        source_symbols: u16,
        source: &mut [u8],
        present: impl Fn(SymbolIndex) -> bool,
        repair: impl Iterator<Item = (SymbolIndex, &'a [u8])>,
    ) -> Result<(), Error> {
        let k = check_source_symbols(source_symbols)?;
        let symbol_bytes = self.symbol_bytes;
        check_size("source symbols", source.len(), k * symbol_bytes)?;
        let (there, missing): (Vec<u8>, Vec<u8>) = (0..k as u8).partition(|&index| present(SymbolIndex(index.into())));
        if missing.is_empty() {
            return Ok(());
        }
        let e = missing.len();
        let mut rows: Vec<u8> = Vec::with_capacity(e);
        self.syndromes.clear();
        for (index, symbol) in repair.take(e) {
            let row = index.0.checked_sub(source_symbols).filter(|&row| row < repair_symbols(source_symbols));
            let row = row.map(|row| row as u8).filter(|row| !rows.contains(row)).ok_or(Error::Repair(index.0))?;
            check_size("repair symbol", symbol.len(), symbol_bytes)?;
            rows.push(row);
            self.syndromes.extend_from_slice(symbol);
        }
        if rows.len() < e {
            return Err(Error::TooFew { have: there.len() + rows.len(), want: k });
        }
        // What the missing sources alone contribute to each repair symbol.
        let factors_of = |columns: &[u8]| -> Vec<u8> {
            rows.iter().flat_map(|&row| columns.iter().map(move |&column| field::coefficient(row, column))).collect()
        };
        {
            let sources: Vec<&[u8]> = there.iter().map(|&index| &source[usize::from(index) * symbol_bytes..][..symbol_bytes]).collect();
            let mut cells: Vec<&mut [u8]> = self.syndromes.chunks_exact_mut(symbol_bytes).collect();
            add_rows(self.kernel, &mut cells, &sources, &factors_of(&there), symbol_bytes);
        }
        let mut inverse = vec![0; e * e];
        // Distinct rows and columns of a Cauchy matrix always have an inverse; were it not so, nothing may be written.
        if !field::invert_matrix(&mut factors_of(&missing), &mut inverse, e) {
            return Err(Error::Repair(source_symbols + u16::from(rows[0])));
        }
        let syndromes: Vec<&[u8]> = self.syndromes.chunks_exact(symbol_bytes).collect();
        let mut cells: Vec<&mut [u8]> = source
            .chunks_exact_mut(symbol_bytes)
            .enumerate()
            .filter(|(index, _)| missing.binary_search(&(*index as u8)).is_ok())
            .map(|(_, cell)| {
                cell.fill(0);
                cell
            })
            .collect();
        add_rows(self.kernel, &mut cells, &syndromes, &inverse, symbol_bytes);
        Ok(())
    }
}

/// Adds the combinations of `sources` that `factors` (row by row, one row per cell) describes to `cells`.
fn add_rows(kernel: Kernel, cells: &mut [&mut [u8]], sources: &[&[u8]], factors: &[u8], symbol_bytes: usize) {
    if sources.is_empty() {
        return;
    }
    for (cells, factors) in cells.chunks_mut(ROWS_MAX).zip(factors.chunks(ROWS_MAX * sources.len())) {
        let rows: Vec<&[u8]> = factors.chunks_exact(sources.len()).collect();
        kernel.add_combinations(cells, sources, &rows, symbol_bytes);
    }
}

fn check_source_symbols(source_symbols: u16) -> Result<usize, Error> {
    let fits = source_symbols > 0 && source_symbols <= 256 && source_symbols + repair_symbols(source_symbols) <= 256;
    if fits { Ok(source_symbols.into()) } else { Err(Error::SourceSymbols(source_symbols)) }
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
            assert_eq!(check_source_symbols(k), Ok(k.into()));
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
    fn a_repair_symbol_made_alone_is_the_one_made_with_all_others() {
        let original = chunk(187, 3);
        let mut all = vec![0; 48 * 64];
        let mut encoder = Encoder::new(SYMBOL_BYTES);
        encoder.encode(187, &original, &mut all).unwrap();
        for index in 0..48 {
            let mut alone = [0; 64];
            encoder.encode_some(187, &original, index..index + 1, &mut alone).unwrap();
            assert_eq!(alone, all[usize::from(index) * 64..][..64]);
        }
        assert_eq!(encoder.encode_some(187, &original, 48..49, &mut [0; 64]), Err(Error::Repair(187 + 49)));
    }

    /// The code itself, byte for byte. A change here is a change of the erasure code that both ends must name at enrolment.
    #[test]
    fn golden_repair_symbols() {
        let mut repair = [0; 8 * 4];
        Encoder { symbol_bytes: 4, kernel: Kernel::Portable }.encode(3, b"discuspacked"[..].as_ref(), &mut repair).unwrap();
        assert_eq!(crc32fast::hash(&repair), 0x0D45DF86);
        assert_eq!(repair[..4], [0x34, 0xF5, 0xB9, 0x45]);
    }

    #[test]
    fn repair_symbols_that_the_chunk_does_not_have_or_has_already_given_are_refused() {
        let mut cells = chunk(4, 1);
        let before = cells.clone();
        let symbol = [7; 64];
        let mut decode = |indices: [u16; 2]| {
            let repairs = indices.map(|index| (SymbolIndex(index), &symbol[..]));
            Decoder::new(SYMBOL_BYTES).decode(4, &mut cells, |index| index.0 > 1, repairs.into_iter())
        };
        assert_eq!(decode([4, 4]), Err(Error::Repair(4)));
        assert_eq!(decode([4, 12]), Err(Error::Repair(12)));
        assert_eq!(decode([4, 0]), Err(Error::Repair(0)));
        assert!(cells == before);
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
