//! The discus packet: the UDP payload of everything that is multicast.
//!
//! Big-endian (network byte order), at fixed offsets, because a filter in the kernel tests them:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 2 | magic `0xD15C` |
//! | 2 | 1 | version, 2 |
//! | 3 | 1 | kind: 0 symbol, 1 sync |
//! | 4 | 4 | session id |
//! | 8 | 4 | chunk id (in a sync: the number of chunks, an id that every receiver's filter lets pass) |
//! | 12 | 2 | symbol index (in a sync: 0) |
//! | 14 | 2 | K, the number of source symbols of the chunk (in a sync: 0) |
//! | 16 | 4 | sequence number of the packet in its stream |
//! | 20 | 2 | stream id |
//! | 22 | 2 | reserved, 0 |
//! | 24 | 4 | CRC-32 (IEEE 802.3) over the symbol and then bytes 0–23: that of a symbol is computed once, however often it is sent |
//! | 28 | symbol size | symbol (absent in a sync) |
//!
//! A *sync* follows each interleaved group of chunks on the path that the data takes: a receiver that has it knows that everything of
//! the stream with a lower sequence number has arrived or is lost, although its filter hid what it does not want.

use crate::ids::{ChunkId, Sequence, SessionId, StreamId, SymbolIndex};
use crate::symbol::Symbol;

/// First two bytes of every packet.
pub const MAGIC: u16 = 0xD15C;
/// Version of this layout.
pub const VERSION: u8 = 2;
/// Bytes of the header, CRC included.
pub const HEADER_BYTES: usize = 28;
/// Room left behind the symbol for an authentication tag (AES-GMAC or Poly1305 size), so that adding one changes no symbol size.
pub const TAG_BYTES: usize = 16;
/// Where the chunk id stands.
pub const CHUNK_ID_OFFSET: usize = 8;
/// Where the sequence number stands.
pub const SEQUENCE_OFFSET: usize = 16;
/// Where the stream id stands.
pub const STREAM_ID_OFFSET: usize = 20;
/// Where the eight bytes stand that [`filter_match`] describes.
pub const MATCH_OFFSET: usize = 0;

const CRC_OFFSET: usize = 24;

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One symbol of a chunk.
    Symbol,
    /// A position mark; see the module's text.
    Sync,
}

/// A parsed header. Numbers are in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// Whose packet it is.
    pub session: SessionId,
    /// The chunk that the symbol belongs to.
    pub chunk: ChunkId,
    /// Which symbol of the chunk.
    pub symbol: SymbolIndex,
    /// K of the chunk.
    pub source_symbols: u16,
    /// Position in the stream.
    pub sequence: Sequence,
    /// The stream it was sent on.
    pub stream: StreamId,
}

/// Why bytes are not a discus packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than a header.
    #[error("{0} bytes are too few for a header of {HEADER_BYTES}")]
    Truncated(usize),
    /// Not ours.
    #[error("magic is not {MAGIC:#06x}")]
    Magic,
    /// From a newer or broken sender.
    #[error("packet version {0} is not {VERSION}")]
    Version(u8),
    /// Neither symbol nor sync, or reserved bits are set.
    #[error("unknown packet kind or reserved bits")]
    Kind,
    /// Damaged on the way, or forged.
    #[error("CRC-32 does not match")]
    Crc,
}

/// The value and the mask under which the eight bytes at [`MATCH_OFFSET`] (big-endian) equal in every packet of `session`: magic,
/// version and session id count, the kind does not.
pub fn filter_match(session: SessionId) -> (u64, u64) {
    let value = u64::from(MAGIC) << 48 | u64::from(VERSION) << 40 | u64::from(session.0);
    (value, 0xFFFF_FF00_FFFF_FFFF)
}

impl Header {
    /// The sync of `stream` at `sequence` in a session of `chunk_count` chunks.
    pub fn sync(session: SessionId, chunk_count: u32, stream: StreamId, sequence: Sequence) -> Header {
        Header { kind: Kind::Sync, session, chunk: ChunkId(chunk_count), symbol: SymbolIndex(0), source_symbols: 0, sequence, stream }
    }

    /// Writes the header with its CRC over it and `symbol`, whose bytes are not looked at. The caller places them right behind it.
    pub fn write(&self, out: &mut [u8; HEADER_BYTES], symbol: Symbol<'_>) {
        out[0..2].copy_from_slice(&MAGIC.to_be_bytes());
        out[2] = VERSION;
        out[3] = match self.kind {
            Kind::Symbol => 0,
            Kind::Sync => 1,
        };
        out[4..8].copy_from_slice(&self.session.0.to_be_bytes());
        out[8..12].copy_from_slice(&self.chunk.0.to_be_bytes());
        out[12..14].copy_from_slice(&self.symbol.0.to_be_bytes());
        out[14..16].copy_from_slice(&self.source_symbols.to_be_bytes());
        out[16..20].copy_from_slice(&self.sequence.0.to_be_bytes());
        out[20..22].copy_from_slice(&self.stream.0.to_be_bytes());
        out[22..24].fill(0);
        let crc = checksum(symbol.crc(), &out[..CRC_OFFSET]);
        out[CRC_OFFSET..].copy_from_slice(&crc.to_be_bytes());
    }

    /// Parses `payload` (a whole UDP payload) into its header and symbol and checks the CRC.
    ///
    /// # Errors
    /// [`ParseError`] says what is wrong with it. Whether session, chunk, K, symbol index and length make sense is for
    /// [`crate::session::SessionParameters::admits`] to say, which knows them.
    pub fn parse(payload: &[u8]) -> Result<(Header, &[u8]), ParseError> {
        let Some((header, symbol)) = payload.split_first_chunk::<HEADER_BYTES>() else {
            return Err(ParseError::Truncated(payload.len()));
        };
        let u16_at = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if u16_at(0) != MAGIC {
            return Err(ParseError::Magic);
        }
        if header[2] != VERSION {
            return Err(ParseError::Version(header[2]));
        }
        let kind = match (header[3], u16_at(22)) {
            (0, 0) => Kind::Symbol,
            (1, 0) => Kind::Sync,
            _ => return Err(ParseError::Kind),
        };
        if u32_at(CRC_OFFSET) != checksum(crc32fast::hash(symbol), &header[..CRC_OFFSET]) {
            return Err(ParseError::Crc);
        }
        let parsed = Header {
            kind,
            session: SessionId(u32_at(4)),
            chunk: ChunkId(u32_at(CHUNK_ID_OFFSET)),
            symbol: SymbolIndex(u16_at(12)),
            source_symbols: u16_at(14),
            sequence: Sequence(u32_at(SEQUENCE_OFFSET)),
            stream: StreamId(u16_at(STREAM_ID_OFFSET)),
        };
        Ok((parsed, symbol))
    }
}

/// Goes on from the CRC-32 of the symbol with the header.
fn checksum(symbol_crc: u32, header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(symbol_crc);
    crc.update(header);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Header {
        Header {
            kind: Kind::Symbol,
            session: SessionId(0x0102_0304),
            chunk: ChunkId(0x0506_0708),
            symbol: SymbolIndex(0x090A),
            source_symbols: 0x00BB,
            sequence: Sequence(0x0C0D_0E0F),
            stream: StreamId(0x1011),
        }
    }

    fn packet(header: Header, symbol: &[u8]) -> Vec<u8> {
        let mut bytes = [0; HEADER_BYTES];
        header.write(&mut bytes, Symbol::new(symbol));
        [&bytes[..], symbol].concat()
    }

    /// The layout, byte for byte. A change here is a change of protocol version.
    #[test]
    fn golden_packet() {
        let golden = [
            0xD1, 0x5C, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0A, 0, 0xBB, 0x0C, 0x0D, 0x0E, 0x0F, 0x10, 0x11, 0, 0, 0xE6, 0x58, 0x2E, 0x6E,
            b'd', b'i', b's', b'c', b'u', b's',
        ];
        assert_eq!(packet(sample(), b"discus"), golden);
        assert_eq!(Header::parse(&golden), Ok((sample(), &b"discus"[..])));
    }

    #[test]
    fn filter_match_holds_for_every_kind_of_this_session_and_for_no_other() {
        let (value, mask) = filter_match(SessionId(7));
        let first_eight = |header: Header| {
            let bytes = packet(header, b"");
            u64::from_be_bytes(bytes[MATCH_OFFSET..MATCH_OFFSET + 8].try_into().unwrap())
        };
        let symbol = Header { session: SessionId(7), ..sample() };
        let sync = Header::sync(SessionId(7), 3, StreamId(0), Sequence(0));
        let other = Header { session: SessionId(8), ..sample() };
        assert_eq!(first_eight(symbol) & mask, value);
        assert_eq!(first_eight(sync) & mask, value);
        assert_ne!(first_eight(other) & mask, value);
    }

    proptest! {
        #[test]
        fn what_is_written_is_parsed(
            session: u32, chunk: u32, symbol: u16, source_symbols: u16, sequence: u32, stream: u16, sync: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let header = Header {
                kind: if sync { Kind::Sync } else { Kind::Symbol },
                session: SessionId(session), chunk: ChunkId(chunk), symbol: SymbolIndex(symbol),
                source_symbols, sequence: Sequence(sequence), stream: StreamId(stream),
            };
            let bytes = packet(header, &payload);
            prop_assert_eq!(Header::parse(&bytes), Ok((header, &payload[..])));
        }

        #[test]
        fn any_flipped_bit_is_refused(at in 0usize..(HEADER_BYTES + 6) * 8) {
            let mut bytes = packet(sample(), b"discus");
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(Header::parse(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_parsed_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Header::parse(&bytes);
        }

        #[test]
        fn hostile_headers_behind_our_magic_are_refused(tail in proptest::collection::vec(any::<u8>(), 26..100)) {
            let bytes = [&MAGIC.to_be_bytes()[..], &tail].concat();
            prop_assert!(Header::parse(&bytes).is_err(), "a CRC-32 guessed by chance");
        }
    }
}
