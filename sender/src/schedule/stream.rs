//! One stream as the scheduler sees it: the next position, the groups whose fate is not known yet, how far each receiver has come, and
//! when the next sync is due while there is nothing to send.
//!
//! Positions are sequence numbers counted in 64 bits, which do not wrap; the wire carries their lower half.

use super::ReceiverId;
use super::proactive::Provision;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use wire::{ChunkId, Micros, Sequence, StreamId};

/// With nothing to send, a sync follows the last group after this, then after twice, four times, … as long, so that one lost sync does
/// not hold up the end of a transfer: a LAN's round trip is well below it.
const IDLE_SYNC_FIRST_US: u64 = 2_500;
/// The longest such interval: 50 packets a second cost nothing, and a receiver that lost every other one still answers in 40 ms.
const IDLE_SYNC_LAST_US: u64 = 20_000;

/// A group that is on its way.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    /// Position of its first packet.
    pub(super) first: u64,
    /// Position of its sync.
    pub(super) sync: u64,
    /// When, at the rate of the stream, its sync has left.
    pub(super) on_wire_at: Micros,
    /// What it carries.
    pub(super) cargo: Cargo,
}

/// What a group carries.
#[derive(Clone, Debug, Default)]
pub(super) struct Cargo {
    /// Its chunks.
    pub(super) chunks: Vec<ChunkId>,
    /// What repair went out with its chunks; `None` when it repairs.
    pub(super) proactive: Option<Provision>,
    /// The priority of its chunks when more than stragglers may lack something of them.
    pub(super) urgent: Option<i16>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Position of the next packet.
    next: u64,
    /// When everything that was handed out has left.
    busy_until: Micros,
    /// Position after the last symbol.
    pub(super) symbols_end: u64,
    /// Groups that some listener has not passed, oldest first.
    pub(super) in_flight: VecDeque<InFlight>,
    /// How many of them, from the oldest, are overdue: judged by what is known although somebody has not passed them.
    pub(super) overdue: usize,
    /// Who listens, by how far it has come.
    listeners: BTreeSet<(u64, ReceiverId)>,
    passed: BTreeMap<ReceiverId, u64>,
    sync_due_at: Micros,
    sync_interval_us: u64,
}

impl Stream {
    pub(super) fn new(id: StreamId) -> Stream {
        Stream {
            id,
            next: 0,
            busy_until: Micros(0),
            symbols_end: 0,
            in_flight: VecDeque::new(),
            overdue: 0,
            listeners: BTreeSet::new(),
            passed: BTreeMap::new(),
            sync_due_at: Micros(0),
            sync_interval_us: IDLE_SYNC_FIRST_US,
        }
    }

    /// The sequence number of the next packet.
    pub(super) fn next_sequence(&self) -> Sequence {
        Sequence(self.next as u32)
    }

    /// Position of the next packet.
    pub(super) fn next_position(&self) -> u64 {
        self.next
    }

    /// The position that a receiver means; `None` when nothing of that number was sent.
    pub(super) fn position_of(&self, sequence: Sequence) -> Option<u64> {
        let behind = u64::try_from(self.next_sequence().since(sequence)).ok().filter(|&behind| behind > 0)?;
        self.next.checked_sub(behind)
    }

    /// Hands out a group of `packets` packets and its sync that take `line_us` to send.
    pub(super) fn send_group(&mut self, now: Micros, line_us: u64, packets: u32, cargo: Cargo) {
        let first = self.next;
        let sync = first + u64::from(packets);
        self.busy_until = self.busy_until.max(now).after(line_us);
        self.in_flight.push_back(InFlight { first, sync, on_wire_at: self.busy_until, cargo });
        self.symbols_end = sync;
        self.next = sync + 1;
        self.sync_interval_us = IDLE_SYNC_FIRST_US;
        self.sync_due_at = self.busy_until.after(IDLE_SYNC_FIRST_US);
    }

    /// When a sync is due if nothing else is sent.
    pub(super) fn sync_due_at(&self) -> Micros {
        self.sync_due_at
    }

    /// Hands out a sync.
    pub(super) fn send_sync(&mut self, now: Micros) -> Sequence {
        let sequence = self.next_sequence();
        self.next += 1;
        self.sync_due_at = self.busy_until.max(now).after(self.sync_interval_us);
        self.sync_interval_us = (self.sync_interval_us * 2).min(IDLE_SYNC_LAST_US);
        sequence
    }

    /// Somebody waits to be heard: syncs are frequent for a while.
    pub(super) fn hurry_syncs(&mut self, now: Micros) {
        self.sync_interval_us = IDLE_SYNC_FIRST_US;
        self.sync_due_at = self.sync_due_at.min(self.busy_until.max(now).after(IDLE_SYNC_FIRST_US));
    }

    /// When everything that was handed out will have left.
    pub(super) fn on_wire_at(&self, now: Micros) -> Micros {
        self.busy_until.max(now)
    }

    /// How far `receiver` has come; `None` when it does not listen.
    pub(super) fn passed(&self, receiver: ReceiverId) -> Option<u64> {
        self.passed.get(&receiver).copied()
    }

    /// `receiver` listens and has passed `position`. It never goes back. Where it was before.
    pub(super) fn listen(&mut self, receiver: ReceiverId, position: u64) -> Option<u64> {
        let before = self.passed(receiver);
        let position = before.map_or(position, |before| position.max(before));
        self.passed.insert(receiver, position);
        if let Some(before) = before {
            self.listeners.remove(&(before, receiver));
        }
        self.listeners.insert((position, receiver));
        before
    }

    /// The groups on their way whose syncs lie behind `before` and not behind `position`.
    pub(super) fn groups_between(&self, before: u64, position: u64) -> impl Iterator<Item = &InFlight> {
        let from = self.in_flight.partition_point(|group| group.sync <= before);
        self.in_flight.range(from..).take_while(move |group| group.sync <= position)
    }

    /// Whether a group of `priority` or more is on its way, and not overdue, of which more than stragglers may lack something.
    pub(super) fn has_urgent(&self, priority: i16) -> bool {
        self.in_flight
            .range(self.overdue.min(self.in_flight.len())..)
            .any(|group| group.cargo.urgent.is_some_and(|urgent| urgent >= priority))
    }

    /// Those who listen.
    pub(super) fn listener_count(&self) -> usize {
        self.listeners.len()
    }

    /// `receiver` does not listen any more.
    pub(super) fn unlisten(&mut self, receiver: ReceiverId) {
        if let Some(position) = self.passed.remove(&receiver) {
            self.listeners.remove(&(position, receiver));
        }
    }

    /// Listeners that have not passed `position`.
    pub(super) fn behind(&self, position: u64) -> impl Iterator<Item = ReceiverId> + '_ {
        // Passed means beyond: a receiver at `position` itself has seen only what lies before it.
        self.listeners.range(..(position + 1, ReceiverId(0))).map(|&(_, receiver)| receiver)
    }

    /// Takes the oldest group if every listener has passed it.
    pub(super) fn take_passed(&mut self) -> Option<InFlight> {
        let sync = self.in_flight.front()?.sync;
        if self.listeners.first().is_some_and(|&(passed, _)| passed < sync) {
            return None;
        }
        self.overdue = self.overdue.saturating_sub(1);
        self.in_flight.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(1_000);

    fn cargo(chunks: &[ChunkId]) -> Cargo {
        Cargo { chunks: chunks.to_vec(), ..Cargo::default() }
    }

    #[test]
    fn a_position_that_was_never_sent_is_refused() {
        let mut stream = Stream::new(StreamId(0));
        assert_eq!(stream.position_of(Sequence(0)), None);
        stream.send_group(NOW, 10, 5, cargo(&[]));
        assert_eq!(stream.position_of(Sequence(5)), Some(5));
        assert_eq!(stream.position_of(Sequence(6)), None);
        assert_eq!(stream.position_of(Sequence(u32::MAX)), None, "before the first");
        assert_eq!(stream.position_of(Sequence(1 << 31)), None);
    }

    #[test]
    fn positions_survive_the_wrap_of_the_sequence() {
        let mut stream = Stream::new(StreamId(0));
        stream.next = (1 << 32) + 3;
        assert_eq!(stream.position_of(Sequence(2)), Some((1 << 32) + 2));
        assert_eq!(stream.position_of(Sequence(u32::MAX)), Some((1 << 32) - 1));
        assert_eq!(stream.position_of(Sequence(3)), None);
    }

    #[test]
    fn a_group_is_passed_when_the_slowest_listener_has_passed_its_sync() {
        let mut stream = Stream::new(StreamId(0));
        stream.listen(ReceiverId(1), 0);
        stream.listen(ReceiverId(2), 0);
        stream.send_group(NOW, 10, 5, cargo(&[ChunkId(3)]));
        stream.listen(ReceiverId(1), 5);
        assert!(stream.take_passed().is_none());
        assert_eq!(stream.behind(4).collect::<Vec<_>>(), [ReceiverId(2)]);
        stream.listen(ReceiverId(1), 2);
        assert_eq!(stream.passed(ReceiverId(1)), Some(5), "never back");
        stream.unlisten(ReceiverId(2));
        assert_eq!(stream.take_passed().map(|group| group.cargo.chunks), Some(vec![ChunkId(3)]));
    }

    #[test]
    fn idle_syncs_come_quickly_at_first_then_every_20_ms() {
        let mut stream = Stream::new(StreamId(0));
        stream.send_group(Micros(0), 100, 5, cargo(&[]));
        let mut intervals = Vec::new();
        let mut before = Micros(100);
        for _ in 0..5 {
            let due = stream.sync_due_at();
            intervals.push(due.since(before));
            before = due;
            stream.send_sync(due);
        }
        assert_eq!(intervals, [2_500, 2_500, 5_000, 10_000, 20_000]);
        assert_eq!(stream.next_sequence(), Sequence(11));
    }

    #[test]
    fn groups_handed_out_ahead_queue_up_on_the_line() {
        let mut stream = Stream::new(StreamId(0));
        stream.send_group(NOW, 500, 5, cargo(&[]));
        stream.send_group(NOW, 500, 5, cargo(&[]));
        let on_wire: Vec<_> = stream.in_flight.iter().map(|group| group.on_wire_at.0).collect();
        assert_eq!(on_wire, [1_500, 2_000]);
    }
}
