//! The assembler itself: where symbols go, and what becomes of chunks.

mod fetched;
mod reports;
mod room;

use super::entry::Entry;
use super::placement::{AssembleConfig, Completed, EntryIndex, Ignored, Placement};
use super::position::{Moved, Positions};
use super::runs::LossRuns;
use std::collections::BTreeSet;
use wire::packet::{Header, Kind};
use wire::report::ChunkRange;
use wire::session::SessionParameters;
use wire::{ChunkId, Micros, Sequence, StreamId, SymbolIndex};

/// Least time between two reports until the sender says otherwise: a hundred a second from each of a few receivers is no load.
const REPORT_INTERVAL_US: u64 = 10_000;
/// The interval is never longer than this, whatever the sender asks for: it would take the receiver for gone.
const REPORT_INTERVAL_MAX_US: u64 = 60_000_000;
const NO_CHUNK: u32 = u32::MAX;

/// What has become of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Wanted, and nothing of it is here.
    Wanted,
    /// In assembly.
    Open(EntryIndex),
    /// Assembled; not verified yet.
    Pending,
    /// Verified, or never wanted.
    Done,
}

#[derive(Clone, Debug)]
struct Chunk {
    id: ChunkId,
    stored_bytes: u32,
    source_symbols: u16,
    /// What the sender believes that it lacks: K until told otherwise.
    told: u16,
    state: State,
    /// It is in `unsettled`.
    unsettled: bool,
}

/// See the module's text.
#[derive(Debug)]
pub struct Assembler {
    parameters: SessionParameters,
    chunks: Vec<Chunk>,
    /// From chunk id to index in `chunks`.
    index_of: Vec<u32>,
    entries: Vec<Option<Entry>>,
    entries_max: usize,
    free: Vec<usize>,
    /// No entry can be given up for another chunk until something changes: spares a search per packet.
    no_victim: bool,
    /// Chunks that are wanted or pending.
    unfinished: usize,
    /// Chunks outside assembly whose deficit may differ from what the sender believes: given up, corrupt or pending.
    unsettled: Vec<usize>,
    /// Assembled chunks that wait for their verdict.
    pending: Vec<Waiting>,
    /// Verified and not reported.
    verified: Vec<ChunkId>,
    /// Found corrupt and not reported.
    corrupt: Vec<ChunkId>,
    /// The streams that count; `None`: all.
    listening: Option<BTreeSet<StreamId>>,
    /// Of the streams that count.
    positions: Positions,
    /// Of other streams, which some networks bring all the same: their packets are among those seen, so they must be among those sent.
    strays: Positions,
    runs: LossRuns,
    /// Packets seen when the positions were last counted, and whether they have moved since.
    seen_counted: Option<u64>,
    uncounted: bool,
    /// Packets seen and sent between counts, for the next report.
    packets_seen: u64,
    packets_sent: u64,
    backlog_permille: u16,
    report_interval_us: u64,
    /// In microseconds; before the clock's zero when the first report is not to wait a whole interval.
    reported_at: Option<i64>,
    /// When a report was last asked for: what is known of the time.
    asked_at: Micros,
    /// Seed of the chance by which reports keep clear of those of other receivers; `None`: they do not.
    spread: Option<u64>,
    news: bool,
}

/// An assembled chunk that waits for its verdict.
#[derive(Debug)]
struct Waiting {
    chunk: usize,
    /// Where its last symbol stood.
    seen: Option<(StreamId, Sequence)>,
    /// A report has stopped short of it in the hope that the verdict would come before the next one.
    held: bool,
}

impl Assembler {
    /// An assembler that has nothing yet. Memory: four bytes per chunk id up to the image's largest, some 50 bytes per chunk of the image, and 250
    /// per entry that can be used at once; the symbols are in the caller's buffers.
    pub fn new(config: AssembleConfig) -> Assembler {
        let mut index_of = Vec::new();
        let mut chunks: Vec<Chunk> = Vec::with_capacity(config.chunks.len());
        for &(id, stored_bytes) in &config.chunks {
            if id.0 >= config.parameters.chunk_count {
                continue;
            }
            if index_of.len() <= id.index() {
                index_of.resize(id.index() + 1, NO_CHUNK);
            }
            if index_of[id.index()] != NO_CHUNK {
                continue;
            }
            index_of[id.index()] = chunks.len() as u32;
            let source_symbols = config.parameters.source_symbols(stored_bytes);
            chunks.push(Chunk { id, stored_bytes, source_symbols, told: source_symbols, state: State::Done, unsettled: false });
        }
        let mut unfinished = 0;
        for range in &config.wanted {
            let end = range.first.0.saturating_add(range.count).min(index_of.len() as u32);
            for &index in index_of.get(range.first.index()..end as usize).unwrap_or_default() {
                if let Some(chunk) = chunks.get_mut(index as usize).filter(|chunk| chunk.state == State::Done) {
                    chunk.state = State::Wanted;
                    unfinished += 1;
                }
            }
        }
        // What grows with the packets that come has its memory from the start.
        let entries_max = config.entries.max(1);
        let entries_used = entries_max.min(unfinished);
        Assembler {
            parameters: config.parameters,
            unsettled: Vec::with_capacity(chunks.len()),
            chunks,
            index_of,
            entries: Vec::with_capacity(entries_used),
            entries_max,
            free: Vec::with_capacity(entries_used),
            no_victim: false,
            unfinished,
            pending: Vec::with_capacity(entries_used),
            verified: Vec::new(),
            corrupt: Vec::new(),
            listening: None,
            positions: Positions::default(),
            strays: Positions::default(),
            runs: LossRuns::default(),
            seen_counted: None,
            uncounted: false,
            packets_seen: 0,
            packets_sent: 0,
            backlog_permille: 0,
            report_interval_us: REPORT_INTERVAL_US,
            reported_at: None,
            asked_at: Micros(0),
            spread: None,
            news: false,
        }
    }

    // What passes.

    /// Where a symbol of `symbol_bytes` bytes goes.
    pub fn on_symbol(&mut self, header: &Header, symbol_bytes: usize) -> Placement {
        let index = self.index(header.chunk);
        let stored_bytes = index.map(|index| self.chunks[index].stored_bytes);
        if header.kind != Kind::Symbol || !self.parameters.admits_length(header, symbol_bytes, |_| stored_bytes) {
            // A chunk of another image is well formed as far as one can tell here.
            let foreign = index.is_some() || header.session != self.parameters.session || header.chunk.0 >= self.parameters.chunk_count;
            return Placement::Ignore(if foreign { Ignored::Foreign } else { Ignored::Unwanted });
        }
        // What comes of other streams is taken, but where it stood says nothing: their syncs are not heeded.
        let counts = self.listens_to(header.stream);
        if counts {
            self.runs.arrived(header.stream, header.sequence);
        }
        let Some(index) = index else { return Placement::Ignore(Ignored::Unwanted) };
        self.place(index, header.symbol, counts.then_some((header.stream, header.sequence)))
    }

    /// Where a symbol of a chunk goes that stood at `position` of a stream.
    fn place(&mut self, index: usize, symbol: SymbolIndex, position: Option<(StreamId, Sequence)>) -> Placement {
        let (entry, opens, evicted) = match self.chunks[index].state {
            State::Done | State::Pending => return Placement::Ignore(Ignored::Unwanted),
            State::Open(entry) => (entry, false, None),
            State::Wanted => match self.open(index) {
                Some((entry, evicted)) => (entry, evicted.is_none(), evicted),
                None => return Placement::Ignore(Ignored::NoRoom),
            },
        };
        let Some(assembly) = self.entries.get_mut(entry.0).and_then(Option::as_mut) else {
            return Placement::Ignore(Ignored::Unwanted);
        };
        if assembly.deficit() == 0 {
            return Placement::Ignore(Ignored::Duplicate);
        }
        // A repeated symbol is a sign of life of the group that it is in, all the same.
        if let Some((stream, sequence)) = position {
            assembly.saw(stream, sequence);
        }
        assembly.touched_at = self.asked_at;
        match assembly.insert(symbol) {
            Some(cell) => Placement::Store { entry, cell, opens, evicted, completes: assembly.deficit() == 0 },
            None => Placement::Ignore(Ignored::Duplicate),
        }
    }

    /// Takes a chunk that can be decoded out of assembly; its entry is free for another one, its buffer is the caller's. `None` when the entry is
    /// not in use or its chunk has too few symbols.
    pub fn complete(&mut self, entry: EntryIndex) -> Option<Completed> {
        let assembly = self.entries.get_mut(entry.0)?.take_if(|assembly| assembly.deficit() == 0)?;
        self.free.push(entry.0);
        self.no_victim = false;
        let index = assembly.chunk;
        self.pending.push(Waiting { chunk: index, seen: assembly.last_seen, held: false });
        let (source_present, repairs) = assembly.into_parts();
        let chunk = &mut self.chunks[index];
        chunk.state = State::Pending;
        self.unsettled.push(index);
        Some(Completed { chunk: chunk.id, source_symbols: chunk.source_symbols, stored_bytes: chunk.stored_bytes, source_present, repairs })
    }

    /// The chunk, assembled before, matched its hash.
    pub fn verified(&mut self, chunk: ChunkId) {
        let Some(index) = self.index(chunk).filter(|&index| self.chunks[index].state == State::Pending) else { return };
        self.pending.retain(|waiting| waiting.chunk != index);
        self.chunks[index].state = State::Done;
        self.unfinished -= 1;
        self.verified.push(chunk);
        self.news = true;
    }

    /// The chunk, assembled before, did not match its hash, or could not be decoded: it is wanted again, all of it.
    pub fn corrupt(&mut self, chunk: ChunkId) {
        let Some(index) = self.index(chunk).filter(|&index| self.chunks[index].state == State::Pending) else { return };
        self.pending.retain(|waiting| waiting.chunk != index);
        self.note_corrupt(chunk);
        self.give_up(index);
        self.news = true;
    }

    /// A sync came.
    pub fn on_sync(&mut self, header: &Header) {
        if header.kind != Kind::Sync || !self.parameters.admits_length(header, 0, |_| None) || self.is_done() {
            return;
        }
        if !self.listens_to(header.stream) {
            if self.strays.sync(header.stream, header.sequence) == Moved::Entered {
                self.count_from_here();
            }
            self.uncounted = true;
            return;
        }
        self.runs.arrived(header.stream, header.sequence);
        match self.positions.sync(header.stream, header.sequence) {
            Moved::No => return,
            Moved::On => {}
            // What was seen of the stream before its first sync belongs to no count.
            Moved::Entered => self.count_from_here(),
            Moved::Anew => self.forget_last_seen(|_| true),
        }
        self.uncounted = true;
        self.no_victim = false;
        self.news = true;
    }

    /// From now on these streams count and no others: the receiver has joined their groups and left all others. Positions of streams that are left
    /// are forgotten, symbols are kept, and a stream that is new is counted from its first sync on. Until the first call all streams count.
    pub fn listen_to(&mut self, streams: &[StreamId]) {
        let listening: BTreeSet<StreamId> = streams.iter().copied().collect();
        self.positions.retain(|stream| listening.contains(&stream));
        self.strays.clear();
        self.runs.retain(|stream| listening.contains(&stream));
        // A chunk whose next symbols come with another stream must not wait for a position that nobody will tell any more.
        self.forget_last_seen(|stream| !listening.contains(&stream));
        self.count_from_here();
        self.no_victim = false;
        self.listening = Some(listening);
    }

    // The whole of it.

    /// A new attendance began: the sender knows nothing but what [`Assembler::wanted`] says.
    pub fn reconnected(&mut self) {
        for chunk in &mut self.chunks {
            chunk.told = chunk.source_symbols;
        }
        for index in 0..self.chunks.len() {
            if self.chunks[index].state == State::Pending {
                self.unsettle(index);
            }
        }
        self.verified.clear();
        self.positions.clear();
        self.strays.clear();
        self.runs = LossRuns::default();
        self.count_from_here();
        (self.packets_seen, self.packets_sent) = (0, 0);
        self.reported_at = None;
        self.news = false;
        self.forget_last_seen(|_| true);
    }

    /// The chunks that are not verified yet, ascending. Right after [`Assembler::reconnected`] this is what the sender is to be told.
    pub fn wanted(&self) -> Vec<ChunkRange> {
        let unfinished = |&&index: &&u32| self.chunks.get(index as usize).is_some_and(|chunk| chunk.state != State::Done);
        ChunkRange::from_sorted(self.index_of.iter().filter(unfinished).map(|&index| self.chunks[index as usize].id))
    }

    /// Whether all wanted chunks are verified.
    pub fn is_done(&self) -> bool {
        self.unfinished == 0
    }

    /// Wanted chunks that are not verified.
    pub fn remaining(&self) -> usize {
        self.unfinished
    }

    // How.

    fn index(&self, chunk: ChunkId) -> Option<usize> {
        self.index_of.get(chunk.index()).filter(|&&index| index != NO_CHUNK).map(|&index| index as usize)
    }

    fn unsettle(&mut self, index: usize) {
        if !std::mem::replace(&mut self.chunks[index].unsettled, true) {
            self.unsettled.push(index);
        }
    }

    fn listens_to(&self, stream: StreamId) -> bool {
        self.listening.as_ref().is_none_or(|listening| listening.contains(&stream))
    }

    /// What was seen and sent since the last count is not compared; the next count begins with the next sync.
    fn count_from_here(&mut self) {
        self.positions.count();
        self.strays.count();
        (self.seen_counted, self.uncounted) = (None, false);
    }

    /// Forgets where symbols of the `stale` streams stood.
    fn forget_last_seen(&mut self, stale: impl Fn(StreamId) -> bool) {
        let seen = self.entries.iter_mut().flatten().map(|assembly| &mut assembly.last_seen);
        for seen in seen.chain(self.pending.iter_mut().map(|waiting| &mut waiting.seen)) {
            seen.take_if(|(stream, _)| stale(*stream));
        }
    }
}

#[cfg(test)]
mod tests;
