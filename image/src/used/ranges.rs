//! A set of bytes as ascending ranges.

use std::ops::Range;

/// Ascending ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds a range that begins where the last one did, or after it; merges it with that when they touch or overlap.
    ///
    /// # Panics
    /// In a debug build, when it begins before the last one.
    pub fn push(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if range.start <= last.end => {
                debug_assert!(range.start >= last.start, "ranges must come in order");
                last.end = last.end.max(range.end);
            }
            _ => self.0.push(range),
        }
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// The first range that ends after `offset`.
    #[must_use]
    pub fn next_from(&self, offset: u64) -> Option<Range<u64>> {
        self.0.get(self.0.partition_point(|range| range.end <= offset)).cloned()
    }

    /// Whether all bytes of `range` are in one of the ranges.
    #[must_use]
    pub fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.next_from(range.start).is_some_and(|found| found.start <= range.start && range.end <= found.end)
    }

    /// Bytes in all ranges together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// All ranges without the bytes of `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for range in &self.0 {
            let mut start = range.start;
            while let Some(cut) = other.next_from(start).filter(|cut| cut.start < range.end) {
                left.push(start..cut.start.max(start));
                start = cut.end;
            }
            if start < range.end {
                left.push(start..range.end);
            }
        }
        left
    }
}

/// From ranges in any order, which may overlap.
impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<T: IntoIterator<Item = Range<u64>>>(ranges: T) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_unstable_by_key(|range| range.start);
        let mut merged = Self::default();
        sorted.into_iter().for_each(|range| merged.push(range));
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(ranges: &[Range<u64>]) -> Ranges {
        ranges.iter().cloned().collect()
    }

    #[test]
    fn touching_ranges_are_one() {
        assert_eq!(ranges(&[8..12, 0..4, 4..6, 5..7, 9..9]).0, [0..7, 8..12]);
    }

    #[test]
    fn a_range_is_found_from_any_byte() {
        let set = ranges(&[2..4, 6..8]);
        assert_eq!(set.next_from(0), Some(2..4));
        assert_eq!(set.next_from(3), Some(2..4));
        assert_eq!(set.next_from(4), Some(6..8));
        assert_eq!(set.next_from(8), None);
        assert_eq!(set.bytes(), 4);
        assert!(set.covers(&(2..4)) && set.covers(&(7..8)) && set.covers(&(5..5)));
        assert!(!set.covers(&(3..5)) && !set.covers(&(2..8)) && !set.covers(&(8..9)) && !set.covers(&(0..3)));
    }

    #[test]
    fn what_is_cut_out_is_gone() {
        let set = ranges(&[0..10, 20..30]);
        assert_eq!(set.without(&ranges(&[0..2, 4..5, 8..22, 29..40])).0, [2..4, 5..8, 22..29]);
        assert_eq!(set.without(&Ranges::default()), set);
        assert_eq!(set.without(&set), Ranges::default());
    }
}
