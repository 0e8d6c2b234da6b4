//! What comes in another way than by a stream: symbols that chunks in assembly lack, and whole chunks.

use super::{Assembler, State, Waiting};
use crate::assemble::placement::{Completed, EntryIndex, Ignored, Placement, SymbolSet};
use wire::{ChunkId, SymbolIndex};

impl Assembler {
    /// Where a source symbol goes that came in another way than by a stream; only to a chunk that is in assembly.
    pub fn on_fetched_symbol(&mut self, chunk: ChunkId, symbol: SymbolIndex) -> Placement {
        match self.index(chunk).filter(|_| self.is_open(chunk)) {
            Some(index) if symbol.0 < self.chunks[index].source_symbols => self.place(index, symbol, None),
            _ => Placement::Ignore(Ignored::Unwanted),
        }
    }

    /// The stored bytes of a chunk that is wanted and not assembled.
    pub fn wants(&self, chunk: ChunkId) -> Option<u32> {
        let chunk = &self.chunks[self.index(chunk)?];
        matches!(chunk.state, State::Wanted | State::Open(_)).then_some(chunk.stored_bytes)
    }

    /// Whether the chunk is in assembly, so that there is a buffer for it.
    pub fn is_open(&self, chunk: ChunkId) -> bool {
        self.index(chunk).is_some_and(|index| matches!(self.chunks[index].state, State::Open(_)))
    }

    /// Source symbols that would complete a chunk that is in assembly, ascending; as many as it needs.
    pub fn lacking(&self, chunk: ChunkId) -> Vec<SymbolIndex> {
        let Some(State::Open(EntryIndex(slot))) = self.index(chunk).map(|index| self.chunks[index].state) else { return Vec::new() };
        let Some(assembly) = self.entries.get(slot).and_then(Option::as_ref) else { return Vec::new() };
        let mut missing = assembly.missing(usize::MAX);
        missing.truncate(assembly.deficit().into());
        missing
    }

    /// All of a wanted chunk came in another way than by symbols. What there was of it is forgotten, and its entry is free, if it had one: the
    /// buffer is the caller's. `None` when the chunk is not wanted.
    pub fn supply(&mut self, chunk: ChunkId) -> Option<(Completed, Option<EntryIndex>)> {
        self.wants(chunk)?;
        let index = self.index(chunk)?;
        let entry = match self.chunks[index].state {
            State::Open(entry) => Some(entry),
            _ => None,
        };
        if let Some(EntryIndex(slot)) = entry {
            self.entries[slot] = None;
            self.free.push(slot);
            self.no_victim = false;
        }
        self.pending.push(Waiting { chunk: index, seen: None, held: false });
        self.unsettle(index);
        let chunk = &mut self.chunks[index];
        chunk.state = State::Pending;
        let mut source_present = SymbolSet::default();
        (0..chunk.source_symbols).for_each(|symbol| _ = source_present.insert(SymbolIndex(symbol)));
        let (source_symbols, stored_bytes) = (chunk.source_symbols, chunk.stored_bytes);
        Some((Completed { chunk: chunk.id, source_symbols, stored_bytes, source_present, repairs: Vec::new() }, entry))
    }
}
