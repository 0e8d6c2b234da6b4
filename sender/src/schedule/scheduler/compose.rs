//! What is sent: from queued chunks to the symbols of a group.

use super::queue::Queue;
use super::{Flight, Scheduler, Sent};
use crate::schedule::needs::ChunkNeeds;
use crate::schedule::stream::Cargo;
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
/// … than this while chunks of a higher priority are on their way, which may have to be repaired: what is sent meanwhile makes that wait no longer than
/// a report does.
const FILLING_GROUP_LINE_US: u64 = 10_000;
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
    /// The queues in sequence of their priorities: a lower one gets what the higher ones have no use for at the moment.
    pub(super) fn next_group(&mut self, now: Micros, stream: usize) -> Option<Group> {
        let roster = &self.roster;
        self.queues.retain(|priority| roster.priorities().is_in_use(priority));
        // What has fallen in priority moves to a lower queue, which comes later.
        let mut index = 0;
        while self.queues.at(index).is_some() {
            if let Some(group) = self.next_group_of(now, stream, index) {
                return Some(group);
            }
            index += 1;
        }
        None
    }

    /// Repairs before whole chunks, because receivers hold memory for them; but of both, neither gets less than half. Stragglers
    /// come last, when nothing is on its way that may have to be repaired for others: these would have to wait for what stragglers get.
    fn next_group_of(&mut self, now: Micros, stream: usize, index: usize) -> Option<Group> {
        let turn_symbols = u64::from(self.config.parameters.source_symbols_max()) * INTERLEAVE_MAX as u64;
        let queue = self.queues.at(index)?;
        let priority = queue.priority;
        let whole_first = !queue.whole.is_empty() && queue.repairs_ahead_symbols > turn_symbols;
        let stragglers_turn = queue.later_credit_packets > turn_symbols * LATER_SHARE;
        let mut order =
            if whole_first { [Purpose::Whole, Purpose::Repair, Purpose::Later] } else { [Purpose::Repair, Purpose::Whole, Purpose::Later] };
        if stragglers_turn {
            order.rotate_right(1);
        }
        let held = !stragglers_turn && !queue.later.is_empty() && self.streams.iter().any(|stream| stream.has_urgent(priority));
        let admitted = order.into_iter().filter(|&purpose| purpose != Purpose::Later || !held);
        let mut taken = admitted.map(|purpose| (purpose, self.take(stream, index, purpose)));
        let (purpose, chunks) = taken.find(|(_, chunks)| !chunks.is_empty())?;
        let group = self.send(now, stream, chunks, purpose, priority);
        let packets = u64::from(group.packet_count());
        let queue = self.queues.at(index)?;
        queue.repairs_ahead_symbols = match purpose {
            Purpose::Repair if !queue.whole.is_empty() => queue.repairs_ahead_symbols + packets,
            Purpose::Repair => 0,
            Purpose::Whole | Purpose::Later => queue.repairs_ahead_symbols.saturating_sub(packets),
        };
        queue.later_credit_packets = match purpose {
            Purpose::Later => queue.later_credit_packets.saturating_sub(packets * LATER_SHARE),
            _ if queue.later.is_empty() => 0,
            _ => queue.later_credit_packets + packets,
        };
        Some(group)
    }

    fn take(&mut self, stream: usize, index: usize, purpose: Purpose) -> Vec<ChunkSymbols> {
        let Some(queue) = self.queues.at(index) else { return Vec::new() };
        let priority = queue.priority;
        match purpose {
            Purpose::Repair => self.repair_chunks(stream, index, priority),
            Purpose::Whole => self.whole_chunks(index, priority),
            Purpose::Later => self.later_chunks(index, priority),
        }
    }

    /// Takes chunks that stragglers lack, round and round, with what these lack.
    fn later_chunks(&mut self, index: usize, priority: i16) -> Vec<ChunkSymbols> {
        let mut chunks = Vec::new();
        let interleave = self.interleave(priority);
        while chunks.len() < interleave {
            let Some(chunk) = self.queues.at(index).and_then(Queue::take_later) else { break };
            let Some(now) = self.priority(chunk).filter(|_| self.progress[chunk.index()].flight != Flight::Waiting) else { continue };
            let Some(needs) = self.roster.stragglers_needs(chunk).filter(|needs| needs.needy() > 0) else { continue };
            let k = self.config.source_symbols[chunk.index()];
            if now < priority {
                self.queues.push_later(now, chunk);
                continue;
            }
            let symbols = match needs.turn_max() {
                _ if needs.any_whole() => (0..k).map(SymbolIndex).collect(),
                Some(count) => self.next_symbols(chunk, count),
                None => self.symbols_for(chunk, true),
            };
            chunks.push(self.chunk_symbols(chunk, symbols));
        }
        chunks
    }

    /// Takes chunks that are to be repaired off the queue, with the symbols that serve all who are known to need some.
    fn repair_chunks(&mut self, stream: usize, index: usize, priority: i16) -> Vec<ChunkSymbols> {
        let mut chunks = Vec::new();
        let interleave = if self.losses.has_long_runs() { INTERLEAVE_LONG_RUNS } else { INTERLEAVE_MAX };
        let at_the_end = self.is_at_the_end();
        while chunks.len() < interleave {
            let Some(chunk) = self.queues.at(index).and_then(|queue| queue.repairs.pop_front()) else { break };
            let now = self.priority(chunk);
            if let Some(now) = now.filter(|&now| now < priority) {
                self.queues.push_repair(now, chunk);
                continue;
            }
            self.progress[chunk.index()].queued = false;
            if now.is_none() || self.progress[chunk.index()].flight == Flight::Waiting {
                continue;
            }
            if at_the_end && self.hand_over(stream, chunk) {
                continue;
            }
            // The fewest that give every receiver that is known to have a part what it needs.
            let symbols = self.symbols_for(chunk, false);
            if !symbols.is_empty() {
                chunks.push(self.chunk_symbols(chunk, symbols));
            }
        }
        chunks
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
            None => self.next_symbols(chunk, count),
        }
    }

    /// The `count` symbols that follow the last ones: repair symbols that nobody has seen, and then all symbols, round and round.
    fn next_symbols(&mut self, chunk: ChunkId, count: u16) -> Vec<SymbolIndex> {
        let k = self.config.source_symbols[chunk.index()];
        let cycle = k + repair_symbols(k);
        let cursor = self.progress[chunk.index()].cursor;
        self.progress[chunk.index()].cursor = (cursor + count) % cycle;
        (0..count).map(|step| SymbolIndex((cursor + step) % cycle)).collect()
    }

    /// Takes the next chunks that somebody needs whole off the carousel.
    fn whole_chunks(&mut self, index: usize, priority: i16) -> Vec<ChunkSymbols> {
        let mut chunks = Vec::new();
        let interleave = self.interleave(priority);
        // A group ends with the round: so chunks share their groups with the same ones in every round, and who began to listen in the middle of a group
        // lacks in the end what came of it before, and waits for nothing else.
        while chunks.len() < interleave && (chunks.is_empty() || !self.queues.begins_anew(index)) {
            let Some(chunk) = self.queues.take_whole(index) else { break };
            let Some(now) = self.priority(chunk) else { continue };
            if now < priority {
                self.queues.push_whole(now, chunk);
                continue;
            }
            let progress = &self.progress[chunk.index()];
            // Of a chunk on its way nothing is known; it will be judged when it has been passed.
            if progress.flight == Flight::Waiting {
                continue;
            }
            let never_sent = progress.sent.is_none();
            let needs = self.roster.needs(chunk);
            if never_sent || needs.is_some_and(ChunkNeeds::any_whole) {
                let k = self.config.source_symbols[chunk.index()];
                self.totals.symbols_needed += if never_sent { u64::from(k) } else { 0 };
                let symbols = (0..k).map(SymbolIndex).chain(self.proactive_symbols(chunk)).collect();
                chunks.push(self.chunk_symbols(chunk, symbols));
            } else if let Some(count) = needs.and_then(ChunkNeeds::turn_max) {
                // Those who heard it from its middle on; all others need less.
                let symbols = self.next_symbols(chunk, count);
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

    fn interleave(&self, priority: i16) -> usize {
        let fills = priority.checked_add(1).is_some_and(|higher| self.streams.iter().any(|stream| stream.has_urgent(higher)));
        if fills { self.interleave_within(FILLING_GROUP_LINE_US) } else { self.interleave_alone() }
    }

    /// The chunks of a group while nothing of a higher priority is on its way.
    pub(super) fn interleave_alone(&self) -> usize {
        self.interleave_within(GROUP_LINE_US)
    }

    fn interleave_within(&self, line_us: u64) -> usize {
        let most = if self.losses.has_long_runs() { INTERLEAVE_LONG_RUNS } else { INTERLEAVE_MAX };
        let chunk_us = self.line_us(u64::from(self.config.parameters.source_symbols_max())).max(1);
        ((line_us / chunk_us) as usize).clamp(INTERLEAVE_MIN, most)
    }

    /// Time that `packets` packets take on the line at a stream's rate.
    fn line_us(&self, packets: u64) -> u64 {
        let frame_bytes = self.config.parameters.payload_bytes() as u64 + u64::from(self.config.frame_overhead_bytes);
        packets * frame_bytes * 8 * 1_000_000 / self.rate_per_stream()
    }

    fn send(&mut self, now: Micros, stream: usize, chunks: Vec<ChunkSymbols>, purpose: Purpose, priority: i16) -> Group {
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
        let urgent = purpose != Purpose::Later || chunks.iter().any(|&chunk| self.roster.is_lacking_beside_stragglers(chunk));
        chunks.iter().for_each(|&chunk| self.roster.send(chunk, purpose != Purpose::Repair));
        let whole = |part: &ChunkSymbols| part.symbols.len() >= usize::from(part.source_symbols);
        let proactive = (purpose == Purpose::Whole && group.chunks.iter().all(whole)).then(|| self.proactive.provision());
        self.streams[stream].send_group(now, line_us, packets, Cargo { chunks, proactive, urgent: urgent.then_some(priority) });
        self.set_greeting_deadlines(self.streams[stream].on_wire_at(now));
        self.totals.symbols_sent += u64::from(packets);
        self.totals.groups_sent += 1;
        self.totals.syncs_sent += 1;
        group
    }
}
