//! One stream of a delivery: its scheduler, and who is to get what on it.

use super::super::chunk_set::ChunkSet;
use super::super::scheduler::Order;
use super::super::{Event, ReceiverId, ScheduleConfig, Scheduler};
use std::collections::BTreeSet;
use wire::report::ChunkRange;
use wire::{Micros, StreamId};

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: StreamId,
    pub(super) scheduler: Scheduler,
    members: BTreeSet<ReceiverId>,
    /// As it was set.
    order: Order,
    rate_cap_bits_per_second: u64,
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
