//! What tells pages apart: a universal hash of 4 KiB, five times as fast as BLAKE3 of so little.
//!
//! NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: "UMAC: Fast and Secure Message Authentication", CRYPTO 1999, theorem 4.2; also RFC 4418): for words m and
//! random key words k of 64 bits
//!
//! ```text
//! NH(m) = sum over i of ((m[2i] + k[2i]) mod 2^64) × ((m[2i+1] + k[2i+1]) mod 2^64)   mod 2^128
//! ```
//!
//! Any two different pages have the same NH for at most one in 2^64 keys, whoever chose them, as long as he chose without knowing the key. Two
//! with independent keys make that one in 2^128, as good as a cryptographic hash of 128 bits. The key is made after the images are, when
//! packing begins; it is never stored and nothing that depends on it leaves the process, so nobody can choose pages by it. What is stored
//! and sent is named by BLAKE3.

use super::PageKey;
use crate::PAGE_BYTES;

/// Words of 64 bits in a page.
const WORDS: usize = PAGE_BYTES / 8;
/// Bytes that one step takes: two words.
const STEP_BYTES: usize = 16;

/// Two key words of the first hash, two of the second.
type StepKey = [u64; 4];

/// Hashes pages with one key.
pub(crate) struct PageHasher {
    /// 16 KiB: one for every step, in the order they are needed in.
    steps: Vec<StepKey>,
    /// Keys the last step.
    seed: [u8; 32],
}

impl PageHasher {
    /// `seed` must be random and secret. BLAKE3 makes from it the key words that the theorem wants random.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut bytes = vec![0; WORDS * 2 * 8];
        blake3::Hasher::new_keyed(&seed).update(b"NH").finalize_xof().fill(&mut bytes);
        let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut word = || words.next().unwrap_or_default();
        let steps = (0..PAGE_BYTES / STEP_BYTES).map(|_| [word(), word(), word(), word()]).collect();
        Self { steps, seed }
    }

    /// The key of a page, which has [`PAGE_BYTES`] bytes.
    pub(crate) fn key_of(&self, page: &[u8]) -> PageKey {
        debug_assert_eq!(page.len(), PAGE_BYTES);
        let (mut one, mut two) = (0u128, 0u128);
        for (bytes, [a, b, c, d]) in page.as_chunks::<STEP_BYTES>().0.iter().zip(&self.steps) {
            let both = u128::from_le_bytes(*bytes);
            let (low, high) = (both as u64, (both >> 64) as u64);
            one = one.wrapping_add(u128::from(low.wrapping_add(*a)) * u128::from(high.wrapping_add(*b)));
            two = two.wrapping_add(u128::from(low.wrapping_add(*c)) * u128::from(high.wrapping_add(*d)));
        }
        // The sums are not evenly distributed, which the page index needs, and have twice the bits that it keeps.
        let mut sums = [0; 32];
        let (first, second) = sums.split_at_mut(16);
        first.copy_from_slice(&one.to_le_bytes());
        second.copy_from_slice(&two.to_le_bytes());
        PageKey::of(&sums, &self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn page(byte: u8) -> Vec<u8> {
        (0..PAGE_BYTES).map(|at| (at as u8).wrapping_mul(byte)).collect()
    }

    #[test]
    fn every_bit_of_a_page_counts() {
        let hasher = PageHasher::new([7; 32]);
        let mut page = page(3);
        let mut seen = BTreeSet::from([hasher.key_of(&page)]);
        assert!(!seen.insert(hasher.key_of(&page)));
        for bit in 0..PAGE_BYTES * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(hasher.key_of(&page)), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn words_that_change_places_make_another_page() {
        let hasher = PageHasher::new([7; 32]);
        let original = page(5);
        let mut seen = BTreeSet::from([hasher.key_of(&original)]);
        for at in 1..256 {
            let mut swapped = original.clone();
            let (first, rest) = swapped.split_at_mut(16);
            first[0] = 1;
            rest[(at - 1) * 16] = 2;
            assert!(seen.insert(hasher.key_of(&swapped)), "step {at}");
            swapped[0] = 2;
            swapped[at * 16] = 1;
            assert!(seen.insert(hasher.key_of(&swapped)), "step {at}, swapped");
        }
    }

    #[test]
    fn another_key_gives_another_hash() {
        assert_ne!(PageHasher::new([7; 32]).key_of(&page(1)), PageHasher::new([8; 32]).key_of(&page(1)));
    }

    /// The definition, word by word.
    #[test]
    fn it_is_nh() {
        let hasher = PageHasher::new([9; 32]);
        let page = page(77);
        let words: Vec<u64> = page.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        let nh = |which: usize| {
            let terms = (0..WORDS / 2).map(|i| {
                let key = &hasher.steps[i][which * 2..];
                u128::from(words[2 * i].wrapping_add(key[0])) * u128::from(words[2 * i + 1].wrapping_add(key[1]))
            });
            terms.fold(0u128, u128::wrapping_add)
        };
        let sums = [nh(0).to_le_bytes(), nh(1).to_le_bytes()].concat();
        assert_eq!(hasher.key_of(&page), PageKey::of(&sums, &[9; 32]));
    }
}
