//! The page index: for every different page, which images want it, later where it is stored.
//!
//! It is the only memory that grows with the images, so it is compact: 20 bytes per page in open addressing at 86 to 92 % load,
//! 22 to 24 bytes per unique page (6 GiB for 1 TiB of unique data). Each shard is an array ordered by key with gaps
//! ("ordered linear probing"): a key's home is proportional to its value, entries are kept in order and never before their
//! home. So a search ends at the first larger key, and growing a shard by 7 % is one pass over it. Keys are hashes, hence
//! evenly distributed; 1024 shards keep both the locks and the memory of a growing shard small.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{PageSlot, SetId};

/// There are 2 to the power of this many shards.
const SHARD_BITS: u32 = 10;
/// The value of a place without a page. No set and no slot has this number.
const EMPTY: u32 = u32::MAX;
/// Places behind the last home that a shard begins with: enough for most, at this load.
const BEHIND_LAST_HOME: usize = 4;
/// Set in a value that is a slot.
const STORED: u32 = 1 << 31;

/// 128 bits that stand for a page, see [`super::PageHasher`]. 64 bits would collide by chance in large packs, and a fixed hash that is not
/// cryptographic can be made to collide by whoever fills one image, which would put his page into another tenant's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageKey {
    high: u64,
    low: u64,
}

impl PageKey {
    /// The first 128 bits of a keyed BLAKE3.
    pub(crate) fn of(bytes: &[u8], key: &[u8; 32]) -> Self {
        let hash = blake3::keyed_hash(key, bytes);
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = *hash.as_bytes();
        Self { high: u64::from_le_bytes([a, b, c, d, e, f, g, h]), low: u64::from_le_bytes([i, j, k, l, m, n, o, p]) }
    }

    /// The key as a number, for a checksum over an image.
    pub(crate) fn as_u128(self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageState {
    /// First pass: these images want it.
    Wanted(SetId),
    /// Second pass: it is stored there.
    Stored(PageSlot),
}

/// 20 bytes: the key in words of 32 bits, so that it needs no padding.
#[derive(Clone, Copy)]
struct Entry {
    key: [u32; 4],
    value: u32,
}

const NOTHING: Entry = Entry { key: [0; 4], value: EMPTY };

impl Entry {
    fn key(&self) -> PageKey {
        let [a, b, c, d] = self.key.map(u64::from);
        PageKey { high: a << 32 | b, low: c << 32 | d }
    }

    fn new(key: PageKey, value: u32) -> Self {
        let words = [key.high >> 32, key.high, key.low >> 32, key.low];
        Self { key: words.map(|word| word as u32), value }
    }
}

fn to_value(state: PageState) -> u32 {
    match state {
        PageState::Wanted(SetId(set)) => set,
        PageState::Stored(PageSlot(slot)) => slot | STORED,
    }
}

fn to_state(value: u32) -> PageState {
    if value & STORED == 0 { PageState::Wanted(SetId(value)) } else { PageState::Stored(PageSlot(value & !STORED)) }
}

/// The index. Shared by threads; each shard has its lock.
pub(crate) struct PageIndex {
    shards: Vec<Mutex<Shard>>,
}

impl PageIndex {
    pub(crate) fn new() -> Self {
        Self { shards: (0..1 << SHARD_BITS).map(|_| Mutex::new(Shard::with_capacity(16))).collect() }
    }

    fn shard(&self, key: PageKey) -> MutexGuard<'_, Shard> {
        // Entries are moved within one call that cannot panic in between.
        self.shards[(key.high >> (64 - SHARD_BITS)) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a page is wanted: `wanted` gets its present set, if there is one, and returns the new one.
    pub(crate) fn want(&self, key: PageKey, wanted: impl FnOnce(Option<SetId>) -> SetId) {
        let mut shard = self.shard(key);
        match shard.find(key) {
            Ok(at) => {
                if let PageState::Wanted(set) = to_state(shard.entries[at].value) {
                    shard.entries[at].value = to_value(PageState::Wanted(wanted(Some(set))));
                }
            }
            Err(at) => shard.insert(at, Entry::new(key, to_value(PageState::Wanted(wanted(None))))),
        }
    }

    /// What is known of a page.
    pub(crate) fn state(&self, key: PageKey) -> Option<PageState> {
        let shard = self.shard(key);
        shard.find(key).ok().map(|at| to_state(shard.entries[at].value))
    }

    /// Notes where a page that is in the index is stored.
    pub(crate) fn store(&self, key: PageKey, slot: PageSlot) {
        let mut shard = self.shard(key);
        if let Ok(at) = shard.find(key) {
            shard.entries[at].value = to_value(PageState::Stored(slot));
        }
    }

    /// Pages per set, by set.
    pub(crate) fn pages_per_set(&self, sets: usize) -> Vec<u64> {
        let mut pages = vec![0; sets];
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for entry in shard.entries.iter().filter(|entry| entry.value != EMPTY) {
                if let PageState::Wanted(SetId(set)) = to_state(entry.value) {
                    pages[set as usize] += 1;
                }
            }
        }
        pages
    }
}

struct Shard {
    /// `homes` entries and, after them, those of the last homes that found theirs taken.
    entries: Vec<Entry>,
    homes: usize,
    len: usize,
}

impl Shard {
    fn with_capacity(homes: usize) -> Self {
        Self { entries: vec![NOTHING; homes], homes, len: 0 }
    }

    /// Where an entry would like to be: proportional to the key's bits below the shard's, so ascending with the key.
    fn home(&self, key: PageKey) -> usize {
        ((u128::from(key.high << SHARD_BITS) * self.homes as u128) >> 64) as usize
    }

    /// Where the key is, or else where it would have to be inserted.
    fn find(&self, key: PageKey) -> Result<usize, usize> {
        let mut at = self.home(key);
        while let Some(entry) = self.entries.get(at) {
            if entry.value == EMPTY || entry.key() > key {
                return Err(at);
            }
            if entry.key() == key {
                return Ok(at);
            }
            at += 1;
        }
        Err(at)
    }

    fn insert(&mut self, at: usize, entry: Entry) {
        if (self.len + 1) * 100 > self.homes * 92 {
            self.grow();
            // `find` did not find it before, so it does not now.
            let (Ok(at) | Err(at)) = self.find(entry.key());
            self.insert_at(at, entry);
        } else {
            self.insert_at(at, entry);
        }
    }

    fn insert_at(&mut self, at: usize, entry: Entry) {
        let gap = self.entries[at..].iter().position(|entry| entry.value == EMPTY).map(|distance| at + distance);
        match gap {
            Some(gap) => {
                self.entries.copy_within(at..gap, at + 1);
                self.entries[at] = entry;
            }
            None => {
                self.make_room();
                self.entries.insert(at, entry);
            }
        }
        self.len += 1;
    }

    /// For one more entry after the last home. A vector that grows by itself would double.
    fn make_room(&mut self) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(BEHIND_LAST_HOME);
        }
    }

    /// To 86 % load. Entries come in order, so each goes to its home or directly after the one before it.
    fn grow(&mut self) {
        let homes = (self.len * 100).div_ceil(86).max(self.homes + 8);
        let mut grown = Self { entries: Vec::with_capacity(homes + BEHIND_LAST_HOME), homes, len: self.len };
        for entry in self.entries.iter().filter(|entry| entry.value != EMPTY) {
            let home = grown.home(entry.key());
            while grown.entries.len() < home {
                grown.entries.push(NOTHING);
            }
            grown.make_room();
            grown.entries.push(*entry);
        }
        while grown.entries.len() < homes {
            grown.entries.push(NOTHING);
        }
        *self = grown;
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shard_finds_exactly_what_was_put_in(keys in prop::collection::vec((any::<u8>(), any::<u8>()), 1..600)) {
            // Few bits of the key vary, so that homes collide; all are of one shard.
            let index = PageIndex::new();
            let mut expected = BTreeMap::new();
            for (number, (high, low)) in keys.iter().enumerate() {
                let key = PageKey { high: u64::from(*high) << 46, low: u64::from(*low) };
                index.want(key, |_| SetId(number as u32));
                expected.insert(key, number as u32);
            }
            for (key, number) in &expected {
                prop_assert_eq!(index.state(*key), Some(PageState::Wanted(SetId(*number))));
                index.store(*key, PageSlot(*number));
                prop_assert_eq!(index.state(*key), Some(PageState::Stored(PageSlot(*number))));
            }
            prop_assert_eq!(index.state(PageKey { high: 1, low: 1 }), None);
        }
    }

    #[test]
    fn a_page_costs_at_most_24_bytes() {
        let index = PageIndex::new();
        let pages = 400_000u32;
        let mut largest = 0f64;
        for number in 0..pages {
            index.want(PageKey::of(&number.to_le_bytes(), &[7; 32]), |_| SetId(0));
            if number % 20_000 == 0 && number > 200_000 {
                let bytes: usize = index.shards.iter().map(|shard| shard.lock().unwrap().bytes()).sum();
                largest = largest.max(bytes as f64 / f64::from(number));
            }
        }
        assert_eq!(index.pages_per_set(1), [u64::from(pages)]);
        // From 780 MiB of different data on; below that what is between the shards' entries counts, in all 100 KiB.
        assert!(largest <= 24.0, "{largest} bytes per page");
    }

    #[test]
    fn the_sum_over_sets_counts_every_page_once() {
        let index = PageIndex::new();
        for number in 0..1000u32 {
            index.want(PageKey::of(&number.to_le_bytes(), &[7; 32]), |_| SetId(number % 3));
        }
        assert_eq!(index.pages_per_set(3), [334, 333, 333]);
    }
}
