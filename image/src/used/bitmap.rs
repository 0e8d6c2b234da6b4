//! Runs of ones in an allocation bitmap, whose first bit is the lowest of the first byte.

use std::ops::Range;

/// The runs among the first `bits` bits, ascending. Bits past the end of the slice are zeros.
pub(super) fn runs(bitmap: &[u8], bits: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    let bits = bits.min(bitmap.len() as u64 * 8);
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = next(bitmap, from, true).filter(|&start| start < bits)?;
        from = next(bitmap, start, false).map_or(bits, |end| end.min(bits));
        Some(start..from)
    })
}

/// The first bit of this value from `from` on; `None` when there is none in the slice.
fn next(bitmap: &[u8], from: u64, value: bool) -> Option<u64> {
    let bytes = bitmap.get(usize::try_from(from / 64).ok()?.checked_mul(8)?..)?;
    let mut first = from / 64 * 64;
    let mut mask = u64::MAX << (from % 64);
    for piece in bytes.chunks(8) {
        let mut word = [0; 8];
        word.iter_mut().zip(piece).for_each(|(to, byte)| *to = *byte);
        let word = u64::from_le_bytes(word);
        let sought = if value { word } else { !word } & mask;
        if sought != 0 {
            return Some(first + u64::from(sought.trailing_zeros()));
        }
        mask = u64::MAX;
        first += 64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_those_that_a_bit_by_bit_walk_finds() {
        let mut state = 1u32;
        for length in [0usize, 1, 7, 8, 9, 16, 100] {
            for sparse in [0xffu8, 0x11, 0x80] {
                let mut random = || {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                };
                let bitmap: Vec<u8> = (0..length).map(|_| if random() < 60 { 0xff } else { random() & sparse }).collect();
                for bits in [0, 1, 63, 64, 65, length as u64 * 8, 1000] {
                    let set = |bit: u64| bit < bits && bitmap.get(bit as usize / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1);
                    let mut expected = Vec::new();
                    let mut bit = 0;
                    while bit < bits {
                        let start = bit;
                        while set(bit) {
                            bit += 1;
                        }
                        if bit > start {
                            expected.push(start..bit);
                        }
                        bit += 1;
                    }
                    let found: Vec<_> = runs(&bitmap, bits).collect();
                    assert_eq!(found, expected, "{bits} bits of {length} bytes");
                }
            }
        }
    }
}
