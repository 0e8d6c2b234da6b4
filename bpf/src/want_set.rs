//! The want set: which ids are still wanted, as a bitmap that the filter reads while user space changes it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::shared::Shared;

const WORD_BITS: u32 = u64::BITS;

/// A set of ids below a fixed count. Clones share the same bits, across threads and with the filter.
///
/// Every change takes effect with the filter's next packet. Changing or asking for an id that is not below
/// [`len`](Self::len) does nothing and answers `false`, as the filter drops such ids.
#[derive(Clone)]
pub struct WantSet {
    words: Arc<Words>,
    len: u32,
}

enum Words {
    Mapped(Shared<AtomicU64>),
    Owned(Box<[AtomicU64]>),
}

impl WantSet {
    /// An empty set for ids below `len` in ordinary memory, for an intake without a filter and for tests.
    pub fn in_memory(len: u32) -> Self {
        let words = (0..words_for(len)).map(|_| AtomicU64::new(0)).collect();
        Self { words: Arc::new(Words::Owned(words)), len }
    }

    /// The set in the filter's map, which has at least `words_for(len)` words.
    pub(crate) fn mapped(words: Shared<AtomicU64>, len: u32) -> Self {
        debug_assert!(words.values().len() >= words_for(len));
        Self { words: Arc::new(Words::Mapped(words)), len }
    }

    fn words(&self) -> &[AtomicU64] {
        match &*self.words {
            Words::Mapped(shared) => shared.values(),
            Words::Owned(words) => words,
        }
    }

    /// The word and the bit of `id`, if it is in range.
    fn place(&self, id: u32) -> Option<(&AtomicU64, u64)> {
        if id >= self.len {
            return None;
        }
        Some((self.words().get((id / WORD_BITS) as usize)?, 1 << (id % WORD_BITS)))
    }

    /// Number of ids that the set can hold, wanted or not.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no id is wanted.
    pub fn is_empty(&self) -> bool {
        self.words().iter().all(|word| word.load(Ordering::Acquire) == 0)
    }

    /// Wants `id`; answers whether it was not wanted before.
    pub fn set(&self, id: u32) -> bool {
        self.place(id).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    /// Wants `id` no more; answers whether it was wanted, to exactly one of several threads that clear it.
    pub fn clear(&self, id: u32) -> bool {
        self.place(id).is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }

    /// Whether `id` is wanted.
    pub fn contains(&self, id: u32) -> bool {
        self.place(id).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Wants every id. Not atomic as a whole: a concurrent change of one id may come before or after.
    pub fn set_all(&self) {
        for (word, first) in self.words().iter().zip((0..self.len).step_by(WORD_BITS as usize)) {
            let bits = (self.len - first).min(WORD_BITS);
            word.store(u64::MAX >> (WORD_BITS - bits), Ordering::Release);
        }
    }

    /// Wants no id. Not atomic as a whole, like [`set_all`](Self::set_all).
    pub fn clear_all(&self) {
        for word in self.words() {
            word.store(0, Ordering::Release);
        }
    }

    /// Number of wanted ids; looks at one word per 64 ids.
    pub fn count(&self) -> u32 {
        self.words().iter().map(|word| word.load(Ordering::Acquire).count_ones()).sum()
    }

    /// The wanted ids in ascending order. Changes made meanwhile may or may not be seen.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words().iter().zip((0..).step_by(WORD_BITS as usize)).flat_map(|(word, first): (_, u32)| {
            let mut left = word.load(Ordering::Acquire);
            std::iter::from_fn(move || {
                if left == 0 {
                    return None;
                }
                let bit = left.trailing_zeros();
                left &= left - 1;
                Some(first + bit)
            })
        })
    }
}

impl fmt::Debug for WantSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "WantSet({} of {} wanted)", self.count(), self.len)
    }
}

/// Number of 64-bit words that hold `len` bits.
fn words_for(len: u32) -> usize {
    len.div_ceil(WORD_BITS) as usize
}

/// Size of the words that hold `len` bits; below 2^30.
pub(crate) fn bytes_for(len: u32) -> u32 {
    len.div_ceil(WORD_BITS) * (WORD_BITS / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_and_clear_tell_whether_they_changed_anything() {
        let wants = WantSet::in_memory(130);
        assert!(wants.is_empty());
        assert!(wants.set(0) && wants.set(63) && wants.set(64) && wants.set(129));
        assert!(!wants.set(64));
        assert!(wants.contains(129) && !wants.contains(128));
        assert!(wants.clear(64) && !wants.clear(64));
        assert_eq!(wants.iter().collect::<Vec<_>>(), [0, 63, 129]);
        assert_eq!(wants.count(), 3);
        assert!(!wants.is_empty());
    }

    #[test]
    fn ids_out_of_range_are_never_wanted() {
        let wants = WantSet::in_memory(65);
        assert!(!wants.set(65) && !wants.contains(65) && !wants.clear(65) && !wants.set(u32::MAX));
        assert_eq!(wants.count(), 0);
    }

    #[test]
    fn set_all_sets_exactly_the_ids_in_range() {
        for len in [0, 1, 63, 64, 65, 128, 1000] {
            let wants = WantSet::in_memory(len);
            wants.set_all();
            assert_eq!(wants.count(), len);
            assert!(wants.iter().eq(0..len));
            wants.clear_all();
            assert!(wants.is_empty());
        }
    }

    #[test]
    fn clones_share_bits_across_threads_and_one_clear_wins() {
        let wants = WantSet::in_memory(10_000);
        wants.set_all();
        let cleared: u32 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let wants = wants.clone();
                    scope.spawn(move || (0..10_000).filter(|&id| wants.clear(id)).count() as u32)
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(cleared, 10_000);
        assert!(wants.is_empty());
    }
}
