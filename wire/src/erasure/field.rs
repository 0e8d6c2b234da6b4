//! Arithmetic in GF(2^8) and the Cauchy matrix of the code.
//!
//! The field is that of AES, modulo x^8 + x^4 + x^3 + x + 1 (0x11B), because processors with GFNI multiply in it directly.

/// x^8 + x^4 + x^3 + x + 1, without its x^8.
const POLYNOMIAL: u8 = 0x1B;
/// 3 generates the multiplicative group of this field (2 does not).
const GENERATOR: u8 = 3;

/// `EXP[i]` is the generator to the power `i`, twice over so that sums of two logarithms need no reduction.
const EXP: [u8; 510] = powers();
/// `LOG[EXP[i]] = i` for `i < 255`; `LOG[0]` is never used.
const LOG: [u8; 256] = logarithms();

const fn double(a: u8) -> u8 {
    (a << 1) ^ if a & 0x80 != 0 { POLYNOMIAL } else { 0 }
}

const fn powers() -> [u8; 510] {
    let mut exp = [0; 510];
    let mut value = 1_u8;
    let mut i = 0;
    while i < 510 {
        exp[i] = value;
        // Times the generator: 3 = x + 1.
        value ^= double(value);
        i += 1;
    }
    exp
}

const fn logarithms() -> [u8; 256] {
    let mut log = [0; 256];
    let mut i = 0;
    while i < 255 {
        log[EXP[i] as usize] = i as u8;
        i += 1;
    }
    assert!(EXP[1] == GENERATOR);
    log
}

/// The product of `a` and `b`.
pub(super) const fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 { 0 } else { EXP[LOG[a as usize] as usize + LOG[b as usize] as usize] }
}

/// The inverse of `a`, which must not be 0 (0 is returned for it).
pub(super) const fn invert(a: u8) -> u8 {
    if a == 0 { 0 } else { EXP[255 - LOG[a as usize] as usize] }
}

/// The factor of source symbol `source` in repair symbol `repair` (counted from 0): 1 / (x + y) with x = 255 - `repair` and
/// y = `source`. All x differ from all y while K + R <= 256, so every square submatrix has an inverse (Cauchy), which makes the
/// code maximum-distance separable; and a factor depends neither on K nor on R.
pub(super) const fn coefficient(repair: u8, source: u8) -> u8 {
    invert((255 - repair) ^ source)
}

/// Inverts the `n` x `n` matrix in `matrix` (row by row) into `inverse` by Gauss-Jordan elimination. Returns whether it has an inverse.
pub(super) fn invert_matrix(matrix: &mut [u8], inverse: &mut [u8], n: usize) -> bool {
    inverse.fill(0);
    for i in 0..n {
        inverse[i * n + i] = 1;
    }
    for column in 0..n {
        let Some(pivot) = (column..n).find(|&row| matrix[row * n + column] != 0) else {
            return false;
        };
        for side in [&mut *matrix, &mut *inverse] {
            for i in 0..n {
                side.swap(pivot * n + i, column * n + i);
            }
        }
        let scale = invert(matrix[column * n + column]);
        for side in [&mut *matrix, &mut *inverse] {
            for value in &mut side[column * n..][..n] {
                *value = multiply(*value, scale);
            }
        }
        for row in (0..n).filter(|&row| row != column) {
            let factor = matrix[row * n + column];
            if factor == 0 {
                continue;
            }
            for side in [&mut *matrix, &mut *inverse] {
                for i in 0..n {
                    side[row * n + i] ^= multiply(factor, side[column * n + i]);
                }
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplication from its definition: shift and add, reduce.
    fn by_definition(mut a: u8, mut b: u8) -> u8 {
        let mut product = 0;
        while b != 0 {
            if b & 1 != 0 {
                product ^= a;
            }
            a = double(a);
            b >>= 1;
        }
        product
    }

    #[test]
    fn products_and_inverses_are_those_of_the_field() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(multiply(a, b), by_definition(a, b));
            }
            assert_eq!(multiply(a, invert(a)), u8::from(a != 0));
        }
        // FIPS 197 section 4.2: {57} x {83} = {c1}.
        assert_eq!(multiply(0x57, 0x83), 0xC1);
    }

    #[test]
    fn a_matrix_times_its_inverse_is_the_identity_and_a_singular_one_is_refused() {
        let n = 48;
        let matrix: Vec<u8> = (0..n * n).map(|i| coefficient((i / n) as u8, (3 * (i % n)) as u8)).collect();
        let mut inverse = vec![0; n * n];
        assert!(invert_matrix(&mut matrix.clone(), &mut inverse, n));
        for row in 0..n {
            for column in 0..n {
                let product = (0..n).fold(0, |sum, i| sum ^ multiply(matrix[row * n + i], inverse[i * n + column]));
                assert_eq!(product, u8::from(row == column));
            }
        }
        assert!(!invert_matrix(&mut [1, 2, 1, 2], &mut [0; 4], 2));
    }
}
