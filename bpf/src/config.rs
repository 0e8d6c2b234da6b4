//! What the operator of a feed tells the filter, checked and laid out as the C program reads it.

use crate::Error;
use crate::skeleton::types;

/// Offsets end here: a driver's first buffer holds at least this much of a packet's payload, and the
/// filter sees only that buffer of a multi-buffer (jumbo) packet.
const FIELD_END_MAX_BYTES: u32 = 1024;

/// Bits in the largest array value that all kernels since 5.18 take, 4 MiB. With chunks of 256 KiB that is 8 TiB.
const ID_COUNT_MAX: u32 = 1 << 25;
// The C program's array is of this size before it is cut.
const _: () = assert!(size_of::<types::bss_wanted>() == ID_COUNT_MAX as usize / 8);

/// Bytes of the match field.
const MATCH_BYTES: u16 = 8;

/// How the packets of a feed look and what happens to the wanted ones. Offsets are in bytes from the start
/// of the UDP payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterConfig {
    /// First UDP destination port of the feed.
    pub first_port: u16,
    /// Number of consecutive ports, at least 1.
    pub port_count: u16,
    /// Where the eight match bytes start.
    pub match_offset: u16,
    /// What the match bytes must be, read as a big-endian number; only the bits of `match_mask` count.
    pub match_value: u64,
    /// Which bits of the match bytes must agree; 0 takes everything on the ports for the feed.
    pub match_mask: u64,
    /// Where the id starts.
    pub id_offset: u16,
    /// How wide the id is.
    pub id_width: IdWidth,
    /// Number of ids, the size of the want set in bits, at most 2^25; ids from here on are dropped.
    pub id_count: u32,
    /// What happens to a wanted packet.
    pub on_wanted: OnWanted,
    /// A packet of the feed whose UDP payload is shorter is malformed, and dropped.
    pub min_payload_bytes: u16,
    /// The streams that the feed consists of, if they are to be counted apart.
    pub streams: Option<Streams>,
}

/// How the packets of a feed name their stream and their place in it. All fields are big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Where the 2 bytes of the stream's number start; streams from [`crate::STREAMS_MAX`] on are not counted.
    pub stream_offset: u16,
    /// Where the 4 bytes of the packet's sequence number start.
    pub sequence_offset: u16,
    /// Packets with this id, while it is wanted, are marks; see [`crate::Mark`].
    pub mark_id: u32,
}

/// Width of the id, an unsigned big-endian number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdWidth {
    /// 1 byte
    U8,
    /// 2 bytes
    U16,
    /// 4 bytes
    U32,
}

impl IdWidth {
    /// The width in bytes.
    pub const fn bytes(self) -> u8 {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }
}

/// What happens to a packet whose id is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnWanted {
    /// It goes to the AF_XDP socket registered for its receive queue, or to the kernel's stack where there is none.
    Redirect,
    /// It goes to the kernel's stack, to be read from an ordinary UDP socket.
    Pass,
}

impl FilterConfig {
    /// The constants of the C program.
    pub(crate) fn to_constants(&self) -> Result<types::filter_config, Error> {
        let refuse = |why: String| Err(Error::Config(why));
        if self.port_count == 0 {
            return refuse("no port: port_count must be at least 1".to_owned());
        }
        if u32::from(self.first_port) + u32::from(self.port_count) > 1 << 16 {
            return refuse(format!("ports {} and the {} after it pass 65535", self.first_port, self.port_count - 1));
        }
        if self.id_count == 0 || self.id_count > ID_COUNT_MAX {
            return refuse(format!("id_count is {}, must be between 1 and {ID_COUNT_MAX}", self.id_count));
        }
        let match_end = match self.match_mask {
            0 => 0,
            _ => u32::from(self.match_offset) + u32::from(MATCH_BYTES),
        };
        let id_end = u32::from(self.id_offset) + u32::from(self.id_width.bytes());
        let streams_end =
            self.streams.map_or(0, |streams| (u32::from(streams.stream_offset) + 2).max(u32::from(streams.sequence_offset) + 4));
        let field_end = match_end.max(id_end).max(streams_end);
        if field_end > FIELD_END_MAX_BYTES {
            return refuse(format!(
                "match bytes, id, stream and sequence number must lie within the first {FIELD_END_MAX_BYTES} bytes of the payload, \
                 these end at {field_end}"
            ));
        }
        Ok(types::filter_config {
            match_value: packet_order(self.match_value & self.match_mask),
            match_mask: packet_order(self.match_mask),
            id_count: self.id_count,
            first_port: self.first_port,
            port_count: self.port_count,
            match_offset: self.match_offset,
            id_offset: self.id_offset,
            // At most FIELD_END_MAX_BYTES, so that the conversion loses nothing.
            payload_min_bytes: self.min_payload_bytes.max(field_end as u16),
            id_width_bytes: self.id_width.bytes(),
            redirect: u8::from(self.on_wanted == OnWanted::Redirect),
            mark_id: self.streams.map_or(0, |streams| streams.mark_id),
            stream_offset: self.streams.map_or(0, |streams| streams.stream_offset),
            sequence_offset: self.streams.map_or(0, |streams| streams.sequence_offset),
            has_streams: u8::from(self.streams.is_some()),
            ..types::filter_config::default()
        })
    }
}

/// The number whose bytes in memory are `value`'s bytes in a packet.
const fn packet_order(value: u64) -> u64 {
    u64::from_ne_bytes(value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> FilterConfig {
        FilterConfig {
            first_port: 5000,
            port_count: 2,
            match_offset: 4,
            match_value: 0x0102_0304_0506_0708,
            match_mask: 0xffff_ffff_0000_0000,
            id_offset: 12,
            id_width: IdWidth::U32,
            id_count: 100,
            on_wanted: OnWanted::Redirect,
            min_payload_bytes: 0,
            streams: None,
        }
    }

    #[test]
    fn match_bytes_are_laid_out_as_in_the_packet() {
        let constants = valid().to_constants().unwrap();
        assert_eq!(constants.match_value.to_ne_bytes(), [1, 2, 3, 4, 0, 0, 0, 0]);
        assert_eq!(constants.match_mask.to_ne_bytes(), [255, 255, 255, 255, 0, 0, 0, 0]);
    }

    #[test]
    fn the_shortest_payload_holds_match_bytes_and_id() {
        assert_eq!(valid().to_constants().unwrap().payload_min_bytes, 16);
        let longer = FilterConfig { min_payload_bytes: 1400, ..valid() };
        assert_eq!(longer.to_constants().unwrap().payload_min_bytes, 1400);
        let everything = FilterConfig { match_mask: 0, match_offset: 60_000, id_offset: 0, ..valid() };
        assert_eq!(everything.to_constants().unwrap().payload_min_bytes, 4);
    }

    #[test]
    fn contradictions_are_refused() {
        let last = FilterConfig { first_port: 65535, port_count: 1, ..valid() };
        assert!(last.to_constants().is_ok());
        for config in [
            FilterConfig { port_count: 0, ..valid() },
            FilterConfig { first_port: 65535, port_count: 2, ..valid() },
            FilterConfig { id_count: 0, ..valid() },
            FilterConfig { id_count: ID_COUNT_MAX + 1, ..valid() },
            FilterConfig { id_offset: 1021, ..valid() },
            FilterConfig { match_offset: 1017, ..valid() },
            FilterConfig { streams: Some(Streams { stream_offset: 1023, sequence_offset: 0, mark_id: 0 }), ..valid() },
            FilterConfig { streams: Some(Streams { stream_offset: 0, sequence_offset: 1021, mark_id: 0 }), ..valid() },
        ] {
            assert!(matches!(config.to_constants(), Err(Error::Config(_))), "{config:?}");
        }
    }
}
