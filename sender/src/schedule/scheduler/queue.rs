//! The queues: what waits to be sent, for each priority apart.
//!
//! A chunk waits in the queue of its priority or of a higher one, which it had when it was put there: it moves down when its turn comes. When priorities
//! may have risen everything is sorted anew.

use super::order::Order;
use crate::schedule::chunk_set::ChunkSet;
use std::collections::VecDeque;
use wire::ChunkId;

/// What waits with one priority.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) priority: i16,
    /// Chunks that somebody needs whole: never sent, or lost altogether. Served in ascending order, round and round.
    pub(super) whole: ChunkSet,
    /// Chunks that somebody has in part, in the order in which that became known.
    pub(super) repairs: VecDeque<ChunkId>,
    /// Chunks that only stragglers lack, in part or whole: served when there is nothing else, and a hundredth of the time besides.
    pub(super) later: ChunkSet,
    later_next: u32,
    /// Packets sent to others that stragglers' hundredth comes from.
    pub(super) later_credit_packets: u64,
    /// Symbols by which repairs have had more than half of the queue's packets while whole chunks waited.
    pub(super) repairs_ahead_symbols: u64,
}

impl Queue {
    fn new(priority: i16, chunk_count: u32) -> Queue {
        Queue {
            priority,
            whole: ChunkSet::new(chunk_count),
            repairs: VecDeque::new(),
            later: ChunkSet::new(chunk_count),
            later_next: 0,
            later_credit_packets: 0,
            repairs_ahead_symbols: 0,
        }
    }

    /// Takes the next chunk off the carousel.
    pub(super) fn take_whole(&mut self, order: &mut Order) -> Option<ChunkId> {
        order.take(&mut self.whole)
    }

    /// Takes the next chunk that stragglers lack.
    pub(super) fn take_later(&mut self) -> Option<ChunkId> {
        take_round(&mut self.later, &mut self.later_next)
    }

    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.repairs.is_empty() && self.later.is_empty()
    }
}

/// Takes the next of `chunks` from `from` on, round and round.
fn take_round(chunks: &mut ChunkSet, from: &mut u32) -> Option<ChunkId> {
    let chunk = chunks.next_from(*from).or_else(|| chunks.next_from(0))?;
    *from = chunk.0.saturating_add(1);
    chunks.remove(chunk);
    Some(chunk)
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Queues {
    chunk_count: u32,
    /// Of whole chunks, whatever their priority.
    order: Order,
    /// Descending by priority.
    queues: Vec<Queue>,
}

impl Queues {
    pub(super) fn new(chunk_count: u32) -> Queues {
        Queues { chunk_count, order: Order::ascending(), queues: Vec::new() }
    }

    /// Whole chunks go out in this order from now on.
    pub(super) fn set_order(&mut self, order: Order) {
        self.order = order;
    }

    /// Where the carousel stands.
    pub(super) fn position(&self) -> u32 {
        self.order.position()
    }

    /// Takes the next chunk off the carousel of the queue at `index`.
    pub(super) fn take_whole(&mut self, index: usize) -> Option<ChunkId> {
        self.queues.get_mut(index)?.take_whole(&mut self.order)
    }

    /// Whether the carousel has gone round for the queue at `index`.
    pub(super) fn begins_anew(&self, index: usize) -> bool {
        self.queues.get(index).is_none_or(|queue| self.order.begins_anew(&queue.whole))
    }

    /// The queues, that of the highest priority first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Queue> {
        self.queues.iter()
    }

    /// The queue at `index`, counted from the highest priority.
    pub(super) fn at(&mut self, index: usize) -> Option<&mut Queue> {
        self.queues.get_mut(index)
    }

    /// `chunk` is to be sent whole, unless it waits for that already.
    pub(super) fn push_whole(&mut self, priority: i16, chunk: ChunkId) {
        if !self.queues.iter().any(|queue| queue.whole.contains(chunk)) {
            self.of(priority).whole.insert(chunk);
        }
    }

    /// Stragglers lack something of `chunk`.
    pub(super) fn push_later(&mut self, priority: i16, chunk: ChunkId) {
        if !self.queues.iter().any(|queue| queue.later.contains(chunk)) {
            self.of(priority).later.insert(chunk);
        }
    }

    /// `chunk`, which does not wait for that, is to be repaired.
    pub(super) fn push_repair(&mut self, priority: i16, chunk: ChunkId) {
        self.of(priority).repairs.push_back(chunk);
    }

    /// Forgets queues that are empty and of no priority that is in use.
    pub(super) fn retain(&mut self, is_in_use: impl Fn(i16) -> bool) {
        self.queues.retain(|queue| !queue.is_empty() || is_in_use(queue.priority));
    }

    /// Puts everything where it belongs by `priority_of`; what nobody wants stays where it is, until it is taken and dropped.
    pub(super) fn sort(&mut self, priority_of: impl Fn(ChunkId) -> Option<i16>) {
        let (mut whole, mut later, mut repairs) = (Vec::new(), Vec::new(), Vec::new());
        for queue in &mut self.queues {
            let elsewhere = |&chunk: &ChunkId| priority_of(chunk).is_some_and(|priority| priority != queue.priority);
            let (first_whole, first_later) = (whole.len(), later.len());
            whole.extend(queue.whole.iter().filter(elsewhere));
            later.extend(queue.later.iter().filter(elsewhere));
            repairs.extend(queue.repairs.iter().copied().filter(elsewhere));
            queue.repairs.retain(|chunk| !elsewhere(chunk));
            for chunk in &whole[first_whole..] {
                queue.whole.remove(*chunk);
            }
            for chunk in &later[first_later..] {
                queue.later.remove(*chunk);
            }
        }
        let to = |chunk: ChunkId| priority_of(chunk).map(|priority| (priority, chunk));
        whole.into_iter().filter_map(to).for_each(|(priority, chunk)| self.push_whole(priority, chunk));
        later.into_iter().filter_map(to).for_each(|(priority, chunk)| self.push_later(priority, chunk));
        repairs.into_iter().filter_map(to).for_each(|(priority, chunk)| self.push_repair(priority, chunk));
    }

    fn of(&mut self, priority: i16) -> &mut Queue {
        let index = self.queues.partition_point(|queue| queue.priority > priority);
        if self.queues.get(index).is_none_or(|queue| queue.priority != priority) {
            self.queues.insert(index, Queue::new(priority, self.chunk_count));
        }
        &mut self.queues[index]
    }
}
