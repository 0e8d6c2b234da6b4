//! What is sent: from queued chunks to the symbols of a group.

use super::{Flight, Scheduler, Sent};
use crate::schedule::needs::ChunkNeeds;
use crate::schedule::{ChunkSymbols, Group};
use wire::erasure::repair_symbols;
use wire::{ChunkId, Micros, SymbolIndex};

/// Most chunks in a group: a burst of 500 packets takes 32 of each, within the 48 repair symbols that a chunk of K = 187 has.
const INTERLEAVE_MAX: usize = 16;
/// A group is made of fewer chunks when these would take longer than this on the line, so that at 100 Mbit/s the sync, and with it the
/// repair, does not come 350 ms after the data.
const GROUP_LINE_US: u64 = 100_000;
/// … but of no fewer than this.
const INTERLEAVE_MIN: usize = 4;

impl Scheduler {
    /// Repairs before whole chunks, because receivers hold memory for them; but of both, neither gets less than half.
    pub(super) fn next_group(&mut self, now: Micros, stream: usize) -> Option<Group> {
        let chunk_symbols = u64::from(self.config.parameters.source_symbols_max());
        let whole_first = !self.whole.is_empty() && self.repairs_ahead_symbols > chunk_symbols * INTERLEAVE_MAX as u64;
        let mut repair = !whole_first;
        let mut chunks = self.take(repair);
        if chunks.is_empty() {
            repair = !repair;
            chunks = self.take(repair);
        }
        if chunks.is_empty() {
            return None;
        }
        let group = self.send(now, stream, chunks);
        let packets = u64::from(group.packet_count());
        self.repairs_ahead_symbols = match repair {
            true if !self.whole.is_empty() => self.repairs_ahead_symbols + packets,
            true => 0,
            false => self.repairs_ahead_symbols.saturating_sub(packets),
        };
        Some(group)
    }

    fn take(&mut self, repair: bool) -> Vec<ChunkSymbols> {
        if repair { self.repair_chunks() } else { self.whole_chunks() }
    }

    /// Takes chunks that are to be repaired off the queue, with the symbols that serve all who are known to need some.
    fn repair_chunks(&mut self) -> Vec<ChunkSymbols> {
        let mut chunks = Vec::new();
        while chunks.len() < INTERLEAVE_MAX {
            let Some(chunk) = self.repairs.pop_front() else { break };
            self.progress[chunk.index()].queued = false;
            let symbols = self.repair_of(chunk);
            if !symbols.is_empty() {
                chunks.push(self.chunk_symbols(chunk, symbols));
            }
        }
        chunks
    }

    /// The fewest symbols that give every receiver of `chunk` that is known to have a part what it needs.
    fn repair_of(&mut self, chunk: ChunkId) -> Vec<SymbolIndex> {
        if self.roster.demand(chunk) == 0 || self.progress[chunk.index()].flight == Flight::Waiting {
            return Vec::new();
        }
        let k = self.config.source_symbols[chunk.index()];
        let cycle = k + repair_symbols(k);
        let cursor = self.progress[chunk.index()].cursor;
        let (count, exact) = self.known(chunk, |known| {
            let Some(needs) = known.needs else { return (0, None) };
            let count = needs.partial_max();
            // Sources that all lack need no decoding. Repair symbols are the better choice while there are any that nobody has seen.
            let fresh = cursor >= k && cursor + count <= cycle;
            let exact = needs.missing().filter(|missing| missing.len() <= usize::from(count) || needs.needy() == 1 || !fresh);
            (
                count,
                exact.map(|mut missing| {
                    if needs.needy() == 1 {
                        missing.truncate(usize::from(count));
                    }
                    missing
                }),
            )
        });
        if count == 0 {
            return Vec::new();
        }
        match exact {
            Some(missing) => missing.into_iter().map(SymbolIndex).collect(),
            None => {
                self.progress[chunk.index()].cursor = (cursor + count) % cycle;
                (0..count).map(|step| SymbolIndex((cursor + step) % cycle)).collect()
            }
        }
    }

    /// Takes the next chunks that somebody needs whole off the carousel.
    fn whole_chunks(&mut self) -> Vec<ChunkSymbols> {
        let mut chunks = Vec::new();
        let interleave = self.interleave();
        while chunks.len() < interleave {
            let Some(chunk) = self.whole.next_from(self.carousel).or_else(|| self.whole.next_from(0)) else { break };
            self.carousel = chunk.0.saturating_add(1);
            self.whole.remove(chunk);
            let progress = &self.progress[chunk.index()];
            // Of a chunk on its way nothing is known; it will be judged when it has been passed.
            if progress.flight == Flight::Waiting || self.roster.demand(chunk) == 0 {
                continue;
            }
            let never_sent = progress.sent.is_none();
            if self.known(chunk, |known| known.silent || known.needs.is_some_and(ChunkNeeds::any_whole)) {
                let k = self.config.source_symbols[chunk.index()];
                self.totals.symbols_needed += if never_sent { u64::from(k) } else { 0 };
                chunks.push(self.chunk_symbols(chunk, (0..k).map(SymbolIndex).collect()));
            }
        }
        chunks
    }

    fn chunk_symbols(&self, chunk: ChunkId, symbols: Vec<SymbolIndex>) -> ChunkSymbols {
        ChunkSymbols { chunk, source_symbols: self.config.source_symbols[chunk.index()], symbols }
    }

    fn interleave(&self) -> usize {
        let chunk_us = self.line_us(u64::from(self.config.parameters.source_symbols_max())).max(1);
        ((GROUP_LINE_US / chunk_us) as usize).clamp(INTERLEAVE_MIN, INTERLEAVE_MAX)
    }

    /// Time that `packets` packets take on the line at a stream's rate.
    fn line_us(&self, packets: u64) -> u64 {
        let frame_bytes = self.config.parameters.payload_bytes() as u64 + u64::from(self.config.frame_overhead_bytes);
        packets * frame_bytes * 8 * 1_000_000 / self.rate_per_stream()
    }

    fn send(&mut self, now: Micros, stream: usize, chunks: Vec<ChunkSymbols>) -> Group {
        let line = &self.streams[stream];
        let group = Group { stream: line.id, first_sequence: line.next_sequence(), chunks };
        let (first, packets) = (line.next_position(), group.packet_count());
        let line_us = self.line_us(u64::from(packets) + 1);
        for (position, (index, symbol)) in (first..).zip(group.packets()) {
            let part = &group.chunks[index];
            let progress = &mut self.progress[part.chunk.index()];
            progress.sent = Some(Sent { stream, last: position });
            progress.flight = Flight::Waiting;
            self.totals.repair_symbols_sent += u64::from(symbol.0 >= part.source_symbols);
        }
        let chunks = group.chunks.iter().map(|part| part.chunk).collect();
        self.streams[stream].send_group(now, line_us, packets, chunks);
        self.set_greeting_deadlines(self.streams[stream].on_wire_at(now));
        self.totals.symbols_sent += u64::from(packets);
        self.totals.groups_sent += 1;
        self.totals.syncs_sent += 1;
        group
    }
}
