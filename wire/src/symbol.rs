//! A symbol together with what the checksums of its packets need of it. That is the same however often it is sent and whatever header it
//! gets, so whoever reads a chunk computes it once, while the bytes are in the cache, and the thread that sends adds the headers to it.

use crate::frame::ones_complement_sum;

/// What a packet's checksums take from its symbol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// CRC-32 (IEEE 802.3) of the symbol alone.
    pub(crate) crc: u32,
    /// Its ones' complement sum (RFC 1071), for UDP over IPv6.
    pub(crate) sum: u16,
}

impl Checksums {
    /// Of a symbol with these bytes.
    pub fn of(symbol: &[u8]) -> Checksums {
        Checksums { crc: crc32fast::hash(symbol), sum: ones_complement_sum(symbol) }
    }
}

/// What a packet carries behind its header; see the module's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Symbol<'a> {
    bytes: &'a [u8],
    checksums: Checksums,
}

impl<'a> Symbol<'a> {
    /// Looks at every byte.
    pub fn new(bytes: &'a [u8]) -> Symbol<'a> {
        Symbol { bytes, checksums: Checksums::of(bytes) }
    }

    /// With checksums that were computed of the same bytes before; with others the packet is taken for damaged where it arrives.
    pub fn with_checksums(bytes: &'a [u8], checksums: Checksums) -> Symbol<'a> {
        Symbol { bytes, checksums }
    }

    /// Of a sync, which carries nothing.
    pub fn empty() -> Symbol<'static> {
        Symbol::default()
    }

    /// The symbol itself.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What was computed of it.
    pub fn checksums(&self) -> Checksums {
        self.checksums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_the_checksums_of_nothing() {
        assert_eq!(Symbol::empty(), Symbol::new(&[]));
    }
}
