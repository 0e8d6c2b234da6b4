//! Demand that moves between the streams of a delivery: what a receiver is to get here may grow, and shrink by what is not under way.

use super::{Attendance, Flight, Scheduler};
use crate::schedule::chunk_set::ChunkSet;
use crate::schedule::needs::is_whole;
use crate::schedule::{Micros, ReceiverId};
use wire::ChunkId;
use wire::report::ChunkRange;

impl Scheduler {
    /// Whether `receiver` is to get `chunk` from this scheduler.
    pub(in crate::schedule) fn wants(&self, receiver: ReceiverId, chunk: ChunkId) -> bool {
        self.roster.want(receiver).is_some_and(|want| want.contains(chunk))
    }

    /// Whether `receiver` is listed here and has not answered for long.
    pub(in crate::schedule) fn is_absent(&self, receiver: ReceiverId) -> bool {
        self.roster.attendance(receiver) == Some(&Attendance::Absent)
    }

    /// Whether somebody has become absent since this was last asked.
    pub(in crate::schedule) fn take_absence(&mut self) -> bool {
        std::mem::take(&mut self.somebody_is_absent)
    }

    /// What `receiver` is to get, ascending.
    pub(in crate::schedule) fn want_of(&self, receiver: ReceiverId) -> impl Iterator<Item = ChunkId> + '_ {
        self.roster.want(receiver).into_iter().flat_map(|want| want.iter())
    }

    /// How many chunks of `range` `receiver` is to get.
    pub(in crate::schedule) fn want_in(&self, receiver: ReceiverId, range: ChunkRange) -> usize {
        self.roster.want(receiver).map_or(0, |want| want.iter_range(range).count())
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

    /// `receiver` is to get nothing but `goal` here, and chunks that are on their way and those that it has in part.
    pub(in crate::schedule) fn release(&mut self, receiver: ReceiverId, goal: &ChunkSet) {
        let Some(want) = self.roster.want(receiver) else { return };
        let chunks: Vec<ChunkId> = want.iter().filter(|&chunk| !goal.contains(chunk)).collect();
        for chunk in chunks {
            let source_symbols = self.config.source_symbols[chunk.index()];
            let in_part = self.roster.stated(receiver, chunk).is_some_and(|symbols| !is_whole(symbols, source_symbols));
            if self.progress[chunk.index()].flight != Flight::Waiting && !in_part {
                self.roster.complete(receiver, ChunkRange { first: chunk, count: 1 });
            }
        }
    }
}
