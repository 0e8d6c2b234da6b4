//! Linear combinations of symbols over GF(2^8): the inner loop of encoding and decoding, in the widest instructions that the
//! processor has. All kernels give the same bytes.
//!
//! Up to [`ROWS_MAX`] combinations of the same sources are made at once, so that each source vector is loaded once for all of them;
//! the accumulators stay in registers while the loop walks over the sources.

#![allow(unsafe_code)]

use super::field;

/// Combinations that one pass makes.
pub(super) const ROWS_MAX: usize = 4;

/// Which instructions are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// 64 bytes at a time with the field's own multiply instruction (x86-64 with GFNI and AVX-512).
    Gfni512,
    /// 32 bytes at a time with the field's own multiply instruction (x86-64 with GFNI and AVX).
    Gfni256,
    /// 32 bytes at a time by two 16-entry table look-ups (x86-64 with AVX2).
    Avx2,
    /// 16 bytes at a time by two 16-entry table look-ups (x86-64 with SSSE3).
    Ssse3,
    /// A byte at a time from a table, on every processor.
    Portable,
}

impl Kernel {
    const ALL: [Kernel; 5] = [Kernel::Gfni512, Kernel::Gfni256, Kernel::Avx2, Kernel::Ssse3, Kernel::Portable];

    /// The kernels that this processor can run, widest first. Never empty: the portable one is always last.
    pub fn available() -> impl Iterator<Item = Kernel> {
        Kernel::ALL.into_iter().filter(|kernel| kernel.is_available())
    }

    /// The widest kernel that this processor can run.
    pub fn best() -> Kernel {
        Kernel::available().next().unwrap_or(Kernel::Portable)
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        match self {
            Kernel::Gfni512 => {
                is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
            }
            Kernel::Gfni256 => is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx2"),
            Kernel::Avx2 => is_x86_feature_detected!("avx2"),
            Kernel::Ssse3 => is_x86_feature_detected!("ssse3"),
            Kernel::Portable => true,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Kernel::Portable
    }

    /// Adds to `outputs[r]` the sum over the sources `i` of `factors[r][i]` times `sources[i]`, for each of 1 to [`ROWS_MAX`] rows.
    ///
    /// # Panics
    /// When a source or an output is shorter than `symbol_bytes`, there are more than [`ROWS_MAX`] rows, or a row has not one factor
    /// per source: callers' mistakes that would otherwise read past a buffer. Also when this processor lacks the kernel.
    pub(super) fn add_combinations(self, outputs: &mut [&mut [u8]], sources: &[&[u8]], factors: &[&[u8]], symbol_bytes: usize) {
        assert!(outputs.len() <= ROWS_MAX && outputs.len() == factors.len());
        assert!(factors.iter().all(|row| row.len() == sources.len()));
        assert!(outputs.iter().all(|output| output.len() >= symbol_bytes));
        assert!(sources.iter().all(|source| source.len() >= symbol_bytes));
        assert!(self.is_available());
        let done_bytes = match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the assertions above: every slice holds `symbol_bytes`, and the processor has the instructions.
            _ if self != Kernel::Portable => unsafe { x86::add_combinations(self, outputs, sources, factors, symbol_bytes) },
            _ => 0,
        };
        add_combinations_portable(outputs, sources, factors, done_bytes..symbol_bytes);
    }
}

fn add_combinations_portable(outputs: &mut [&mut [u8]], sources: &[&[u8]], factors: &[&[u8]], bytes: std::ops::Range<usize>) {
    if bytes.is_empty() {
        return;
    }
    for (output, row) in outputs.iter_mut().zip(factors) {
        for (source, &factor) in sources.iter().zip(*row) {
            let products: [u8; 256] = std::array::from_fn(|value| field::multiply(factor, value as u8));
            for (out, &value) in output[bytes.clone()].iter_mut().zip(&source[bytes.clone()]) {
                *out ^= products[usize::from(value)];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, ROWS_MAX, field};
    use std::arch::x86_64::*;

    /// For each factor, the products with 0..16 and with 0, 16, .., 240: a byte's product is the sum of its two nibbles' products.
    static NIBBLE_PRODUCTS: [[u8; 32]; 256] = nibble_products();

    const fn nibble_products() -> [[u8; 32]; 256] {
        let mut tables = [[0; 32]; 256];
        let mut factor = 0;
        while factor < 256 {
            let mut nibble = 0;
            while nibble < 16 {
                tables[factor][nibble] = field::multiply(factor as u8, nibble as u8);
                tables[factor][16 + nibble] = field::multiply(factor as u8, (nibble << 4) as u8);
                nibble += 1;
            }
            factor += 1;
        }
        tables
    }

    /// A vector register and what multiplies it. Every method needs the instructions of the kernel that uses it, hence unsafe.
    trait Vector: Copy {
        const BYTES: usize;
        type Factor: Copy;
        unsafe fn load(from: *const u8) -> Self;
        unsafe fn store(self, to: *mut u8);
        unsafe fn factor(factor: u8) -> Self::Factor;
        /// `self + source * factor`
        unsafe fn add_product(self, source: Self, factor: Self::Factor) -> Self;
    }

    #[derive(Clone, Copy)]
    struct Wide512(__m512i);

    // SAFETY (all methods of the four implementations): the caller has checked for the instructions and gives pointers to at least
    // BYTES bytes; loads and stores are unaligned ones.
    impl Vector for Wide512 {
        const BYTES: usize = 64;
        type Factor = __m512i;
        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self {
            // SAFETY: see above.
            Wide512(unsafe { _mm512_loadu_si512(from.cast()) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut u8) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_si512(to.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn factor(factor: u8) -> __m512i {
            // SAFETY: see above.
            unsafe { _mm512_set1_epi8(factor as i8) }
        }
        #[inline(always)]
        unsafe fn add_product(self, source: Self, factor: __m512i) -> Self {
            // SAFETY: see above.
            Wide512(unsafe { _mm512_xor_si512(self.0, _mm512_gf2p8mul_epi8(source.0, factor)) })
        }
    }

    #[derive(Clone, Copy)]
    struct Wide256(__m256i);

    impl Vector for Wide256 {
        const BYTES: usize = 32;
        type Factor = __m256i;
        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self {
            // SAFETY: see above.
            Wide256(unsafe { _mm256_loadu_si256(from.cast()) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut u8) {
            // SAFETY: see above.
            unsafe { _mm256_storeu_si256(to.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn factor(factor: u8) -> __m256i {
            // SAFETY: see above.
            unsafe { _mm256_set1_epi8(factor as i8) }
        }
        #[inline(always)]
        unsafe fn add_product(self, source: Self, factor: __m256i) -> Self {
            // SAFETY: see above.
            Wide256(unsafe { _mm256_xor_si256(self.0, _mm256_gf2p8mul_epi8(source.0, factor)) })
        }
    }

    #[derive(Clone, Copy)]
    struct Nibbles256(__m256i);

    impl Vector for Nibbles256 {
        const BYTES: usize = 32;
        type Factor = (__m256i, __m256i);
        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self {
            // SAFETY: see above.
            Nibbles256(unsafe { _mm256_loadu_si256(from.cast()) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut u8) {
            // SAFETY: see above.
            unsafe { _mm256_storeu_si256(to.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn factor(factor: u8) -> (__m256i, __m256i) {
            let table = NIBBLE_PRODUCTS[usize::from(factor)].as_ptr();
            // SAFETY: see above; the table has 32 bytes.
            unsafe {
                let low = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast()));
                let high = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(16).cast()));
                (low, high)
            }
        }
        #[inline(always)]
        unsafe fn add_product(self, source: Self, (low, high): (__m256i, __m256i)) -> Self {
            // SAFETY: see above.
            unsafe {
                let mask = _mm256_set1_epi8(0x0F);
                let from_low = _mm256_shuffle_epi8(low, _mm256_and_si256(source.0, mask));
                let from_high = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi64::<4>(source.0), mask));
                Nibbles256(_mm256_xor_si256(self.0, _mm256_xor_si256(from_low, from_high)))
            }
        }
    }

    #[derive(Clone, Copy)]
    struct Nibbles128(__m128i);

    impl Vector for Nibbles128 {
        const BYTES: usize = 16;
        type Factor = (__m128i, __m128i);
        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self {
            // SAFETY: see above.
            Nibbles128(unsafe { _mm_loadu_si128(from.cast()) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut u8) {
            // SAFETY: see above.
            unsafe { _mm_storeu_si128(to.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn factor(factor: u8) -> (__m128i, __m128i) {
            let table = NIBBLE_PRODUCTS[usize::from(factor)].as_ptr();
            // SAFETY: see above; the table has 32 bytes.
            unsafe { (_mm_loadu_si128(table.cast()), _mm_loadu_si128(table.add(16).cast())) }
        }
        #[inline(always)]
        unsafe fn add_product(self, source: Self, (low, high): (__m128i, __m128i)) -> Self {
            // SAFETY: see above.
            unsafe {
                let mask = _mm_set1_epi8(0x0F);
                let from_low = _mm_shuffle_epi8(low, _mm_and_si128(source.0, mask));
                let from_high = _mm_shuffle_epi8(high, _mm_and_si128(_mm_srli_epi64::<4>(source.0), mask));
                Nibbles128(_mm_xor_si128(self.0, _mm_xor_si128(from_low, from_high)))
            }
        }
    }

    /// Makes as many leading bytes of all outputs as fill whole vectors, and returns how many those are.
    ///
    /// # Safety
    /// The processor has the kernel's instructions; every slice holds `symbol_bytes`; rows and factors match in number.
    pub(super) unsafe fn add_combinations(
        kernel: Kernel,
        outputs: &mut [&mut [u8]],
        sources: &[&[u8]],
        factors: &[&[u8]],
        symbol_bytes: usize,
    ) -> usize {
        macro_rules! with_rows {
            ($function:ident) => {
                // SAFETY: passed on from this function's own conditions.
                unsafe {
                    match outputs.len() {
                        0 => symbol_bytes,
                        1 => $function::<1>(outputs, sources, factors, symbol_bytes),
                        2 => $function::<2>(outputs, sources, factors, symbol_bytes),
                        3 => $function::<3>(outputs, sources, factors, symbol_bytes),
                        _ => $function::<ROWS_MAX>(outputs, sources, factors, symbol_bytes),
                    }
                }
            };
        }
        match kernel {
            Kernel::Gfni512 => with_rows!(gfni512),
            Kernel::Gfni256 => with_rows!(gfni256),
            Kernel::Avx2 => with_rows!(avx2),
            Kernel::Ssse3 => with_rows!(ssse3),
            Kernel::Portable => 0,
        }
    }

    macro_rules! kernel {
        ($name:ident, $features:literal, $vector:ty, $lanes:literal) => {
            #[target_feature(enable = $features)]
            unsafe fn $name<const ROWS: usize>(
                outputs: &mut [&mut [u8]],
                sources: &[&[u8]],
                factors: &[&[u8]],
                symbol_bytes: usize,
            ) -> usize {
                // SAFETY: passed on from `add_combinations`. The second call does what is left of the first one's wide strides.
                unsafe {
                    let wide = strides::<$vector, ROWS, $lanes>(outputs, sources, factors, 0, symbol_bytes);
                    strides::<$vector, ROWS, 1>(outputs, sources, factors, wide, symbol_bytes)
                }
            }
        };
    }

    // Lanes are chosen so that ROWS_MAX x lanes accumulators and the sources and factors fit the register file:
    // 32 registers of 512 bits (4 x 4 + 4 + 4), 16 of 256 or 128 bits (4 x 2 + 2 + 4; the table kernels spill some factors).
    kernel!(gfni512, "gfni,avx512f,avx512bw", Wide512, 4);
    kernel!(gfni256, "gfni,avx2", Wide256, 2);
    kernel!(avx2, "avx2", Nibbles256, 2);
    kernel!(ssse3, "ssse3", Nibbles128, 2);

    /// Walks over the bytes from `start` in strides of `LANES` vectors; returns where it stopped, less than a stride before the end.
    #[inline(always)]
    unsafe fn strides<V: Vector, const ROWS: usize, const LANES: usize>(
        outputs: &mut [&mut [u8]],
        sources: &[&[u8]],
        factors: &[&[u8]],
        start: usize,
        symbol_bytes: usize,
    ) -> usize {
        let stride = V::BYTES * LANES;
        let mut at = start;
        while at + stride <= symbol_bytes {
            // SAFETY: `at + stride <= symbol_bytes`, which every slice holds; rows and factors have at least ROWS entries and
            // `factors[row]` one per source.
            unsafe {
                let mut sums: [[V; LANES]; ROWS] = std::array::from_fn(|row| {
                    let output = outputs.get_unchecked(row).as_ptr().add(at);
                    std::array::from_fn(|lane| V::load(output.add(lane * V::BYTES)))
                });
                for (index, source) in sources.iter().enumerate() {
                    let source = source.as_ptr().add(at);
                    let values: [V; LANES] = std::array::from_fn(|lane| V::load(source.add(lane * V::BYTES)));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let factor = V::factor(*factors.get_unchecked(row).get_unchecked(index));
                        for (sum, &value) in sums.iter_mut().zip(&values) {
                            *sum = sum.add_product(value, factor);
                        }
                    }
                }
                for (row, lanes) in sums.iter().enumerate() {
                    let output = outputs.get_unchecked_mut(row).as_mut_ptr().add(at);
                    for (lane, sum) in lanes.iter().enumerate() {
                        sum.store(output.add(lane * V::BYTES));
                    }
                }
            }
            at += stride;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_kernels_give_the_same_bytes(
            symbol_bytes in 1usize..700, rows in 1usize..=ROWS_MAX, seed: u64,
            sources in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 700), 1..6),
        ) {
            let factors: Vec<Vec<u8>> =
                (0..rows).map(|row| (0..sources.len()).map(|i| (seed >> (8 * ((row + i) % 8))) as u8).collect()).collect();
            let run = |kernel: Kernel| {
                let mut outputs: Vec<Vec<u8>> = (0..rows).map(|row| vec![row as u8; 700]).collect();
                kernel.add_combinations(
                    &mut outputs.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(),
                    &sources.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                    &factors.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                    symbol_bytes,
                );
                outputs
            };
            let expected = run(Kernel::Portable);
            for (row, output) in expected.iter().enumerate() {
                let sum = sources.iter().zip(&factors[row]).fold(row as u8, |sum, (s, &f)| sum ^ field::multiply(s[0], f));
                prop_assert_eq!(output[0], sum);
                prop_assert!(output[symbol_bytes..].iter().all(|&byte| byte == row as u8), "wrote past the symbol");
            }
            for kernel in Kernel::available() {
                prop_assert!(run(kernel) == expected, "{:?} differs", kernel);
            }
        }
    }
}
