//! How far the streams have come, as their syncs tell, in spite of lost, reordered, repeated and forged ones and of a sender that begins anew.

use std::collections::{BTreeMap, VecDeque};
use wire::{Sequence, StreamId};

/// Streams that are followed at most; a session has a handful, anything beyond is forged.
const STREAMS_MAX: usize = 64;
/// Syncs that are remembered: a report may stop short of the last ones.
const SYNCS_KEPT: usize = 8;
/// A sync from behind is late, unless this many come in a row, each further than the one before: then the numbers begin anew.
const RESTART_SYNCS: u32 = 3;

#[derive(Clone, Debug)]
struct Position {
    passed: Sequence,
    /// The last syncs, `passed` the last of them.
    recent: VecDeque<Sequence>,
    /// `passed` at the last count, or where the stream was entered.
    counted: Sequence,
    behind: Option<Sequence>,
    behind_count: u32,
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Positions {
    streams: BTreeMap<StreamId, Position>,
}

/// What a sync has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Nothing new.
    No,
    /// The stream is heard for the first time.
    Entered,
    /// The stream has come further.
    On,
    /// The stream's numbers begin anew: what was seen before is older than all that comes.
    Anew,
}

impl Positions {
    /// A sync of `stream` at `sequence` came.
    pub(super) fn sync(&mut self, stream: StreamId, sequence: Sequence) -> Moved {
        if self.streams.len() >= STREAMS_MAX && !self.streams.contains_key(&stream) {
            return Moved::No;
        }
        let fresh = || Position { passed: sequence, recent: VecDeque::from([sequence]), counted: sequence, behind: None, behind_count: 0 };
        let mut known = true;
        let position = self.streams.entry(stream).or_insert_with(|| {
            known = false;
            fresh()
        });
        if !known {
            return Moved::Entered;
        }
        if sequence.since(position.passed) > 0 {
            (position.passed, position.behind, position.behind_count) = (sequence, None, 0);
            if position.recent.len() == SYNCS_KEPT {
                position.recent.pop_front();
            }
            position.recent.push_back(sequence);
            return Moved::On;
        }
        if sequence != position.passed && position.behind.is_none_or(|behind| sequence.since(behind) > 0) {
            position.behind = Some(sequence);
            position.behind_count += 1;
            if position.behind_count >= RESTART_SYNCS {
                *position = fresh();
                return Moved::Anew;
            }
        }
        Moved::No
    }

    /// Whether everything up to `seen` has passed.
    pub(super) fn is_past(&self, seen: (StreamId, Sequence)) -> bool {
        self.streams.get(&seen.0).is_some_and(|position| position.passed.since(seen.1) > 0)
    }

    /// The positions, or earlier ones, such that none of `limits` lies before them. A stream without a sync that early is left out.
    pub(super) fn short_of(&self, limits: impl Iterator<Item = (StreamId, Sequence)>) -> Vec<(StreamId, Sequence)> {
        let mut first: BTreeMap<StreamId, Sequence> = BTreeMap::new();
        for (stream, limit) in limits {
            first
                .entry(stream)
                .and_modify(|first| {
                    if limit.since(*first) < 0 {
                        *first = limit
                    }
                })
                .or_insert(limit);
        }
        let of_stream = |(&stream, position): (&StreamId, &Position)| match first.get(&stream) {
            Some(&limit) => position.recent.iter().rev().find(|&&sync| sync.since(limit) <= 0).map(|&sync| (stream, sync)),
            None => Some((stream, position.passed)),
        };
        self.streams.iter().filter_map(of_stream).collect()
    }

    /// How many packets the streams have moved since this was last asked.
    pub(super) fn count(&mut self) -> u64 {
        let moved = |position: &mut Position| {
            let moved = position.passed.since(position.counted);
            position.counted = position.passed;
            u64::try_from(moved).unwrap_or(0)
        };
        self.streams.values_mut().map(moved).sum()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.streams.clear();
    }

    /// Forgets all streams but those to `keep`.
    pub(super) fn retain(&mut self, keep: impl Fn(StreamId) -> bool) {
        self.streams.retain(|&stream, _| keep(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId(3);

    #[test]
    fn a_stream_moves_on_and_late_syncs_change_nothing() {
        let mut positions = Positions::default();
        assert_eq!(positions.sync(STREAM, Sequence(u32::MAX - 5)), Moved::Entered);
        assert_eq!(positions.sync(STREAM, Sequence(10)), Moved::On);
        assert_eq!(positions.sync(STREAM, Sequence(10)), Moved::No);
        assert_eq!(positions.sync(STREAM, Sequence(2)), Moved::No);
        assert!(positions.is_past((STREAM, Sequence(9))) && !positions.is_past((STREAM, Sequence(10))));
        assert!(!positions.is_past((StreamId(4), Sequence(0))));
        assert_eq!(positions.short_of([].into_iter()), [(STREAM, Sequence(10))]);
        assert_eq!((positions.count(), positions.count()), (16, 0));
    }

    #[test]
    fn numbers_that_begin_anew_are_believed_at_the_third_sync() {
        let mut positions = Positions::default();
        positions.sync(STREAM, Sequence(100_000));
        assert_eq!(positions.sync(STREAM, Sequence(5)), Moved::No);
        assert_eq!(positions.sync(STREAM, Sequence(5)), Moved::No, "a repeated one does not count");
        assert_eq!(positions.sync(STREAM, Sequence(8)), Moved::No);
        assert_eq!(positions.sync(STREAM, Sequence(11)), Moved::Anew);
        assert_eq!((positions.short_of([].into_iter()), positions.count()), (vec![(STREAM, Sequence(11))], 0));
    }

    #[test]
    fn a_position_can_stop_short_of_what_is_not_settled() {
        let mut positions = Positions::default();
        [10, 20, 30].into_iter().for_each(|sync| _ = positions.sync(STREAM, Sequence(sync)));
        let short_of = |limits: &[u32]| positions.short_of(limits.iter().map(|&limit| (STREAM, Sequence(limit))));
        assert_eq!(short_of(&[25, 29]), [(STREAM, Sequence(20))]);
        assert_eq!(short_of(&[35]), [(STREAM, Sequence(30))]);
        assert_eq!(short_of(&[5]), []);
    }

    #[test]
    fn the_number_of_streams_is_bounded() {
        let mut positions = Positions::default();
        for stream in 0..1000 {
            positions.sync(StreamId(stream), Sequence(0));
        }
        assert_eq!(positions.streams.len(), STREAMS_MAX);
    }
}
