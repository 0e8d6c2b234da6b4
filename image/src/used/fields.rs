//! Integers at fixed places of an on-disk structure. What lies past the end of the slice reads as zeros: callers hand over slices of the
//! structure's size, and a field that is zero by mistake is refused like any other wrong value.

/// A structure as it lies on the disk.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// `N` bytes from `at` on.
    pub(super) fn array<const N: usize>(self, at: usize) -> [u8; N] {
        self.bytes(at, N).try_into().unwrap_or([0; N])
    }

    /// `length` bytes from `at` on; empty when they are not all there.
    pub(super) fn bytes(self, at: usize, length: usize) -> &'a [u8] {
        at.checked_add(length).and_then(|end| self.0.get(at..end)).unwrap_or_default()
    }

    pub(super) fn u8(self, at: usize) -> u8 {
        self.array::<1>(at)[0]
    }

    pub(super) fn le16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(super) fn le32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(super) fn le64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_past_the_end_are_zero() {
        let fields = Fields(&[1, 2, 3, 4, 5]);
        assert_eq!((fields.le16(0), fields.le32(1)), (0x0201, 0x0504_0302));
        assert_eq!((fields.le32(2), fields.le64(0), fields.u8(usize::MAX), fields.u8(4)), (0, 0, 0, 5));
        assert_eq!(fields.bytes(3, usize::MAX), b"");
    }
}
