//! A receiver's program without its threads: filter, buffers and finisher around the real assembler, checking every step that it takes.

use super::scenario::{self, SYMBOL_BYTES};
use receiver::assemble::{AssembleConfig, Assembler, EntryIndex, Placement};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use wire::packet::{Header, Kind};
use wire::report::ChunkRange;
use wire::session::SessionParameters;
use wire::{ChunkId, SymbolIndex};

/// What one buffer holds, as the placements said.
#[derive(Debug, Default)]
struct Buffer {
    chunk: Option<ChunkId>,
    cells: BTreeMap<u16, SymbolIndex>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) assembler: Assembler,
    parameters: SessionParameters,
    image: Vec<u32>,
    source_symbols: Vec<u16>,
    /// The filter's want bits.
    want: Vec<bool>,
    packets_seen: u64,
    buffers_free: usize,
    buffers: usize,
    open: Vec<Buffer>,
    /// Assembled chunks on their way to disk, in order.
    finishing: VecDeque<ChunkId>,
    written: BTreeSet<ChunkId>,
}

impl Node {
    pub(super) fn new(parameters: SessionParameters, source_symbols: &[u16], image: &[u32], spec: &scenario::Receiver) -> Node {
        let stored_bytes = |&chunk: &u32| (ChunkId(chunk), u32::from(source_symbols[chunk as usize]) * u32::from(SYMBOL_BYTES));
        let entries = spec.entries.max(1);
        let mut want = vec![false; parameters.chunk_count as usize];
        image.iter().for_each(|&chunk| want[chunk as usize] = true);
        Node {
            assembler: Assembler::new(AssembleConfig {
                parameters,
                chunks: image.iter().map(stored_bytes).collect(),
                wanted: ChunkRange::from_sorted(image.iter().map(|&chunk| ChunkId(chunk))),
                entries,
            }),
            parameters,
            image: image.to_vec(),
            source_symbols: source_symbols.to_vec(),
            want,
            packets_seen: 0,
            buffers_free: spec.buffers.max(1),
            buffers: spec.buffers.max(1),
            open: (0..entries).map(|_| Buffer::default()).collect(),
            finishing: VecDeque::new(),
            written: BTreeSet::new(),
        }
    }

    /// A packet arrives. Whether a chunk has been assembled by it.
    ///
    /// # Errors
    /// Says what the assembler did wrong.
    pub(super) fn packet(&mut self, header: &Header) -> Result<bool, String> {
        self.packets_seen += 1;
        self.assembler.note_traffic(self.packets_seen);
        if header.kind == Kind::Sync {
            self.assembler.on_sync(header);
            return Ok(false);
        }
        if !self.want.get(header.chunk.index()).is_some_and(|&want| want) {
            return Ok(false);
        }
        let symbol_bytes = usize::from(self.parameters.symbol_bytes);
        let Placement::Store { entry, cell, opens, evicted, completes } = self.assembler.on_symbol(header, symbol_bytes) else {
            return Ok(false);
        };
        if opens && self.buffers_free == 0 {
            self.assembler.refuse(entry);
            return Ok(false);
        }
        self.store(header, entry, cell, opens, evicted)?;
        if completes {
            self.complete(entry)?;
        }
        Ok(completes)
    }

    fn store(&mut self, header: &Header, entry: EntryIndex, cell: u16, opens: bool, evicted: Option<ChunkId>) -> Result<(), String> {
        let buffer = self.open.get_mut(entry.0).ok_or("an entry that does not exist")?;
        if opens {
            if buffer.chunk.is_some() {
                return Err(format!("entry {} opened twice", entry.0));
            }
            self.buffers_free -= 1;
        }
        if evicted.is_some() {
            if buffer.chunk != evicted || opens {
                return Err(format!("{evicted:?} given up where {:?} was", buffer.chunk));
            }
            buffer.cells.clear();
        }
        if opens || evicted.is_some() {
            buffer.chunk = Some(header.chunk);
        }
        if buffer.chunk != Some(header.chunk) {
            return Err(format!("a symbol of chunk {} placed into chunk {:?}", header.chunk, buffer.chunk));
        }
        let k = header.source_symbols;
        let right = if header.symbol.0 < k { cell == header.symbol.0 } else { (k..k + wire::erasure::repair_symbols(k)).contains(&cell) };
        if !right || buffer.cells.insert(cell, header.symbol).is_some() {
            return Err(format!("symbol {} of chunk {} placed into cell {cell}", header.symbol, header.chunk));
        }
        Ok(())
    }

    fn complete(&mut self, entry: EntryIndex) -> Result<(), String> {
        let completed = self.assembler.complete(entry).ok_or("nothing to complete")?;
        let buffer = std::mem::take(&mut self.open[entry.0]);
        let distinct: BTreeSet<u16> = buffer.cells.values().map(|symbol| symbol.0).collect();
        let listed = buffer.cells.iter().all(|(cell, symbol)| match symbol.0 < completed.source_symbols {
            true => completed.source_present.contains(*symbol),
            false => completed.repairs.contains(&(*symbol, *cell)),
        });
        if buffer.chunk != Some(completed.chunk) || distinct.len() != usize::from(completed.source_symbols) || !listed {
            return Err(format!("chunk {} completed with {} distinct symbols", completed.chunk, distinct.len()));
        }
        self.want[completed.chunk.index()] = false;
        self.finishing.push_back(completed.chunk);
        self.note_backlog();
        Ok(())
    }

    /// The oldest assembled chunk has been hashed, found `sound` or not, and written.
    ///
    /// # Errors
    /// Says so when a chunk is written twice.
    pub(super) fn finish(&mut self, sound: bool) -> Result<(), String> {
        let Some(chunk) = self.finishing.pop_front() else { return Ok(()) };
        self.buffers_free += 1;
        self.note_backlog();
        if sound {
            if !self.written.insert(chunk) {
                return Err(format!("chunk {chunk} written twice"));
            }
            self.assembler.verified(chunk);
        } else {
            self.want[chunk.index()] = true;
            self.assembler.corrupt(chunk);
        }
        Ok(())
    }

    /// Whether chunks are on their way to disk.
    pub(super) fn is_finishing(&self) -> bool {
        !self.finishing.is_empty()
    }

    /// Checks that the assembler's word that all is done is true, or that it is not given too early.
    ///
    /// # Errors
    /// Says what is missing.
    pub(super) fn check(&self) -> Result<(), String> {
        let written = self.written.len();
        if self.assembler.is_done() != (written == self.image.len()) {
            return Err(format!("done is {} with {written} of {} chunks written", self.assembler.is_done(), self.image.len()));
        }
        if self.assembler.remaining() + written != self.image.len() {
            return Err(format!("{} remain and {written} of {} are written", self.assembler.remaining(), self.image.len()));
        }
        let in_use = self.open.iter().filter(|buffer| buffer.chunk.is_some()).count() + self.finishing.len();
        if in_use + self.buffers_free != self.buffers {
            return Err(format!("{in_use} buffers in use and {} free are not {}", self.buffers_free, self.buffers));
        }
        let excess = self.open.iter().filter_map(|buffer| {
            let k = self.source_symbols[buffer.chunk?.index()];
            (buffer.cells.len() >= usize::from(k)).then_some(buffer.chunk)
        });
        match excess.flatten().next() {
            Some(chunk) => Err(format!("chunk {chunk} is complete and was not handed on")),
            None => Ok(()),
        }
    }

    fn note_backlog(&mut self) {
        self.assembler.set_backlog((self.finishing.len() * 1000 / self.buffers) as u16);
    }
}
