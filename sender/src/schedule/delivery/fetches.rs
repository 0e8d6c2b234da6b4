//! The last of chunks that receivers fetch by unicast: until it is complete no stream brings it, and when that takes too long a stream brings it after all.

use super::super::{Micros, ReceiverId};
use super::{Delivery, Order};
use std::collections::BTreeMap;
use wire::ChunkId;
use wire::report::ChunkRange;

/// Chunks that are being fetched at once at most: 64 answers of a few symbols each are no load.
const UNDER_WAY_MAX: usize = 64;
/// A chunk that is not complete by then comes by multicast: long beside a call over a LAN and the hash of a chunk.
const PATIENCE_US: u64 = 2_000_000;
/// … and so many report intervals, which are long where receivers are many.
const PATIENCE_INTERVALS: u64 = 4;

impl Delivery {
    /// How many chunks more may be left to unicast.
    pub(super) fn room_for_fetches(&self) -> usize {
        if self.config.last_by_unicast { UNDER_WAY_MAX.saturating_sub(self.fetches.len()) } else { 0 }
    }

    /// What a stream has handed over is to be fetched.
    pub(super) fn begin_fetches(&mut self, now: Micros, handed_over: Vec<(ReceiverId, ChunkId)>) {
        if handed_over.is_empty() {
            return;
        }
        let until = now.after(PATIENCE_US.max(self.report_interval_us() * PATIENCE_INTERVALS));
        let mut chunks_of: BTreeMap<ReceiverId, Vec<ChunkId>> = BTreeMap::new();
        for (receiver, chunk) in handed_over {
            self.fetches.insert((receiver, chunk), until);
            chunks_of.entry(receiver).or_default().push(chunk);
        }
        for (receiver, mut chunks) in chunks_of {
            chunks.sort_unstable();
            self.orders.push((receiver, Order::FetchRest(ChunkRange::from_sorted(chunks))));
        }
    }

    /// By when something will have been fetched, or be brought by a stream.
    pub(super) fn fetches_until(&self) -> Option<Micros> {
        self.fetches.values().min().copied()
    }

    /// Streams bring what was not fetched in time.
    pub(super) fn mind_fetches(&mut self, now: Micros) {
        if self.fetches_until().is_none_or(|until| now < until) {
            return;
        }
        let mut late: Vec<ReceiverId> =
            self.fetches.iter().filter(|&(_, &until)| until <= now).map(|(&(receiver, _), _)| receiver).collect();
        late.dedup();
        self.fetches.retain(|_, until| *until > now);
        for receiver in late {
            // Who had nothing more to get from a stream has left off saying how far it has come, and begins anew.
            for lane in self.lanes.iter_mut().filter(|lane| lane.is_done(receiver)) {
                lane.leave(now, receiver);
            }
            self.settle(now, receiver);
        }
    }

    /// Nobody waits any more for what `receiver` fetches.
    pub(super) fn forget_fetches(&mut self, receiver: ReceiverId) {
        self.fetches.retain(|&(fetching, _), _| fetching != receiver);
    }
}
