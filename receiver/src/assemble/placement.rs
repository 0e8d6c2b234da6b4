//! What goes into the assembler and what comes out of it: its configuration, where a symbol goes, a finished assembly.

use wire::report::ChunkRange;
use wire::session::SessionParameters;
use wire::{ChunkId, SymbolIndex};

/// What the assembler works with for as long as it lives.
#[derive(Clone, Debug)]
pub struct AssembleConfig {
    /// The session's parameters.
    pub parameters: SessionParameters,
    /// The chunks of this image with their stored bytes, in any order.
    pub chunks: Vec<(ChunkId, u32)>,
    /// Those of them that are still wanted.
    pub wanted: Vec<ChunkRange>,
    /// How many chunks may be in assembly at once; at least 1. The shell has one buffer for each.
    pub entries: usize,
}

/// A chunk in assembly; `0..entries`, used again when the chunk is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryIndex(pub usize);

/// What to do with a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Nothing.
    Ignore(Ignored),
    /// Copy it into the entry's buffer.
    Store {
        /// The entry.
        entry: EntryIndex,
        /// Cell `cell` of its buffer, at `cell * symbol_bytes`: source symbol i goes to cell i, repair symbols to cells K, K + 1, …
        /// in order of arrival, so that the source symbols stand in a row from the buffer's start.
        cell: u16,
        /// The entry is new and has no buffer yet: give it one, or call [`super::Assembler::refuse`].
        opens: bool,
        /// The entry belonged to this chunk, which is given up; its buffer serves the new one. The chunk stays wanted.
        evicted: Option<ChunkId>,
        /// The chunk can be decoded once the symbol is copied: call [`super::Assembler::complete`].
        completes: bool,
    },
}

/// Why a symbol is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ignored {
    /// It does not fit the session: wrong session, chunk outside the pack, wrong K, symbol index or length.
    Foreign,
    /// Its chunk is not wanted, or not any more.
    Unwanted,
    /// It is there already.
    Duplicate,
    /// All entries are taken by chunks that are more worth keeping.
    NoRoom,
}

/// A set of symbols of one chunk: K + R is at most 256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SymbolSet([u64; 4]);

impl SymbolSet {
    /// Whether `symbol` is in it. Indices from 256 on never are.
    pub fn contains(&self, symbol: SymbolIndex) -> bool {
        self.0.get(usize::from(symbol.0 / 64)).is_some_and(|word| word >> (symbol.0 % 64) & 1 == 1)
    }

    /// Adds `symbol`; whether it was new. Indices from 256 on are refused.
    pub fn insert(&mut self, symbol: SymbolIndex) -> bool {
        match self.0.get_mut(usize::from(symbol.0 / 64)) {
            Some(word) => {
                let bit = 1 << (symbol.0 % 64);
                let new = *word & bit == 0;
                *word |= bit;
                new
            }
            None => false,
        }
    }
}

/// A chunk with as many distinct symbols as it has source symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its K.
    pub source_symbols: u16,
    /// Its size without the padding of the last symbol.
    pub stored_bytes: u32,
    /// Which source symbols are in their cells; when all are, nothing has to be decoded.
    pub source_present: SymbolSet,
    /// The repair symbols and the cells that hold them.
    pub repairs: Vec<(SymbolIndex, u16)>,
}

impl Completed {
    /// Whether all source symbols arrived.
    pub fn has_all_sources(&self) -> bool {
        self.repairs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_set_holds_what_was_inserted_and_nothing_beyond_its_range() {
        let mut set = SymbolSet::default();
        assert!(set.insert(SymbolIndex(63)) && set.insert(SymbolIndex(64)) && set.insert(SymbolIndex(255)));
        assert!(!set.insert(SymbolIndex(64)));
        assert!(!set.insert(SymbolIndex(256)));
        assert!(set.contains(SymbolIndex(63)) && set.contains(SymbolIndex(255)));
        assert!(!set.contains(SymbolIndex(62)) && !set.contains(SymbolIndex(256)));
    }
}
