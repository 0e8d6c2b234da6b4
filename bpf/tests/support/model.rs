//! The filter's rules once more, as plainly as they can be said in user space.

use bpf::{FilterConfig, IdWidth, OnWanted, Verdict, WantSet};

/// What the filter must say about `packet`, a frame that arrived on a queue with or without a socket.
pub(crate) fn judge(config: &FilterConfig, wants: &WantSet, with_socket: bool, packet: &[u8]) -> Verdict {
    let Some((udp_length, payload)) = datagram(config, packet) else { return Verdict::Foreign };
    if config.match_mask != 0 {
        let Some(bytes) = field::<8>(payload, config.match_offset) else { return Verdict::OtherSession };
        if (u64::from_be_bytes(bytes) ^ config.match_value) & config.match_mask != 0 {
            return Verdict::OtherSession;
        }
    }
    let id = match config.id_width {
        IdWidth::U8 => field::<1>(payload, config.id_offset).map(|bytes| u32::from(bytes[0])),
        IdWidth::U16 => field::<2>(payload, config.id_offset).map(|bytes| u32::from(u16::from_be_bytes(bytes))),
        IdWidth::U32 => field::<4>(payload, config.id_offset).map(u32::from_be_bytes),
    };
    let match_end = if config.match_mask == 0 { 0 } else { config.match_offset + 8 };
    let shortest = config.min_payload_bytes.max(match_end).max(config.id_offset + u16::from(config.id_width.bytes()));
    let Some(id) = id.filter(|_| u32::from(udp_length) >= 8 + u32::from(shortest)) else { return Verdict::Malformed };
    if id >= config.id_count {
        Verdict::IdOutOfRange
    } else if !wants.contains(id) {
        Verdict::Unwanted
    } else if with_socket && config.on_wanted == OnWanted::Redirect {
        Verdict::WantedRedirected
    } else {
        Verdict::WantedPassed
    }
}

/// UDP's length field and payload, if the packet is a whole datagram to the feed's ports.
fn datagram<'p>(config: &FilterConfig, packet: &'p [u8]) -> Option<(u16, &'p [u8])> {
    let mut rest = packet.get(12..)?;
    let mut tags = 0;
    let ether_type = loop {
        let (ether_type, after) = rest.split_first_chunk::<2>()?;
        if !matches!(ether_type, [0x81, 0x00] | [0x88, 0xa8]) {
            rest = after;
            break *ether_type;
        }
        tags += 1;
        if tags > 2 {
            return None;
        }
        rest = after.get(2..)?;
    };
    let udp = match ether_type {
        [0x08, 0x00] => {
            let header = rest.get(..20)?;
            let words = usize::from(header[0] & 15);
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
            if header[0] >> 4 != 4 || words < 5 || header[9] != 17 || fragment {
                return None;
            }
            rest.get(words * 4..)?
        }
        [0x86, 0xdd] => {
            let header = rest.get(..40)?;
            if header[0] >> 4 != 6 || header[6] != 17 {
                return None;
            }
            &rest[40..]
        }
        _ => return None,
    };
    let (header, payload) = udp.split_first_chunk::<8>()?;
    let port = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let first = u32::from(config.first_port);
    (first..first + u32::from(config.port_count)).contains(&port).then_some((u16::from_be_bytes([header[4], header[5]]), payload))
}

fn field<const BYTES: usize>(payload: &[u8], offset: u16) -> Option<[u8; BYTES]> {
    payload.get(usize::from(offset)..)?.first_chunk().copied()
}
