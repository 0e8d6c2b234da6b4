//! The Ethernet, IPv4 or IPv6, and UDP headers around a discus packet, built once per stream and copied in front of every payload.
//!
//! All packets of a stream have the same length, so only the UDP checksum of IPv6 changes from packet to packet. IPv4 carries
//! checksum 0 (allowed by RFC 768; the packet's CRC-32 covers more).

use crate::symbol::Symbol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const UDP_PROTOCOL: u8 = 17;

/// Largest header that a template writes: Ethernet, IPv6, UDP.
pub const FRAME_HEADER_BYTES_MAX: usize = ETHERNET_BYTES + IPV6_BYTES + UDP_BYTES;

/// Why frames cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The destination is unicast; its hardware address would have to be resolved.
    #[error("{0} is not a multicast address")]
    NotMulticast(IpAddr),
    /// IPv4 source with an IPv6 group, or the other way round.
    #[error("source {source_address} and group {group} are of different families")]
    Families {
        /// Source address.
        source_address: IpAddr,
        /// Group address.
        group: IpAddr,
    },
    /// An IP packet cannot be that long.
    #[error("payload of {0} bytes is too long")]
    TooLong(usize),
}

/// Prebuilt headers of one stream's packets, all with payloads of the same length or shorter.
#[derive(Clone, Debug)]
pub struct FrameTemplate {
    headers: [u8; FRAME_HEADER_BYTES_MAX],
    header_bytes: usize,
    ipv6: bool,
    /// Sum of the pseudo-header's addresses and protocol and of the UDP ports, for IPv6.
    constant_sum: u64,
}

/// The hardware address of an IP multicast group: RFC 1112 section 6.4, RFC 2464 section 7.
///
/// # Errors
/// [`FrameError::NotMulticast`].
pub fn multicast_mac(group: IpAddr) -> Result<MacAddress, FrameError> {
    match group {
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, b, c, d] = v4.octets();
            Ok(MacAddress([0x01, 0x00, 0x5E, b & 0x7F, c, d]))
        }
        IpAddr::V6(v6) if v6.is_multicast() => {
            let octets = v6.octets();
            Ok(MacAddress([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]))
        }
        _ => Err(FrameError::NotMulticast(group)),
    }
}

impl FrameTemplate {
    /// Headers from `source` (hardware and IP address, UDP port) to `group`, with `hops` as TTL or hop limit.
    ///
    /// # Errors
    /// [`FrameError`] when the addresses do not go together.
    pub fn new(source_mac: MacAddress, source: SocketAddr, group: SocketAddr, hops: u8) -> Result<FrameTemplate, FrameError> {
        let mut headers = [0; FRAME_HEADER_BYTES_MAX];
        headers[0..6].copy_from_slice(&multicast_mac(group.ip())?.0);
        headers[6..12].copy_from_slice(&source_mac.0);
        let (ethertype, ip_bytes) = match (source.ip(), group.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                write_ipv4(&mut headers[ETHERNET_BYTES..][..IPV4_BYTES], from, to, hops);
                (0x0800_u16, IPV4_BYTES)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                write_ipv6(&mut headers[ETHERNET_BYTES..][..IPV6_BYTES], from, to, hops);
                (0x86DD_u16, IPV6_BYTES)
            }
            (source_address, group) => return Err(FrameError::Families { source_address, group }),
        };
        headers[12..14].copy_from_slice(&ethertype.to_be_bytes());
        let udp = ETHERNET_BYTES + ip_bytes;
        headers[udp..udp + 2].copy_from_slice(&source.port().to_be_bytes());
        headers[udp + 2..udp + 4].copy_from_slice(&group.port().to_be_bytes());
        let ipv6 = ip_bytes == IPV6_BYTES;
        let constant_sum = if ipv6 {
            let addresses = &headers[ETHERNET_BYTES + 8..ETHERNET_BYTES + IPV6_BYTES];
            sum(addresses) + u64::from(UDP_PROTOCOL) + sum(&headers[udp..udp + 4])
        } else {
            0
        };
        Ok(FrameTemplate { headers, header_bytes: udp + UDP_BYTES, ipv6, constant_sum })
    }

    /// Bytes in front of the payload.
    pub fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    /// Writes the headers in front of the `payload_bytes` that already stand in `frame` behind them, and returns the frame's length.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when `frame` or an IP packet cannot hold it.
    pub fn write(&self, frame: &mut [u8], payload_bytes: usize) -> Result<usize, FrameError> {
        let frame = frame.get_mut(..self.header_bytes + payload_bytes).ok_or(FrameError::TooLong(payload_bytes))?;
        let (headers, payload) = frame.split_at_mut(self.header_bytes);
        self.write_headers(headers, payload, Symbol::empty())?;
        Ok(self.header_bytes + payload_bytes)
    }

    /// Writes the headers alone, of a packet whose payload is `head`, of even length, and then `symbol`, wherever these stand. Its bytes are
    /// looked at only for a sum that nobody has computed.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when `headers` has not [`FrameTemplate::header_bytes`] or an IP packet cannot hold the payload.
    pub fn write_headers(&self, headers: &mut [u8], head: &[u8], symbol: Symbol<'_>) -> Result<(), FrameError> {
        debug_assert!(head.len().is_multiple_of(2) || symbol.bytes().is_empty(), "the checksum is over pairs of bytes");
        let payload_bytes = head.len() + symbol.bytes().len();
        let ip_bytes = self.header_bytes + payload_bytes - ETHERNET_BYTES;
        let (Ok(ip_total), true) = (u16::try_from(ip_bytes), headers.len() == self.header_bytes) else {
            return Err(FrameError::TooLong(payload_bytes));
        };
        headers.copy_from_slice(&self.headers[..self.header_bytes]);
        let udp_bytes = (UDP_BYTES + payload_bytes) as u16;
        let udp = self.header_bytes - UDP_BYTES;
        headers[udp + 4..udp + 6].copy_from_slice(&udp_bytes.to_be_bytes());
        if self.ipv6 {
            headers[ETHERNET_BYTES + 4..ETHERNET_BYTES + 6].copy_from_slice(&udp_bytes.to_be_bytes());
            // The length counts twice: in the pseudo-header and in the UDP header (RFC 8200 section 8.1).
            let total = self.constant_sum + 2 * u64::from(udp_bytes) + sum(head) + u64::from(symbol.sum());
            let checksum = match !fold(total) {
                0 => 0xFFFF,
                checksum => checksum,
            };
            headers[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
        } else {
            headers[ETHERNET_BYTES + 2..ETHERNET_BYTES + 4].copy_from_slice(&ip_total.to_be_bytes());
            let checksum = !fold(sum(&headers[ETHERNET_BYTES..ETHERNET_BYTES + IPV4_BYTES]));
            headers[ETHERNET_BYTES + 10..ETHERNET_BYTES + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        Ok(())
    }
}

fn write_ipv4(ip: &mut [u8], source: Ipv4Addr, group: Ipv4Addr, hops: u8) {
    ip[0] = 0x45;
    // Don't fragment: a lost fragment would lose the symbol, and the filter passes fragments to the stack. The identification may
    // then be zero (RFC 6864).
    ip[6] = 0x40;
    ip[8] = hops;
    ip[9] = UDP_PROTOCOL;
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&group.octets());
}

fn write_ipv6(ip: &mut [u8], source: Ipv6Addr, group: Ipv6Addr, hops: u8) {
    ip[0] = 0x60;
    ip[6] = UDP_PROTOCOL;
    ip[7] = hops;
    ip[8..24].copy_from_slice(&source.octets());
    ip[24..40].copy_from_slice(&group.octets());
}

/// Sum of big-endian 16-bit words (RFC 1071), not yet folded; an odd last byte counts as the high one. Summed in 32-bit words:
/// 2^16 is congruent to 1 modulo 2^16 - 1, so folding gives the same.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let total: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    total + u64::from(u32::from_be_bytes(tail))
}

/// The same, folded: what `bytes` add to a checksum when they begin at an even offset. Summed in the processor's byte order, and swapped once: the sum does
/// not depend on it (RFC 1071, section 2 B), and a swap of each word takes longer than the sum.
pub(crate) fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    u16::from_be(fold(total + u64::from(u32::from_ne_bytes(tail))))
}

fn fold(mut total: u64) -> u16 {
    while total > 0xFFFF {
        total = (total >> 16) + (total & 0xFFFF);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

    #[test]
    fn golden_ipv4_frame() {
        let template = FrameTemplate::new(SOURCE_MAC, "10.1.2.3:4000".parse().unwrap(), "239.192.68.1:4700".parse().unwrap(), 1).unwrap();
        let mut frame = [0; 64];
        frame[42..46].copy_from_slice(b"data");
        let bytes = template.write(&mut frame, 4).unwrap();
        let golden = [
            0x01, 0x00, 0x5E, 0x40, 0x44, 0x01, 2, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
            0x45, 0, 0, 32, 0, 0, 0x40, 0, 1, 17, 0x3A, 0x08, 10, 1, 2, 3, 239, 192, 68, 1, // IPv4
            0x0F, 0xA0, 0x12, 0x5C, 0, 12, 0, 0, // UDP
            b'd', b'a', b't', b'a',
        ];
        assert_eq!(frame[..bytes], golden);
        assert_eq!(fold(sum(&frame[14..34])), 0xFFFF, "a header that includes its checksum sums to ones");
    }

    #[test]
    fn ipv6_checksum_verifies_for_any_length() {
        let template = FrameTemplate::new(SOURCE_MAC, "[fe80::1]:4000".parse().unwrap(), "[ff18::d15c]:4700".parse().unwrap(), 1).unwrap();
        for payload_bytes in 0..70 {
            let mut frame = [0x5A; 140];
            frame[62 + payload_bytes / 2] = 0xC3;
            let bytes = template.write(&mut frame, payload_bytes).unwrap();
            let udp_bytes = (payload_bytes + 8) as u64;
            let pseudo = sum(&frame[22..54]) + udp_bytes + 17;
            assert_eq!(fold(pseudo + sum(&frame[54..bytes])), 0xFFFF);
            assert_eq!(&frame[..6], &[0x33, 0x33, 0, 0, 0xD1, 0x5C]);
        }
    }

    #[test]
    fn the_sum_of_a_symbol_is_that_of_its_words() {
        let bytes: Vec<u8> = (0..3000_u32).map(|at| (at * at / 5) as u8).collect();
        for length in (0..40).chain(1400..1412).chain([3000]) {
            assert_eq!(ones_complement_sum(&bytes[..length]), fold(sum(&bytes[..length])), "{length}");
        }
    }

    #[test]
    fn addresses_that_do_not_go_together_are_refused() {
        let new = |source: &str, group: &str| FrameTemplate::new(SOURCE_MAC, source.parse().unwrap(), group.parse().unwrap(), 1);
        assert!(matches!(new("10.0.0.1:1", "10.0.0.2:1"), Err(FrameError::NotMulticast(_))));
        assert!(matches!(new("[fe80::1]:1", "239.0.0.1:1"), Err(FrameError::Families { .. })));
        let template = new("10.0.0.1:1", "239.0.0.1:1").unwrap();
        assert!(matches!(template.write(&mut [0; 50], 20), Err(FrameError::TooLong(20))));
    }
}
