//! One chunk in assembly: which symbols it has, where they are, and how recently one came.

use super::placement::SymbolSet;
use wire::{Micros, Sequence, StreamId, SymbolIndex};

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Index of the chunk in the assembler's table.
    pub(super) chunk: usize,
    /// Where its last symbol stood; `None` when the positions of that time, or of that stream, mean nothing any more.
    pub(super) last_seen: Option<(StreamId, Sequence)>,
    /// About when that was, as the assembler knows the time.
    pub(super) touched_at: Micros,
    source_symbols: u16,
    present: SymbolSet,
    sources: u16,
    repairs: Vec<(SymbolIndex, u16)>,
}

impl Entry {
    pub(super) fn new(chunk: usize, source_symbols: u16) -> Entry {
        Entry {
            chunk,
            last_seen: None,
            touched_at: Micros(0),
            source_symbols,
            present: SymbolSet::default(),
            sources: 0,
            repairs: Vec::new(),
        }
    }

    /// A symbol of it stood at `sequence` of `stream`. Where its symbols overtook each other, the furthest counts.
    pub(super) fn saw(&mut self, stream: StreamId, sequence: Sequence) {
        if self.last_seen.is_none_or(|(last_stream, last)| last_stream != stream || sequence.since(last) > 0) {
            self.last_seen = Some((stream, sequence));
        }
    }

    /// Takes `symbol` in; the cell that it goes to, or `None` when it is there already.
    pub(super) fn insert(&mut self, symbol: SymbolIndex) -> Option<u16> {
        if !self.present.insert(symbol) {
            return None;
        }
        if symbol.0 < self.source_symbols {
            self.sources += 1;
            return Some(symbol.0);
        }
        let cell = self.source_symbols + self.repairs.len() as u16;
        self.repairs.push((symbol, cell));
        Some(cell)
    }

    /// Distinct symbols that it has.
    pub(super) fn have(&self) -> u16 {
        self.sources + self.repairs.len() as u16
    }

    /// Symbols that it still needs.
    pub(super) fn deficit(&self) -> u16 {
        self.source_symbols.saturating_sub(self.have())
    }

    /// The source symbols that it lacks, when they are at most `most`; else nothing.
    pub(super) fn missing(&self, most: usize) -> Vec<SymbolIndex> {
        if usize::from(self.source_symbols - self.sources) > most {
            return Vec::new();
        }
        (0..self.source_symbols).map(SymbolIndex).filter(|&symbol| !self.present.contains(symbol)).collect()
    }

    /// What it holds.
    pub(super) fn into_parts(self) -> (SymbolSet, Vec<(SymbolIndex, u16)>) {
        (self.present, self.repairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_go_to_their_own_cells_and_repairs_behind_them_as_they_come() {
        let mut entry = Entry::new(0, 10);
        let cells: Vec<_> = [3, 12, 0, 10, 12].map(|symbol| entry.insert(SymbolIndex(symbol))).to_vec();
        assert_eq!(cells, [Some(3), Some(10), Some(0), Some(11), None]);
        assert_eq!((entry.have(), entry.deficit()), (4, 6));
        assert_eq!(entry.missing(8).len(), 8);
        assert_eq!(entry.missing(7), [], "too many to name");
        assert_eq!(entry.into_parts().1, [(SymbolIndex(12), 10), (SymbolIndex(10), 11)]);
    }
}
