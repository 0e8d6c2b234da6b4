//! CRC-32C (Castagnoli, RFC 3720 appendix B.4), the checksum of the metadata of ext4, XFS and btrfs. Table-driven, eight bytes at a step: the few
//! megabytes of metadata that are read do not justify a crate with code of its own for each processor.

/// The reversed polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]`: the register after the byte `b` and `k` zero bytes.
static TABLES: [[u32; 256]; 8] = tables();

#[allow(clippy::indexing_slicing)] // Evaluated by the compiler, which checks the indices.
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            register = if register & 1 == 1 { register >> 1 ^ POLYNOMIAL } else { register >> 1 };
            bit += 1;
        }
        tables[0][byte] = register;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let register = tables[table - 1][byte];
            tables[table][byte] = register >> 8 ^ tables[0][(register & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// The register after `bytes`, without the inversions before and after: what Linux calls `crc32c(register, bytes)`, for checksums that go on
/// from a seed.
pub(super) fn update(mut register: u32, bytes: &[u8]) -> u32 {
    // The indices are single bytes into tables of 256.
    let look_up = |table: usize, byte: u8| TABLES[table][usize::from(byte)];
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let [a, b, c, d, e, f, g, h] = *eight;
        let [w, x, y, z] = (u32::from_le_bytes([a, b, c, d]) ^ register).to_le_bytes();
        register =
            look_up(7, w) ^ look_up(6, x) ^ look_up(5, y) ^ look_up(4, z) ^ look_up(3, e) ^ look_up(2, f) ^ look_up(1, g) ^ look_up(0, h);
    }
    for byte in rest {
        register = register >> 8 ^ look_up(0, register as u8 ^ byte);
    }
    register
}

/// The checksum of several pieces one after another.
pub(super) fn checksum(pieces: &[&[u8]]) -> u32 {
    !pieces.iter().fold(!0, |register, piece| update(register, piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_3720_hold() {
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(checksum(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(checksum(&[&[0xff; 32]]), 0x62a8_ab43);
        assert_eq!(checksum(&[&rising]), 0x46dd_794e);
        assert_eq!(checksum(&[b"123456789"]), 0xe306_9283);
    }

    #[test]
    fn pieces_make_the_whole() {
        let bytes: Vec<u8> = (0..100u8).map(|number| number.wrapping_mul(7)).collect();
        let (head, tail) = bytes.split_at(33);
        assert_eq!(checksum(&[head, tail]), checksum(&[&bytes]));
    }
}
