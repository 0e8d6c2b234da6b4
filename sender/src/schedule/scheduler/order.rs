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
    /// These runs side by side, each ascending, as much of each as is left of it: so that who wants one of them gets it at a steady pace.
    Mixed(Vec<Run>),
}

/// A run and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::schedule) struct Run {
    range: ChunkRange,
    next: u32,
    /// Chunks that it is owed.
    credit: i64,
}

impl Order {
    /// Ascending from the first chunk on.
    pub(in crate::schedule) fn ascending() -> Order {
        Order::Up(0)
    }

    /// `ranges` side by side.
    pub(in crate::schedule) fn mixed(ranges: impl Iterator<Item = ChunkRange>) -> Order {
        Order::Mixed(ranges.map(|range| Run { range, next: range.first.0, credit: 0 }).collect())
    }

    /// Whether both are of the same kind, wherever they stand.
    pub(in crate::schedule) fn is_like(&self, other: &Order) -> bool {
        match (self, other) {
            (Order::Up(_), Order::Up(_)) | (Order::Down(_), Order::Down(_)) => true,
            (Order::Mixed(a), Order::Mixed(b)) => a.iter().map(|run| run.range).eq(b.iter().map(|run| run.range)),
            _ => false,
        }
    }

    /// The chunk that comes next in ascending order.
    pub(super) fn position(&self) -> u32 {
        match self {
            Order::Up(next) | Order::Down(next) => *next,
            Order::Mixed(runs) => runs.first().map_or(0, |run| run.next),
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
            Order::Mixed(runs) => of_runs(chunks, runs).or_else(|| chunks.next_from(0)),
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

/// The next chunk of the run that has most to its credit: each time a run earns what is left of it and the one that is served pays for all.
fn of_runs(chunks: &ChunkSet, runs: &mut [Run]) -> Option<ChunkId> {
    let mut total = 0;
    for run in runs.iter_mut() {
        let left = chunks.iter_range(run.range).count() as i64;
        run.credit = if left == 0 { 0 } else { run.credit + left };
        total += left;
    }
    let wanted = |run: &&mut Run| chunks.iter_range(run.range).next().is_some();
    let run = runs.iter_mut().filter(wanted).max_by_key(|run| run.credit)?;
    run.credit -= total;
    let rest = ChunkRange { first: ChunkId(run.next), count: (run.range.first.0 + run.range.count).saturating_sub(run.next) };
    let chunk = chunks.iter_range(rest).next().or_else(|| chunks.iter_range(run.range).next())?;
    run.next = chunk.0 + 1;
    Some(chunk)
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
}
