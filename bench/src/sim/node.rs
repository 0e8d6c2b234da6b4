//! A receiver's program without its threads: filter, buffers and finisher around the real assembler, checking every step that it takes.

use super::carried::Carried;
use super::scenario::{self, SYMBOL_BYTES};
use receiver::assemble::{AssembleConfig, Assembler, Completed, EntryIndex, Placement, SymbolSet};
use std::collections::{BTreeMap, VecDeque};
use wire::packet::{Header, Kind};
use wire::report::ChunkRange;
use wire::session::SessionParameters;
use wire::{ChunkId, StreamId, SymbolIndex};

/// What all nodes of a run have in common.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) parameters: SessionParameters,
    pub(super) source_symbols: Vec<u16>,
    pub(super) images: Vec<Vec<u32>>,
    /// The bytes that symbols carry, when they do.
    pub(super) carried: Option<Carried>,
}

/// What one buffer holds, as the placements said.
#[derive(Debug, Default)]
struct Buffer {
    chunk: Option<ChunkId>,
    symbols: SymbolSet,
    cells: SymbolSet,
    filled: u16,
    repairs: Vec<(SymbolIndex, u16)>,
    bytes: Vec<u8>,
}

/// A symbol that came, in whatever way.
struct Arrival {
    chunk: ChunkId,
    symbol: SymbolIndex,
    source_symbols: u16,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) assembler: Assembler,
    image: usize,
    /// The filter's want bits, and which chunks are on disk.
    want: Bits,
    written: Bits,
    written_count: usize,
    /// Packets that came: of each stream since its last sync, and of all of them up to their last syncs, as receivers count them.
    since_sync: BTreeMap<StreamId, u64>,
    packets_seen: u64,
    buffers_free: usize,
    buffers: usize,
    open: Vec<Buffer>,
    /// Assembled chunks on their way to disk, in order.
    finishing: VecDeque<ChunkId>,
}

impl Node {
    pub(super) fn new(pack: &Pack, spec: &scenario::Receiver) -> Node {
        let stored_bytes = |&chunk: &u32| (ChunkId(chunk), u32::from(pack.source_symbols[chunk as usize]) * u32::from(SYMBOL_BYTES));
        let image = &pack.images[spec.image];
        let mut want = Bits::new(pack.source_symbols.len());
        image.iter().for_each(|&chunk| want.set(ChunkId(chunk), true));
        Node {
            assembler: Assembler::new(AssembleConfig {
                parameters: pack.parameters,
                chunks: image.iter().map(stored_bytes).collect(),
                wanted: ChunkRange::from_sorted(image.iter().map(|&chunk| ChunkId(chunk))),
                entries: spec.entries.max(1),
            }),
            image: spec.image,
            want,
            written: Bits::new(pack.source_symbols.len()),
            written_count: 0,
            since_sync: BTreeMap::new(),
            packets_seen: 0,
            buffers_free: spec.buffers.max(1),
            buffers: spec.buffers.max(1),
            open: Vec::new(),
            finishing: VecDeque::new(),
        }
    }

    /// A packet arrives. Whether a chunk has been assembled by it.
    ///
    /// # Errors
    /// Says what the assembler did wrong.
    pub(super) fn packet(&mut self, pack: &Pack, header: &Header) -> Result<bool, String> {
        *self.since_sync.entry(header.stream).or_default() += 1;
        if header.kind == Kind::Sync {
            self.packets_seen += self.since_sync.remove(&header.stream).unwrap_or_default();
            self.assembler.on_sync(header);
            self.assembler.note_traffic(self.packets_seen);
            return Ok(false);
        }
        if !self.want.get(header.chunk) {
            return Ok(false);
        }
        let Placement::Store { entry, cell, opens, evicted, completes } = self.assembler.on_symbol(header, usize::from(SYMBOL_BYTES))
        else {
            return Ok(false);
        };
        if opens && self.buffers_free == 0 {
            self.assembler.refuse(entry);
            return Ok(false);
        }
        let arrival = Arrival { chunk: header.chunk, symbol: header.symbol, source_symbols: header.source_symbols };
        self.store(pack, &arrival, entry, cell, opens, evicted)?;
        if completes {
            self.complete(pack, entry)?;
        }
        Ok(completes)
    }

    /// What was lacking of a chunk came by unicast. Whether that made it whole.
    ///
    /// # Errors
    /// Says what the assembler did wrong.
    pub(super) fn fetched(&mut self, pack: &Pack, chunk: ChunkId) -> Result<bool, String> {
        if self.assembler.wants(chunk).is_none() {
            return Ok(false);
        }
        let source_symbols = pack.source_symbols[chunk.index()];
        let lacking = self.assembler.lacking(chunk);
        if !lacking.is_empty() {
            let mut completes = false;
            for symbol in lacking {
                let placement = self.assembler.on_fetched_symbol(chunk, symbol);
                let Placement::Store { entry, cell, opens: false, evicted: None, completes: whole } = placement else {
                    return Err(format!("symbol {symbol} of chunk {chunk} was lacking and was not taken: {placement:?}"));
                };
                self.store(pack, &Arrival { chunk, symbol, source_symbols }, entry, cell, false, None)?;
                if whole {
                    self.complete(pack, entry)?;
                }
                completes = whole;
            }
            return if completes { Ok(true) } else { Err(format!("what chunk {chunk} was lacking did not make it whole")) };
        }
        if self.buffers_free == 0 {
            return Ok(false);
        }
        let Some((_, None)) = self.assembler.supply(chunk) else { return Err(format!("chunk {chunk} was not taken whole")) };
        self.buffers_free -= 1;
        self.want.set(chunk, false);
        self.finishing.push_back(chunk);
        self.note_backlog();
        Ok(true)
    }

    fn store(
        &mut self,
        pack: &Pack,
        arrival: &Arrival,
        entry: EntryIndex,
        cell: u16,
        opens: bool,
        evicted: Option<ChunkId>,
    ) -> Result<(), String> {
        if entry.0 >= self.buffers.max(self.open.len()) {
            return Err("an entry that does not exist".into());
        }
        if self.open.len() <= entry.0 {
            self.open.resize_with(entry.0 + 1, Buffer::default);
        }
        let buffer = &mut self.open[entry.0];
        if opens {
            if buffer.chunk.is_some() {
                return Err(format!("entry {} opened twice", entry.0));
            }
            self.buffers_free -= 1;
        }
        if evicted.is_some() && (buffer.chunk != evicted || opens) {
            return Err(format!("{evicted:?} given up where {:?} was", buffer.chunk));
        }
        if opens || evicted.is_some() {
            *buffer = Buffer { chunk: Some(arrival.chunk), ..Buffer::default() };
        }
        if buffer.chunk != Some(arrival.chunk) {
            return Err(format!("a symbol of chunk {} placed into chunk {:?}", arrival.chunk, buffer.chunk));
        }
        let k = arrival.source_symbols;
        let is_source = arrival.symbol.0 < k;
        let right = if is_source { cell == arrival.symbol.0 } else { (k..k + wire::erasure::repair_symbols(k)).contains(&cell) };
        if !right || !buffer.symbols.insert(arrival.symbol) || !buffer.cells.insert(SymbolIndex(cell)) {
            return Err(format!("symbol {} of chunk {} placed into cell {cell}", arrival.symbol, arrival.chunk));
        }
        buffer.filled += 1;
        if !is_source {
            buffer.repairs.push((arrival.symbol, cell));
        }
        if let Some(carried) = &pack.carried {
            carried.store(arrival.chunk, arrival.symbol, cell, &mut buffer.bytes);
        }
        Ok(())
    }

    fn complete(&mut self, pack: &Pack, entry: EntryIndex) -> Result<(), String> {
        let completed = self.assembler.complete(entry).ok_or("nothing to complete")?;
        let mut buffer = std::mem::take(&mut self.open[entry.0]);
        let Completed { chunk, source_symbols, source_present, ref repairs, .. } = completed;
        let listed = (0..source_symbols).map(SymbolIndex).all(|symbol| source_present.contains(symbol) == buffer.symbols.contains(symbol));
        if buffer.chunk != Some(chunk) || buffer.filled != source_symbols || !listed || *repairs != buffer.repairs {
            return Err(format!("chunk {chunk} completed with {} distinct symbols", buffer.filled));
        }
        if let Some(carried) = &pack.carried {
            carried.check(&completed, &mut buffer.bytes)?;
        }
        self.want.set(chunk, false);
        self.finishing.push_back(chunk);
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
            if self.written.get(chunk) {
                return Err(format!("chunk {chunk} written twice"));
            }
            self.written.set(chunk, true);
            self.written_count += 1;
            self.assembler.verified(chunk);
        } else {
            self.want.set(chunk, true);
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
    pub(super) fn check(&self, pack: &Pack) -> Result<(), String> {
        let (written, wanted) = (self.written_count, pack.images[self.image].len());
        if self.assembler.is_done() != (written == wanted) {
            return Err(format!("done is {} with {written} of {wanted} chunks written", self.assembler.is_done()));
        }
        if self.assembler.remaining() + written != wanted {
            return Err(format!("{} remain and {written} of {wanted} are written", self.assembler.remaining()));
        }
        let in_use = self.open.iter().filter(|buffer| buffer.chunk.is_some()).count() + self.finishing.len();
        if in_use + self.buffers_free != self.buffers {
            return Err(format!("{in_use} buffers in use and {} free are not {}", self.buffers_free, self.buffers));
        }
        let excess = self.open.iter().filter_map(|buffer| {
            let k = pack.source_symbols[buffer.chunk?.index()];
            (buffer.filled >= k).then_some(buffer.chunk)
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

/// One bit per chunk of the pack.
#[derive(Clone, Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn new(len: usize) -> Bits {
        Bits(vec![0; len.div_ceil(64)])
    }

    pub(super) fn get(&self, chunk: ChunkId) -> bool {
        self.0.get(chunk.index() / 64).is_some_and(|word| word >> (chunk.0 % 64) & 1 == 1)
    }

    pub(super) fn set(&mut self, chunk: ChunkId, value: bool) {
        if let Some(word) = self.0.get_mut(chunk.index() / 64) {
            let bit = 1 << (chunk.0 % 64);
            *word = if value { *word | bit } else { *word & !bit };
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}
