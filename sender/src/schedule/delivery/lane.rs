//! One stream of a delivery: its scheduler, and who is to get what on it.

use super::super::chunk_set::ChunkSet;
use super::super::scheduler::Order;
use super::super::{Event, Next, ReceiverId, ScheduleConfig, Scheduler};
use std::collections::BTreeSet;
use wire::report::ChunkRange;
use wire::{Micros, StreamId};

/// Those who are to join a stream that nobody hears yet are waited for so long: the order's way, joining the group, the switch's hearing of it, a sync
/// and the report on it. What is sent before they hear has to be sent again.
const JOINING_US: u64 = 50_000;

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: StreamId,
    pub(super) scheduler: Scheduler,
    members: BTreeSet<ReceiverId>,
    /// As it was set.
    order: Order,
    rate_cap_bits_per_second: u64,
    /// Until then nothing is sent but syncs, unless all members have said before that they hear them.
    joining_until: Option<Micros>,
}

impl Lane {
    pub(super) fn new(config: &ScheduleConfig, id: StreamId, wait_for_all: bool) -> Lane {
        let mut scheduler = Scheduler::new(ScheduleConfig { streams: vec![id], ..config.clone() });
        scheduler.wait_for_all(wait_for_all);
        Lane {
            id,
            scheduler,
            members: BTreeSet::new(),
            order: Order::ascending(),
            rate_cap_bits_per_second: config.rate_cap_bits_per_second,
            joining_until: None,
        }
    }

    /// What it sends next.
    pub(super) fn next(&mut self, now: Micros) -> Next {
        if self.joining_until.is_some_and(|until| now < until) && self.scheduler.listeners_of(self.id) < self.members.len() {
            return self.scheduler.next_while_joining(now, self.id);
        }
        self.joining_until = None;
        self.scheduler.next(now, self.id)
    }

    /// Somebody is told to join it.
    pub(super) fn is_joined(&mut self, now: Micros) {
        if self.scheduler.listeners_of(self.id) == 0 {
            self.joining_until = Some(now.after(JOINING_US));
        }
    }

    /// Bounds of the rate from now on.
    pub(super) fn set_rate_limits(&mut self, cap_bits_per_second: u64, floor_bits_per_second: u64) {
        self.rate_cap_bits_per_second = cap_bits_per_second;
        self.scheduler.set_rate_limits(cap_bits_per_second, floor_bits_per_second);
    }

    /// What was last set.
    pub(super) fn rate_cap_bits_per_second(&self) -> u64 {
        self.rate_cap_bits_per_second
    }

    /// Sends in `order` from now on, unless it does already.
    pub(super) fn set_order(&mut self, order: Order) {
        if !self.order.is_like(&order) {
            self.order = order.clone();
            self.scheduler.set_order(order);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Those who are to get something here.
    pub(super) fn members(&self) -> impl Iterator<Item = ReceiverId> + '_ {
        self.members.iter().copied()
    }

    pub(super) fn has(&self, receiver: ReceiverId) -> bool {
        self.members.contains(&receiver)
    }

    /// Whether `receiver` was to get something here and has it all.
    pub(super) fn is_done(&self, receiver: ReceiverId) -> bool {
        self.has(receiver) && self.scheduler.remaining(receiver) == Some(0)
    }

    /// `receiver` is to get `chunks` too.
    pub(super) fn bring(&mut self, now: Micros, receiver: ReceiverId, priority: i16, chunks: &[ChunkRange]) {
        if chunks.is_empty() {
            return;
        }
        if self.members.insert(receiver) {
            self.scheduler.handle(now, Event::Joined { receiver, want: chunks.to_vec() });
            self.prioritize(now, receiver, priority);
        } else {
            self.scheduler.widen(now, receiver, chunks);
        }
    }

    pub(super) fn prioritize(&mut self, now: Micros, receiver: ReceiverId, priority: i16) {
        self.scheduler.handle(now, Event::Prioritized { receiver, priority });
    }

    /// `receiver` is to get nothing but `goal` here, and chunks that it has in part or that are on their way to it.
    pub(super) fn release(&mut self, now: Micros, receiver: ReceiverId, goal: &ChunkSet) {
        if !self.has(receiver) {
            return;
        }
        self.scheduler.release(receiver, goal);
        if self.is_done(receiver) {
            self.leave(now, receiver);
        }
    }

    pub(super) fn leave(&mut self, now: Micros, receiver: ReceiverId) {
        if self.members.remove(&receiver) {
            self.scheduler.handle(now, Event::Left { receiver });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::report::Report;
    use wire::session::SessionParameters;
    use wire::{ChunkId, SessionId};

    const STREAM: StreamId = StreamId(2);
    const ALL: ChunkRange = ChunkRange { first: ChunkId(0), count: 100 };

    /// With two members that were told to join it at 1 s.
    fn lane() -> Lane {
        let parameters = SessionParameters { session: SessionId(1), symbol_bytes: 1_000, chunk_count: 100, chunk_bytes_max: 4_000 };
        let config = ScheduleConfig {
            parameters,
            source_symbols: vec![4; 100],
            streams: vec![StreamId(0), STREAM],
            rate_cap_bits_per_second: 1_000_000_000,
            rate_floor_bits_per_second: 1_000_000,
            frame_overhead_bytes: 0,
        };
        let mut lane = Lane::new(&config, STREAM, false);
        for receiver in [ReceiverId(1), ReceiverId(2)] {
            lane.bring(Micros(1_000_000), receiver, 0, &[ALL]);
            lane.is_joined(Micros(1_000_000));
        }
        lane
    }

    /// Asks the lane whenever it wants to be asked until `until`; the syncs that it sends. Nothing else comes.
    fn syncs(lane: &mut Lane, from: Micros, until: Micros) -> Vec<wire::Sequence> {
        let (mut now, mut syncs) = (from, Vec::new());
        while now < until {
            match lane.next(now) {
                Next::Sync { sequence } => syncs.push(sequence),
                Next::Wait { until } => now = until.unwrap(),
                Next::Group(group) => panic!("at {now:?} with nobody there: {group:?}"),
            }
        }
        syncs
    }

    fn hears(lane: &mut Lane, now: Micros, receiver: u64, passed: wire::Sequence) {
        let report = Report { passed: vec![(STREAM, passed)], ..Report::default() };
        lane.scheduler.handle(now, Event::Reported { receiver: ReceiverId(receiver), report });
    }

    #[test]
    fn a_stream_that_is_joined_begins_when_all_have_said_that_they_hear_it() {
        let mut lane = lane();
        let heard = syncs(&mut lane, Micros(1_000_000), Micros(1_011_000));
        assert!((3..=5).contains(&heard.len()), "a sync every 2.5 ms: {heard:?}");
        hears(&mut lane, Micros(1_011_000), 1, heard[0]);
        assert!(!syncs(&mut lane, Micros(1_011_000), Micros(1_016_000)).is_empty(), "one of two");
        hears(&mut lane, Micros(1_016_000), 2, heard[1]);
        assert!(matches!(lane.next(Micros(1_016_000)), Next::Group(_)));
        // Who comes now misses the beginning; the others do not wait for it.
        lane.bring(Micros(1_017_000), ReceiverId(3), 0, &[ALL]);
        lane.is_joined(Micros(1_017_000));
        assert!(matches!(lane.next(Micros(1_017_000)), Next::Group(_)));
    }

    #[test]
    fn who_never_says_so_or_leaves_holds_nobody_up() {
        let mut silent = lane();
        let heard = syncs(&mut silent, Micros(1_000_000), Micros(1_000_000 + JOINING_US));
        hears(&mut silent, Micros(1_020_000), 1, heard[0]);
        assert!(matches!(silent.next(Micros(1_000_000 + JOINING_US)), Next::Group(_)), "long enough");
        let mut left = lane();
        let heard = syncs(&mut left, Micros(1_000_000), Micros(1_005_000));
        hears(&mut left, Micros(1_005_000), 1, heard[0]);
        left.leave(Micros(1_005_000), ReceiverId(2));
        assert!(matches!(left.next(Micros(1_005_000)), Next::Group(_)));
    }
}
