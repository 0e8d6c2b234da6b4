//! The checksums of ext4's metadata: CRC-16 of group descriptors (`uninit_bg`), or CRC-32C of everything (`metadata_csum`).

use crate::used::crc32c;

/// What a filesystem's metadata is checked with.
pub(super) enum Checksums {
    /// Older than ext4, or switched off.
    None,
    /// Group descriptors only, from the CRC-16 of the filesystem's UUID on.
    Crc16(u16),
    /// Everything, from this seed on.
    Crc32c(u32),
}

impl Checksums {
    /// Whether descriptors have flags and counts for what was never initialised.
    pub(super) fn have_uninitialised(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether a group's descriptor is right (fs/ext4/super.c, `ext4_group_desc_csum`).
    pub(super) fn descriptor_is_right(&self, group: u32, descriptor: &[u8]) -> bool {
        let (Some((head, [low, high, rest @ ..])), number) = (descriptor.split_at_checked(0x1e), group.to_le_bytes()) else { return false };
        let computed = match self {
            Self::None => return true,
            Self::Crc16(seed) => [&number, head, rest].into_iter().fold(*seed, crc16),
            Self::Crc32c(seed) => [&number, head, &[0, 0], rest].into_iter().fold(*seed, crc32c::update) as u16,
        };
        computed == u16::from_le_bytes([*low, *high])
    }

    /// Whether a group's block bitmap is right. Small descriptors hold only the low half of its sum.
    pub(super) fn bitmap_is_right(&self, bitmap: &[u8], expected: u32, whole: bool) -> bool {
        match self {
            Self::None | Self::Crc16(_) => true,
            Self::Crc32c(seed) => same(crc32c::update(*seed, bitmap), expected, whole),
        }
    }

    /// Whether an inode is right (fs/ext4/inode.c, `ext4_inode_csum`).
    pub(super) fn inode_is_right(&self, number: u32, inode: &[u8]) -> bool {
        let Self::Crc32c(seed) = self else { return true };
        let u16_at = |at: usize| inode.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes));
        let generation = inode.get(0x64..0x68).unwrap_or_default();
        // i_extra_isize says whether the high half is there.
        let whole = inode.len() > 128 && u16_at(0x80) >= 4;
        let mut cleared = inode.to_vec();
        for (at, clear) in [(0x7c, true), (0x82, whole)] {
            if clear && let Some(field) = cleared.get_mut(at..at + 2) {
                field.fill(0);
            }
        }
        let computed = [&number.to_le_bytes(), generation, &cleared].into_iter().fold(*seed, crc32c::update);
        let high = if whole { u16_at(0x82) } else { 0 };
        same(computed, u32::from(u16_at(0x7c)) | u32::from(high) << 16, whole)
    }
}

fn same(computed: u32, expected: u32, whole: bool) -> bool {
    if whole { computed == expected } else { computed as u16 == expected as u16 }
}

/// CRC-16 with the reversed polynomial 0xa001, as the kernel's lib/crc16.c. For a few dozen bytes per group: no table.
pub(super) fn crc16(register: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(register, |register, byte| {
        (0..8).fold(register ^ u16::from(*byte), |register, _| if register & 1 == 1 { register >> 1 ^ 0xa001 } else { register >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc_16_arc_holds() {
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }
}
