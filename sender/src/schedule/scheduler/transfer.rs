//! Demand that moves between the streams of a delivery: what a receiver is to get here may grow, and shrink by what is not under way.

use super::{Flight, Scheduler};
use crate::schedule::needs::is_whole;
use crate::schedule::{Micros, ReceiverId};
use wire::ChunkId;
use wire::report::ChunkRange;

impl Scheduler {
    /// Whether `receiver` is to get `chunk` from this scheduler.
    pub(in crate::schedule) fn wants(&self, receiver: ReceiverId, chunk: ChunkId) -> bool {
        self.roster.want(receiver).is_some_and(|want| want.contains(chunk))
    }

    /// What `receiver` is to get, ascending.
    pub(in crate::schedule) fn want_of(&self, receiver: ReceiverId) -> impl Iterator<Item = ChunkId> + '_ {
        self.roster.want(receiver).into_iter().flat_map(|want| want.iter())
    }

    /// `receiver`, which is listed, is to get `chunks` too.
    pub(in crate::schedule) fn widen(&mut self, now: Micros, receiver: ReceiverId, chunks: &[ChunkRange]) {
        self.roster.widen(receiver, chunks);
        self.sort_queues();
        self.queue_never_sent(receiver);
        // What was sent before it wanted them counts as passed without a word: it lacks all of them.
        for chunk in chunks.iter().copied().flat_map(ChunkRange::chunks) {
            if self.has_passed(receiver, chunk)
                && self.roster.count(receiver, chunk)
                && self.progress[chunk.index()].flight != Flight::Waiting
            {
                self.judge(chunk);
            }
        }
        self.streams.iter_mut().for_each(|stream| stream.hurry_syncs(now));
    }

    /// `receiver` is not to get the chunks of `range` here, but for those that are on their way and those that it has in part.
    pub(in crate::schedule) fn release(&mut self, receiver: ReceiverId, range: ChunkRange) {
        let Some(want) = self.roster.want(receiver) else { return };
        let chunks: Vec<ChunkId> = want.iter_range(range).collect();
        for chunk in chunks {
            let source_symbols = self.config.source_symbols[chunk.index()];
            let in_part = self.roster.stated(receiver, chunk).is_some_and(|symbols| !is_whole(symbols, source_symbols));
            if self.progress[chunk.index()].flight != Flight::Waiting && !in_part {
                self.roster.complete(receiver, ChunkRange { first: chunk, count: 1 });
            }
        }
    }
}
