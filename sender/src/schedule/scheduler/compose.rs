//! What is sent: from queued chunks to the symbols of a group.

use super::{Flight, Scheduler, Sent};
use crate::schedule::needs::ChunkNeeds;
use crate::schedule::{ChunkSymbols, GROUP_CHUNKS_MAX, Group};
use wire::erasure::repair_symbols;
use wire::{ChunkId, Micros, SymbolIndex};

/// Most chunks in a group: a burst of 500 packets takes 32 of each, within the 48 repair symbols that a chunk of K = 187 has.
const INTERLEAVE_MAX: usize = 16;
/// … where losses come in runs of more than 8 packets: so that a run of 32 takes no more than one of each.
const INTERLEAVE_LONG_RUNS: usize = GROUP_CHUNKS_MAX;
/// A group is made of fewer chunks when these would take longer than this on the line, so that at 100 Mbit/s the sync, and with it the
/// repair, does not come 350 ms after the data.
const GROUP_LINE_US: u64 = 100_000;
/// … but of no fewer than this.
const INTERLEAVE_MIN: usize = 4;
/// One packet in this many is stragglers', as long as others want something: it slows these by a hundredth at most.
const LATER_SHARE: u64 = 100;

/// Why chunks are in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Repair,
    Whole,
    Later,
}

impl Scheduler {
    /// Repairs before whole chunks, because receivers hold memory for them; but of both, neither gets less than half. Stragglers
    /// come last.
    pub(super) fn next_group(&mut self, now: Micros, stream: usize) -> Option<Group> {
        let chunk_symbols = u64::from(self.config.parameters.source_symbols_max());
        let whole_first = !self.whole.is_empty() && self.repairs_ahead_symbols > chunk_symbols * INTERLEAVE_MAX as u64;
        let mut order =
            if whole_first { [Purpose::Whole, Purpose::Repair, Purpose::Later] } else { [Purpose::Repair, Purpose::Whole, Purpose::Later] };
        if self.later_credit_packets > chunk_symbols * INTERLEAVE_MAX as u64 * LATER_SHARE {
            order.rotate_right(1);
        }
        let (purpose, chunks) = order.into_iter().map(|purpose| (purpose, self.take(purpose))).find(|(_, chunks)| !chunks.is_empty())?;
        let group = self.send(now, stream, chunks, purpose);
        let packets = u64::from(group.packet_count());
        self.repairs_ahead_symbols = match purpose {
            Purpose::Repair if !self.whole.is_empty() => self.repairs_ahead_symbols + packets,
            Purpose::Repair => 0,
            Purpose::Whole | Purpose::Later => self.repairs_ahead_symbols.saturating_sub(packets),
        };
        self.later_credit_packets = match purpose {
            Purpose::Later => self.later_credit_packets.saturating_sub(packets * LATER_SHARE),
            _ if self.later.is_empty() => 0,
            _ => self.later_credit_packets + packets,
        };
        Some(group)
    }

    fn take(&mut self, purpose: Purpose) -> Vec<ChunkSymbols> {
        match purpose {
            Purpose::Repair => self.repair_chunks(),
            Purpose::Whole => self.whole_chunks(),
            Purpose::Later => self.later_chunks(),
        }
    }

    /// Takes chunks that stragglers lack, round and round, with what these lack.
    fn later_chunks(&mut self) -> Vec<ChunkSymbols> {
        let mut chunks = Vec::new();
        let interleave = self.interleave();
        while chunks.len() < interleave {
            let Some(chunk) = self.later.next_from(self.later_next).or_else(|| self.later.next_from(0)) else { break };
            self.later_next = chunk.0.saturating_add(1);
            self.later.remove(chunk);
            if self.progress[chunk.index()].flight == Flight::Waiting || self.roster.demand(chunk) == 0 {
                continue;
            }
            let Some(needs) = self.roster.stragglers_needs(chunk).filter(|needs| needs.needy() > 0) else { continue };
            let k = self.config.source_symbols[chunk.index()];
            let symbols = if needs.any_whole() { (0..k).map(SymbolIndex).collect() } else { self.symbols_for(chunk, true) };
            chunks.push(self.chunk_symbols(chunk, symbols));
        }
        chunks
    }

    /// Takes chunks that are to be repaired off the queue, with the symbols that serve all who are known to need some.
    fn repair_chunks(&mut self) -> Vec<ChunkSymbols> {
        let mut chunks = Vec::new();
        let interleave = if self.losses.has_long_runs() { INTERLEAVE_LONG_RUNS } else { INTERLEAVE_MAX };
        while chunks.len() < interleave {
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
        self.symbols_for(chunk, false)
    }

    fn symbols_for(&mut self, chunk: ChunkId, stragglers: bool) -> Vec<SymbolIndex> {
        let needs = if stragglers { self.roster.stragglers_needs(chunk) } else { self.roster.needs(chunk) };
        let Some(needs) = needs else { return Vec::new() };
        let count = needs.partial_max();
        if count == 0 {
            return Vec::new();
        }
        let k = self.config.source_symbols[chunk.index()];
        let cycle = k + repair_symbols(k);
        let cursor = self.progress[chunk.index()].cursor;
        // Sources that all lack need no decoding. Repair symbols are the better choice while there are any that nobody has seen.
        let fresh = cursor >= k && cursor + count <= cycle;
        match needs.missing().filter(|missing| missing.len() <= usize::from(count) || needs.needy() == 1 || !fresh) {
            Some(mut missing) => {
                if needs.needy() == 1 {
                    missing.truncate(usize::from(count));
                }
                missing.into_iter().map(SymbolIndex).collect()
            }
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
            if never_sent || self.roster.needs(chunk).is_some_and(ChunkNeeds::any_whole) {
                let k = self.config.source_symbols[chunk.index()];
                self.totals.symbols_needed += if never_sent { u64::from(k) } else { 0 };
                let symbols = (0..k).map(SymbolIndex).chain(self.proactive_symbols(chunk)).collect();
                chunks.push(self.chunk_symbols(chunk, symbols));
            }
        }
        chunks
    }

    /// Repair symbols that go with a whole chunk: those that follow the last ones, round and round, so that who has a part gets new ones.
    fn proactive_symbols(&mut self, chunk: ChunkId) -> impl Iterator<Item = SymbolIndex> + use<> {
        let k = self.config.source_symbols[chunk.index()];
        let repairs = repair_symbols(k);
        let count = self.proactive.next(k).min(repairs);
        let cursor = &mut self.progress[chunk.index()].cursor;
        let first = cursor.saturating_sub(k);
        if count > 0 {
            *cursor = (k + first + count) % (k + repairs);
            if first + count > repairs {
                *cursor = k + (first + count) % repairs;
            }
        }
        (0..count).map(move |step| SymbolIndex(k + (first + step) % repairs))
    }

    fn chunk_symbols(&self, chunk: ChunkId, symbols: Vec<SymbolIndex>) -> ChunkSymbols {
        ChunkSymbols { chunk, source_symbols: self.config.source_symbols[chunk.index()], symbols }
    }

    fn interleave(&self) -> usize {
        let most = if self.losses.has_long_runs() { INTERLEAVE_LONG_RUNS } else { INTERLEAVE_MAX };
        let chunk_us = self.line_us(u64::from(self.config.parameters.source_symbols_max())).max(1);
        ((GROUP_LINE_US / chunk_us) as usize).clamp(INTERLEAVE_MIN, most)
    }

    /// Time that `packets` packets take on the line at a stream's rate.
    fn line_us(&self, packets: u64) -> u64 {
        let frame_bytes = self.config.parameters.payload_bytes() as u64 + u64::from(self.config.frame_overhead_bytes);
        packets * frame_bytes * 8 * 1_000_000 / self.rate_per_stream()
    }

    fn send(&mut self, now: Micros, stream: usize, chunks: Vec<ChunkSymbols>, purpose: Purpose) -> Group {
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
        let chunks: Vec<ChunkId> = group.chunks.iter().map(|part| part.chunk).collect();
        chunks.iter().for_each(|&chunk| self.roster.send(chunk));
        let proactive = (purpose == Purpose::Whole).then(|| self.proactive.version());
        self.streams[stream].send_group(now, line_us, packets, chunks, proactive);
        self.set_greeting_deadlines(self.streams[stream].on_wire_at(now));
        self.totals.symbols_sent += u64::from(packets);
        self.totals.groups_sent += 1;
        self.totals.syncs_sent += 1;
        group
    }
}
