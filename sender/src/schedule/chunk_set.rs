//! A set of chunk ids as a bitmap: one bit per chunk of the pack, so that a receiver's wants cost 1 KiB per 2 GiB of pack.

use wire::ChunkId;
use wire::report::ChunkRange;

const WORD_BITS: u32 = u64::BITS;

/// Chunk ids below a fixed bound.
#[derive(Clone, Debug)]
pub(super) struct ChunkSet {
    words: Vec<u64>,
    bound: u32,
    len: u32,
}

impl ChunkSet {
    /// The empty set of ids below `bound`.
    pub(super) fn new(bound: u32) -> ChunkSet {
        ChunkSet { words: vec![0; bound.div_ceil(WORD_BITS) as usize], bound, len: 0 }
    }

    /// How many ids are in it.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Whether none is.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `chunk` is in it.
    pub(super) fn contains(&self, chunk: ChunkId) -> bool {
        self.words.get((chunk.0 / WORD_BITS) as usize).is_some_and(|word| word >> (chunk.0 % WORD_BITS) & 1 == 1)
    }

    /// Adds `chunk`; whether it was new. An id outside the bound is refused.
    pub(super) fn insert(&mut self, chunk: ChunkId) -> bool {
        let new = chunk.0 < self.bound && !self.contains(chunk);
        if new {
            self.words[(chunk.0 / WORD_BITS) as usize] |= 1 << (chunk.0 % WORD_BITS);
            self.len += 1;
        }
        new
    }

    /// Removes `chunk`; whether it was there.
    pub(super) fn remove(&mut self, chunk: ChunkId) -> bool {
        let there = self.contains(chunk);
        if there {
            self.words[(chunk.0 / WORD_BITS) as usize] &= !(1 << (chunk.0 % WORD_BITS));
            self.len -= 1;
        }
        there
    }

    /// The smallest id in it that is at least `from`. Looks at whole words, so that a peer's huge ranges cost little.
    pub(super) fn next_from(&self, from: u32) -> Option<ChunkId> {
        let first = (from / WORD_BITS) as usize;
        let mut word = self.words.get(first)? & (u64::MAX << (from % WORD_BITS));
        let mut index = first;
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(ChunkId(index as u32 * WORD_BITS + word.trailing_zeros()))
    }

    /// The largest id in it that is at most `to`.
    pub(super) fn previous_from(&self, to: u32) -> Option<ChunkId> {
        let last = self.words.len().checked_sub(1)?;
        let mut index = ((to / WORD_BITS) as usize).min(last);
        let kept = if (to / WORD_BITS) as usize > last { u64::MAX } else { u64::MAX >> (WORD_BITS - 1 - to % WORD_BITS) };
        let mut word = self.words[index] & kept;
        while word == 0 {
            index = index.checked_sub(1)?;
            word = self.words[index];
        }
        Some(ChunkId(index as u32 * WORD_BITS + (WORD_BITS - 1 - word.leading_zeros())))
    }

    /// All ids, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = ChunkId> + '_ {
        let mut from = Some(0);
        std::iter::from_fn(move || {
            let chunk = self.next_from(from?)?;
            from = chunk.0.checked_add(1);
            Some(chunk)
        })
    }

    /// The ids of `range` in it, ascending.
    pub(super) fn iter_range(&self, range: ChunkRange) -> impl Iterator<Item = ChunkId> + '_ {
        let end = self.end_of(range);
        let mut from = Some(range.first.0);
        std::iter::from_fn(move || {
            let chunk = self.next_from(from?).filter(|chunk| chunk.0 < end)?;
            from = chunk.0.checked_add(1);
            Some(chunk)
        })
    }

    /// Adds all ids of `other`, which has the same bound.
    pub(super) fn unite(&mut self, other: &ChunkSet) {
        self.merge(other, |mine, others| mine | others);
    }

    /// Keeps those that are in `other` too.
    pub(super) fn intersect(&mut self, other: &ChunkSet) {
        self.merge(other, |mine, others| mine & others);
    }

    /// Removes those that are in `other`.
    pub(super) fn subtract(&mut self, other: &ChunkSet) {
        self.merge(other, |mine, others| mine & !others);
    }

    fn merge(&mut self, other: &ChunkSet, of_words: impl Fn(u64, u64) -> u64) {
        debug_assert_eq!(self.bound, other.bound);
        self.words.iter_mut().zip(&other.words).for_each(|(mine, &others)| *mine = of_words(*mine, others));
        self.len = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// Whether an id is in both.
    pub(super) fn meets(&self, other: &ChunkSet) -> bool {
        self.words.iter().zip(&other.words).any(|(mine, others)| mine & others != 0)
    }

    /// Whether an id of `range` is in both. Looks at whole words.
    pub(super) fn meets_in(&self, other: &ChunkSet, range: ChunkRange) -> bool {
        self.words_of(range).zip(other.words_of(range)).any(|(mine, others)| mine & others != 0)
    }

    /// How many ids of `range` are in it. Looks at whole words: it is asked for each chunk that is sent, of packs of millions.
    pub(super) fn count_in(&self, range: ChunkRange) -> u32 {
        self.words_of(range).map(u64::count_ones).sum()
    }

    /// The words that hold `range`, without the ids beside it.
    fn words_of(&self, range: ChunkRange) -> impl Iterator<Item = u64> + '_ {
        let end = self.end_of(range);
        let first = range.first.0.min(end);
        let (from, to) = ((first / WORD_BITS) as usize, end.div_ceil(WORD_BITS) as usize);
        let words = self.words.get(from..to).unwrap_or_default();
        let last = words.len().saturating_sub(1);
        words.iter().enumerate().map(move |(at, &word)| {
            let above = if at == 0 { u64::MAX << (first % WORD_BITS) } else { u64::MAX };
            let below = if at == last && !end.is_multiple_of(WORD_BITS) { u64::MAX >> (WORD_BITS - end % WORD_BITS) } else { u64::MAX };
            word & above & below
        })
    }

    /// Adds the ids of `range` that lie within the bound.
    pub(super) fn insert_range(&mut self, range: ChunkRange) {
        for id in range.first.0..self.end_of(range) {
            self.insert(ChunkId(id));
        }
    }

    /// Removes the ids of `range` and gives those that were there.
    pub(super) fn remove_range(&mut self, range: ChunkRange) -> Vec<ChunkId> {
        let mut removed = Vec::new();
        let mut from = range.first.0;
        while let Some(chunk) = self.next_from(from).filter(|chunk| chunk.0 < self.end_of(range)) {
            self.remove(chunk);
            removed.push(chunk);
            from = chunk.0 + 1;
        }
        removed
    }

    fn end_of(&self, range: ChunkRange) -> u32 {
        range.first.0.saturating_add(range.count).min(self.bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, count: u32) -> ChunkRange {
        ChunkRange { first: ChunkId(first), count }
    }

    #[test]
    fn ids_outside_the_bound_are_refused() {
        let mut set = ChunkSet::new(70);
        set.insert_range(range(60, u32::MAX));
        assert_eq!(set.len(), 10);
        assert!(!set.insert(ChunkId(70)) && !set.contains(ChunkId(70)) && !set.remove(ChunkId(u32::MAX)));
        assert_eq!(set.next_from(u32::MAX), None);
    }

    #[test]
    fn sets_are_united_cut_and_compared() {
        let set = |ids: &[u32]| {
            let mut set = ChunkSet::new(200);
            ids.iter().for_each(|&id| _ = set.insert(ChunkId(id)));
            set
        };
        let ids = |set: &ChunkSet| (set.iter().map(|chunk| chunk.0).collect::<Vec<_>>(), set.len());
        let (a, b) = (set(&[1, 63, 64, 150]), set(&[2, 64, 150, 199]));
        let changed = |change: fn(&mut ChunkSet, &ChunkSet)| {
            let mut a = a.clone();
            change(&mut a, &b);
            ids(&a)
        };
        assert_eq!(changed(ChunkSet::unite), (vec![1, 2, 63, 64, 150, 199], 6));
        assert_eq!(changed(ChunkSet::intersect), (vec![64, 150], 2));
        assert_eq!(changed(ChunkSet::subtract), (vec![1, 63], 2));
        assert!(a.meets(&b) && !a.meets(&set(&[0, 65, 199])));
        for (first, count, meets) in [(0, 64, false), (0, 65, true), (64, 1, true), (65, 85, false), (65, 86, true), (150, 9_000, true)] {
            assert_eq!(a.meets_in(&b, range(first, count)), meets, "{first} + {count}");
        }
        assert!(!a.meets_in(&b, range(64, 0)) && !a.meets_in(&b, range(200, 7)));
        for (first, count) in
            [(0, 200), (1, 62), (1, 63), (63, 2), (64, 0), (64, 1), (65, 85), (65, 86), (150, 9_000), (200, 7), (9_000, 1)]
        {
            assert_eq!(a.count_in(range(first, count)) as usize, a.iter_range(range(first, count)).count(), "{first} + {count}");
        }
    }

    #[test]
    fn a_range_takes_only_what_is_there() {
        let mut set = ChunkSet::new(300);
        for id in [3, 64, 65, 200] {
            assert!(set.insert(ChunkId(id)));
        }
        assert_eq!(set.remove_range(range(4, 100)), [ChunkId(64), ChunkId(65)]);
        assert_eq!(set.remove_range(range(4, 100)), []);
        assert_eq!(set.iter().collect::<Vec<_>>(), [ChunkId(3), ChunkId(200)]);
        assert_eq!(set.next_from(4), Some(ChunkId(200)));
        assert_eq!(set.len(), 2);
    }
}
