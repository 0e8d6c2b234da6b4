//! A symbol together with what the checksums of its packets need of it. That is the same however often it is sent and whatever header it
//! gets, so whoever reads a chunk computes it once, while the bytes are in the cache, and the thread that sends adds the headers to it.

use crate::frame::ones_complement_sum;

/// What a packet's checksums take from its symbol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// CRC-32 (IEEE 802.3) of the symbol alone.
    crc: u32,
    /// Its ones' complement sum (RFC 1071), for UDP over IPv6; computed when a packet needs it if not before.
    sum: Option<u16>,
}

impl Checksums {
    /// Of a symbol that goes out over IPv4, where UDP needs none of its own.
    pub fn for_ipv4(symbol: &[u8]) -> Checksums {
        Checksums { crc: crc32fast::hash(symbol), sum: None }
    }

    /// Of a symbol that goes out over IPv6.
    pub fn for_ipv6(symbol: &[u8]) -> Checksums {
        Checksums { sum: Some(ones_complement_sum(symbol)), ..Checksums::for_ipv4(symbol) }
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
        Symbol { bytes, checksums: Checksums::for_ipv4(bytes) }
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

    /// CRC-32 (IEEE 802.3) of its bytes.
    pub(crate) fn crc(&self) -> u32 {
        self.checksums.crc
    }

    /// Ones' complement sum of its bytes.
    pub(crate) fn sum(&self) -> u16 {
        self.checksums.sum.unwrap_or_else(|| ones_complement_sum(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_the_checksums_of_nothing() {
        assert_eq!(Symbol::empty(), Symbol::new(&[]));
    }

    #[test]
    fn a_sum_that_was_not_computed_before_is_the_same() {
        let bytes: Vec<u8> = (0..=250).collect();
        let of = |checksums| Symbol::with_checksums(&bytes, checksums);
        assert_eq!(of(Checksums::for_ipv4(&bytes)).sum(), of(Checksums::for_ipv6(&bytes)).sum());
        assert_eq!(of(Checksums::for_ipv4(&bytes)).crc(), of(Checksums::for_ipv6(&bytes)).crc());
    }
}
