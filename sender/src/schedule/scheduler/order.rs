//! In which order whole chunks go out: round and round, upwards or downwards, or several runs side by side.

use crate::schedule::chunk_set::ChunkSet;
use wire::ChunkId;
use wire::report::ChunkRange;

/// The order, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::schedule) enum Order {
    /// Ascending from this chunk on.
    Up(u32),
    /// Descending from the chunk before this one on.
    Down(u32),
    /// Runs side by side, each ascending, as much of each as is left of it: so that who wants one of them gets it at a steady pace.
    Mixed(Mix),
}

/// See [`Order::Mixed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::schedule) struct Mix {
    runs: Vec<Run>,
    /// Chunks to be taken before what is left of the runs is counted again: others come and go meanwhile, and counting a million takes 20 µs.
    counted_for: u32,
}

/// A run and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    range: ChunkRange,
    next: u32,
    /// Chunks of it, as far as is known.
    left: i64,
    /// Chunks that it is owed.
    credit: i64,
}

/// See [`Mix::counted_for`]: a few groups.
const COUNTED_FOR: u32 = 64;

impl Order {
    /// Ascending from the first chunk on.
    pub(in crate::schedule) fn ascending() -> Order {
        Order::Up(0)
    }

    /// `ranges` side by side.
    pub(in crate::schedule) fn mixed(ranges: impl Iterator<Item = ChunkRange>) -> Order {
        let runs = ranges.map(|range| Run { range, next: range.first.0, left: 0, credit: 0 }).collect();
        Order::Mixed(Mix { runs, counted_for: 0 })
    }

    /// Whether both are of the same kind, wherever they stand.
    pub(in crate::schedule) fn is_like(&self, other: &Order) -> bool {
        match (self, other) {
            (Order::Up(_), Order::Up(_)) | (Order::Down(_), Order::Down(_)) => true,
            (Order::Mixed(a), Order::Mixed(b)) => a.runs.iter().map(|run| run.range).eq(b.runs.iter().map(|run| run.range)),
            _ => false,
        }
    }

    /// The chunk that comes next in ascending order.
    pub(super) fn position(&self) -> u32 {
        match self {
            Order::Up(next) | Order::Down(next) => *next,
            Order::Mixed(mix) => mix.runs.first().map_or(0, |run| run.next),
        }
    }

    /// Whether a round is over: the next of `chunks` is back at the other end.
    pub(super) fn begins_anew(&self, chunks: &ChunkSet) -> bool {
        match self {
            Order::Up(next) => chunks.next_from(*next).is_none(),
            Order::Down(before) => before.checked_sub(1).and_then(|last| chunks.previous_from(last)).is_none(),
            Order::Mixed(_) => false,
        }
    }

    /// Takes the next of `chunks`.
    pub(super) fn take(&mut self, chunks: &mut ChunkSet) -> Option<ChunkId> {
        let chunk = match self {
            Order::Up(next) => up(chunks, next),
            Order::Down(before) => {
                let below = before.checked_sub(1).and_then(|last| chunks.previous_from(last));
                let chunk = below.or_else(|| chunks.previous_from(u32::MAX));
                chunk.inspect(|chunk| *before = chunk.0)
            }
            Order::Mixed(mix) => mix.next(chunks).or_else(|| chunks.next_from(0)),
        }?;
        chunks.remove(chunk);
        Some(chunk)
    }
}

fn up(chunks: &ChunkSet, next: &mut u32) -> Option<ChunkId> {
    let chunk = chunks.next_from(*next).or_else(|| chunks.next_from(0))?;
    *next = chunk.0.saturating_add(1);
    Some(chunk)
}

impl Mix {
    /// The next chunk of the run that has most to its credit: each time a run earns what is left of it and the one that is served pays for all.
    fn next(&mut self, chunks: &ChunkSet) -> Option<ChunkId> {
        loop {
            let is_fresh = self.counted_for == 0;
            if is_fresh {
                self.runs.iter_mut().for_each(|run| run.left = chunks.count_in(run.range).into());
                self.counted_for = COUNTED_FOR;
            }
            self.counted_for -= 1;
            let total: i64 = self.runs.iter().map(|run| run.left).sum();
            self.runs.iter_mut().for_each(|run| run.credit = if run.left == 0 { 0 } else { run.credit + run.left });
            let richest = self.runs.iter_mut().filter(|run| run.left > 0).max_by_key(|run| run.credit);
            if let Some(run) = richest {
                run.credit -= total;
                match run.chunk(chunks) {
                    Some(chunk) => {
                        run.left -= 1;
                        run.next = chunk.0 + 1;
                        return Some(chunk);
                    }
                    None => run.left = 0,
                }
            } else if is_fresh {
                return None;
            } else {
                self.counted_for = 0;
            }
        }
    }
}

impl Run {
    /// Its next chunk, round and round.
    fn chunk(&self, chunks: &ChunkSet) -> Option<ChunkId> {
        let rest = ChunkRange { first: ChunkId(self.next), count: (self.range.first.0 + self.range.count).saturating_sub(self.next) };
        chunks.iter_range(rest).next().or_else(|| chunks.iter_range(self.range).next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(order: &mut Order, chunks: &[u32]) -> Vec<u32> {
        let mut set = ChunkSet::new(1_000);
        chunks.iter().for_each(|&chunk| _ = set.insert(ChunkId(chunk)));
        std::iter::from_fn(|| order.take(&mut set)).map(|chunk| chunk.0).collect()
    }

    #[test]
    fn rounds_go_up_or_down_from_where_they_stand() {
        let mut up = Order::Up(5);
        assert_eq!(taken(&mut up, &[1, 4, 5, 900]), [5, 900, 1, 4]);
        assert_eq!(up.position(), 5);
        assert_eq!(taken(&mut Order::Down(5), &[1, 4, 5, 900]), [4, 1, 900, 5]);
        assert_eq!(taken(&mut Order::Down(0), &[1, 64, 63]), [64, 63, 1]);
    }

    #[test]
    fn runs_are_mixed_by_what_is_left_of_them() {
        let range = |first, count| ChunkRange { first: ChunkId(first), count };
        let mut order = Order::mixed([range(0, 100), range(100, 200), range(500, 10)].into_iter());
        let all: Vec<u32> = (0..300).chain(500..510).collect();
        let order = taken(&mut order, &all);
        assert_eq!(order.len(), 310);
        let of = |first: u32, count: u32| order[..155].iter().filter(|&&chunk| (first..first + count).contains(&chunk)).count();
        assert!((48..=52).contains(&of(0, 100)) && (98..=102).contains(&of(100, 200)) && (4..=6).contains(&of(500, 10)), "{order:?}");
    }

    #[test]
    fn chunks_that_come_and_go_between_counts_are_seen() {
        let range = |first, count| ChunkRange { first: ChunkId(first), count };
        let mut set = ChunkSet::new(1_000);
        set.insert_range(range(0, 10));
        set.insert_range(range(100, 10));
        let mut order = Order::mixed([range(0, 100), range(100, 100)].into_iter());
        assert!(order.take(&mut set).is_some_and(|chunk| chunk.0 < 200));
        // All of one run goes, and the other is the one that goes on; then more of the first comes.
        set.remove_range(range(0, 100));
        let left: Vec<u32> = std::iter::from_fn(|| order.take(&mut set)).map(|chunk| chunk.0).collect();
        assert!((9..=10).contains(&left.len()) && left.iter().all(|chunk| (100..110).contains(chunk)), "{left:?}");
        set.insert_range(range(50, 3));
        set.insert_range(range(150, 3));
        let more: Vec<u32> = std::iter::from_fn(|| order.take(&mut set)).map(|chunk| chunk.0).collect();
        assert_eq!(more.len(), 6);
        assert!(
            more.chunks(2).all(|pair| pair.iter().any(|&chunk| chunk < 100) && pair.iter().any(|&chunk| chunk > 100)),
            "side by side again: {more:?}"
        );
    }
}
