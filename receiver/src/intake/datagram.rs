//! From an Ethernet frame to the payload of its UDP datagram: the user-space twin of the filter's parser.
//!
//! The filter has looked at every frame before, but a frame is still bytes from the network: everything is bounded again, and what
//! is cut short, fragmented or not UDP gives nothing.

const ETHERNET_BYTES: usize = 14;
const VLAN_TAG_BYTES: usize = 4;
const VLAN_TAGS_MAX: usize = 2;
const IPV4_BYTES_MIN: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const UDP_PROTOCOL: u8 = 17;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86DD;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88A8;

/// More than any frame of a discus stream has in front of its payload: two VLAN tags, IPv6.
pub const FRAME_HEADERS_BYTES_MAX: usize = ETHERNET_BYTES + VLAN_TAGS_MAX * VLAN_TAG_BYTES + IPV6_BYTES + UDP_BYTES;

/// The UDP payload of `frame`, without Ethernet padding. `None` for anything but one whole, unfragmented UDP datagram over IPv4 or
/// IPv6 without extension headers, behind at most two VLAN tags.
#[inline]
pub fn udp_payload(frame: &[u8]) -> Option<&[u8]> {
    let mut ethertype = u16_at(frame, ETHERNET_BYTES - 2)?;
    let mut network = frame.get(ETHERNET_BYTES..)?;
    for _ in 0..VLAN_TAGS_MAX {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        ethertype = u16_at(network, 2)?;
        network = network.get(VLAN_TAG_BYTES..)?;
    }
    let udp = match ethertype {
        ETHERTYPE_IPV4 => ipv4_payload(network)?,
        ETHERTYPE_IPV6 => ipv6_payload(network)?,
        _ => return None,
    };
    let datagram_bytes = usize::from(u16_at(udp, 4)?);
    udp.get(UDP_BYTES..datagram_bytes)
}

fn ipv4_payload(packet: &[u8]) -> Option<&[u8]> {
    let version_and_length = *packet.first()?;
    let header_bytes = usize::from(version_and_length & 0x0F) * 4;
    let total_bytes = usize::from(u16_at(packet, 2)?);
    let fragment = u16_at(packet, 6)? & 0x3FFF; // more fragments, or an offset
    let udp = *packet.get(9)? == UDP_PROTOCOL;
    if version_and_length >> 4 != 4 || header_bytes < IPV4_BYTES_MIN || fragment != 0 || !udp {
        return None;
    }
    packet.get(header_bytes..total_bytes)
}

fn ipv6_payload(packet: &[u8]) -> Option<&[u8]> {
    let payload_bytes = usize::from(u16_at(packet, 4)?);
    if packet.first()? >> 4 != 6 || *packet.get(6)? != UDP_PROTOCOL {
        return None;
    }
    packet.get(IPV6_BYTES..IPV6_BYTES + payload_bytes)
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::frame::{FrameTemplate, MacAddress};

    /// A frame as the sender builds it, with `tags` VLAN tags put in.
    fn frame(source: &str, group: &str, tags: usize, payload: &[u8]) -> Vec<u8> {
        let template = FrameTemplate::new(MacAddress([2; 6]), source.parse().unwrap(), group.parse().unwrap(), 1).unwrap();
        let mut frame = vec![0; template.header_bytes()];
        frame.extend_from_slice(payload);
        template.write(&mut frame, payload.len()).unwrap();
        for _ in 0..tags {
            frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        }
        frame
    }

    const FAMILIES: [(&str, &str); 2] = [("10.0.0.1:9", "239.1.1.1:4700"), ("[fd00::1]:9", "[ff18::1]:4700")];

    #[test]
    fn what_the_sender_frames_is_unframed_also_behind_two_tags() {
        for (source, group) in FAMILIES {
            for tags in 0..=2 {
                assert_eq!(udp_payload(&frame(source, group, tags, b"payload")), Some(&b"payload"[..]));
            }
            assert_eq!(udp_payload(&frame(source, group, 3, b"payload")), None);
        }
    }

    #[test]
    fn ethernet_padding_is_cut_off() {
        let mut padded = frame(FAMILIES[0].0, FAMILIES[0].1, 0, b"ab");
        padded.resize(60, 0);
        assert_eq!(udp_payload(&padded), Some(&b"ab"[..]));
    }

    #[test]
    fn a_frame_cut_anywhere_gives_nothing() {
        for (source, group) in FAMILIES {
            let whole = frame(source, group, 1, b"payload");
            for cut in 0..whole.len() {
                assert_eq!(udp_payload(&whole[..cut]), None);
            }
        }
    }

    #[test]
    fn ip_options_are_skipped() {
        let mut with_options = frame(FAMILIES[0].0, FAMILIES[0].1, 0, b"payload");
        with_options.splice(34..34, [1; 4]);
        with_options[14] = 0x46;
        with_options[17] += 4;
        assert_eq!(udp_payload(&with_options), Some(&b"payload"[..]));
    }

    #[test]
    fn fragments_and_other_protocols_give_nothing() {
        let good = frame(FAMILIES[0].0, FAMILIES[0].1, 0, b"payload");
        for (at, value) in [(20, 0x20), (21, 0x01), (23, 6), (14, 0x44), (14, 0x65), (12, 0x86)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(udp_payload(&bad), None, "byte {at} = {value:#x}");
        }
        let mut extension_header = frame(FAMILIES[1].0, FAMILIES[1].1, 0, b"payload");
        extension_header[20] = 44;
        assert_eq!(udp_payload(&extension_header), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = udp_payload(&bytes);
        }

        #[test]
        fn damaged_frames_never_panic(
            ipv6: bool, tags in 0usize..4, cut in 0usize..120,
            damage in proptest::collection::vec((0usize..90, any::<u8>()), 0..6),
        ) {
            let (source, group) = FAMILIES[usize::from(ipv6)];
            let mut bytes = frame(source, group, tags, &[7; 40]);
            for (at, value) in damage {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            if let Some(payload) = udp_payload(&bytes) {
                prop_assert!(payload.len() <= bytes.len());
            }
        }
    }
}
