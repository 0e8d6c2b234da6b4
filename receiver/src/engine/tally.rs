//! How many packets of each stream were seen before its last sync, wanted or not: what is missing beside the stream's numbers was lost.
//!
//! What follows a sync, of the same stream or of another one, belongs to no position that anybody has told yet, whether it was fetched, waits in a ring,
//! or ended in the filter. Of the latter the filter knows how many there were when the sync came through it; which it can say only of the last one. Where
//! that is another one already, the next sync counts for both.

use bpf::{Mark, STREAMS_MAX};
use wire::{Sequence, StreamId};

#[derive(Clone, Copy, Default)]
struct Stream {
    /// Packets that came here since the last sync that was counted.
    since: u64,
    /// What had ended in the filter before that; wraps.
    unwanted: u32,
    /// A sync came since that could not be counted.
    waits: bool,
    /// It is not followed: its next sync may never come, and is not waited for.
    is_left: bool,
}

/// See the module's text.
pub(super) struct Tally {
    streams: [Stream; STREAMS_MAX],
    /// All streams together, each up to its last sync.
    seen: u64,
    has_news: bool,
}

impl Tally {
    /// Nothing has come.
    pub(super) fn new() -> Tally {
        Tally { streams: [Stream::default(); STREAMS_MAX], seen: 0, has_news: false }
    }

    /// A packet of `stream` that is no sync came here.
    #[inline]
    pub(super) fn packet(&mut self, stream: StreamId) {
        if let Some(stream) = self.streams.get_mut(usize::from(stream.0)) {
            stream.since += 1;
        }
    }

    /// A sync came here. `mark` is what the filter says of the last one.
    pub(super) fn sync(&mut self, stream: StreamId, sequence: Sequence, mark: Option<Mark>) {
        let (Some(stream), Some(mark)) = (self.streams.get_mut(usize::from(stream.0)), mark) else { return };
        stream.since += 1;
        if mark.sequence != sequence.0 {
            stream.waits = !stream.is_left;
            return;
        }
        self.seen += std::mem::take(&mut stream.since) + u64::from(mark.unwanted.wrapping_sub(stream.unwanted));
        (stream.unwanted, stream.waits) = (mark.unwanted, false);
        self.has_news = true;
    }

    /// These streams are followed from now on, and no others; until the first call all are.
    pub(super) fn follow(&mut self, followed: &[StreamId]) {
        for (number, stream) in self.streams.iter_mut().enumerate() {
            stream.is_left = !followed.iter().any(|stream| usize::from(stream.0) == number);
            stream.waits &= !stream.is_left;
        }
    }

    /// What was seen before the streams' last syncs, if one came since this was last asked and all could be counted.
    pub(super) fn take(&mut self) -> Option<u64> {
        let is_settled = || !self.streams.iter().any(|stream| stream.waits);
        (self.has_news && is_settled()).then(|| {
            self.has_news = false;
            self.seen
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId(0);
    const OTHER: StreamId = StreamId(1);

    fn mark(sequence: u32, unwanted: u32) -> Option<Mark> {
        Some(Mark { sequence, unwanted })
    }

    #[test]
    fn what_follows_a_sync_is_not_counted_with_what_went_before() {
        let mut tally = Tally::new();
        (0..3).for_each(|_| tally.packet(STREAM));
        tally.sync(STREAM, Sequence(3), mark(3, 0));
        (0..5).for_each(|_| tally.packet(STREAM));
        assert_eq!((tally.take(), tally.take()), (Some(4), None), "three packets and the sync");
        // Nor what has come of another stream since its own last sync.
        (0..7).for_each(|_| tally.packet(OTHER));
        tally.sync(STREAM, Sequence(9), mark(9, 0));
        assert_eq!(tally.take(), Some(10));
        tally.sync(OTHER, Sequence(7), mark(7, 0));
        assert_eq!(tally.take(), Some(18));
    }

    #[test]
    fn what_ended_in_the_filter_before_a_sync_counts_with_it_and_nothing_else_does() {
        let mut tally = Tally::new();
        tally.packet(STREAM);
        tally.sync(STREAM, Sequence(10), mark(10, 9));
        assert_eq!(tally.take(), Some(11));
        tally.sync(OTHER, Sequence(100), mark(100, u32::MAX));
        let before = tally.take().unwrap();
        tally.sync(OTHER, Sequence(110), mark(110, 8));
        assert_eq!(tally.take().unwrap() - before, 10, "the filter's number wraps");
    }

    #[test]
    fn a_sync_that_the_filter_has_gone_past_counts_with_the_next_one() {
        let mut tally = Tally::new();
        tally.sync(STREAM, Sequence(10), mark(20, 19));
        tally.sync(OTHER, Sequence(5), mark(5, 5));
        assert_eq!(tally.take(), None, "as long as one stream's number stands behind its position");
        tally.sync(STREAM, Sequence(20), mark(20, 19));
        assert_eq!(tally.take(), Some(2 + 19 + 1 + 5));
        tally.sync(STREAM, Sequence(30), mark(40, 30));
        tally.follow(&[OTHER]);
        tally.sync(OTHER, Sequence(6), mark(6, 5));
        assert_eq!(tally.take(), Some(28), "the other one was left");
        // It may come all the same, and its last sync may be lost in a ring.
        tally.sync(STREAM, Sequence(40), mark(50, 30));
        tally.sync(OTHER, Sequence(7), mark(7, 5));
        assert_eq!(tally.take(), Some(29), "nor does it hold the count up later");
    }

    #[test]
    fn a_stream_that_nobody_counts_changes_nothing() {
        let mut tally = Tally::new();
        tally.packet(StreamId(64));
        tally.sync(StreamId(64), Sequence(1), mark(1, 0));
        tally.sync(STREAM, Sequence(1), None);
        assert_eq!(tally.take(), None);
    }
}
