//! The bytes that symbols carry when a run is to show that they come out right: made by the real encoder, restored by the real decoder.

use super::random::mixed;
use receiver::assemble::Completed;
use std::sync::OnceLock;
use wire::erasure::{Decoder, Encoder, repair_symbols};
use wire::{ChunkId, SymbolIndex};

/// Bytes of a symbol that are carried: the code works on each column of bytes by itself, so 64 of them, which take the kernels' whole width, prove
/// what 1408 would.
const CARRIED_BYTES: u16 = 64;

/// All symbols of all chunks, made when they are first sent.
#[derive(Debug)]
pub(super) struct Carried {
    seed: u64,
    source_symbols: Vec<u16>,
    chunks: Vec<OnceLock<Vec<u8>>>,
}

impl Carried {
    pub(super) fn new(seed: u64, source_symbols: &[u16]) -> Carried {
        Carried { seed, source_symbols: source_symbols.to_vec(), chunks: source_symbols.iter().map(|_| OnceLock::new()).collect() }
    }

    /// Puts a symbol into its cell.
    pub(super) fn store(&self, chunk: ChunkId, symbol: SymbolIndex, cell: u16, buffer: &mut Vec<u8>) {
        let all = self.symbols(chunk);
        buffer.resize(all.len(), 0);
        buffer[range(cell)].copy_from_slice(&all[range(symbol.0)]);
    }

    /// Decodes a chunk and compares it with what was sent.
    ///
    /// # Errors
    /// Says that it differs.
    pub(super) fn check(&self, completed: &Completed, buffer: &mut [u8]) -> Result<(), String> {
        let k = completed.source_symbols;
        let (sources, behind) = buffer.split_at_mut(usize::from(k) * usize::from(CARRIED_BYTES));
        if !completed.has_all_sources() {
            let repairs = completed.repairs.iter().map(|&(symbol, cell)| (symbol, &behind[range(cell - k)]));
            Decoder::new(CARRIED_BYTES)
                .decode(k, sources, |symbol| completed.source_present.contains(symbol), repairs)
                .map_err(|error| format!("chunk {}: {error}", completed.chunk))?;
        }
        match *sources == self.symbols(completed.chunk)[..sources.len()] {
            true => Ok(()),
            false => Err(format!("chunk {} was decoded to something else than was sent", completed.chunk)),
        }
    }

    fn symbols(&self, chunk: ChunkId) -> &[u8] {
        self.chunks[chunk.index()].get_or_init(|| {
            let k = self.source_symbols[chunk.index()];
            let source_bytes = usize::from(k) * usize::from(CARRIED_BYTES);
            let mut all = vec![0; source_bytes + usize::from(repair_symbols(k)) * usize::from(CARRIED_BYTES)];
            let (source, repair) = all.split_at_mut(source_bytes);
            for (index, byte) in source.iter_mut().enumerate() {
                *byte = mixed(self.seed ^ u64::from(chunk.0) << 32 ^ index as u64) as u8;
            }
            // It fails only for sizes that do not match, and these were made to.
            #[expect(clippy::expect_used)]
            Encoder::new(CARRIED_BYTES).encode(k, source, repair).expect("buffers of the right size");
            all
        })
    }
}

fn range(cell: u16) -> std::ops::Range<usize> {
    let at = usize::from(cell) * usize::from(CARRIED_BYTES);
    at..at + usize::from(CARRIED_BYTES)
}
