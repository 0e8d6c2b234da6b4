//! The parameters that a sender and its receivers share for as long as a pack is served.

use crate::erasure;
use crate::ids::SessionId;
use crate::packet::{HEADER_BYTES, Header, Kind, TAG_BYTES};

/// IPv6 (40 bytes, no extension headers) and UDP (8 bytes): the larger of the two families, so that one symbol size fits both.
const NETWORK_HEADERS_BYTES: usize = 40 + 8;
/// Symbols are cut in steps of this: SIMD erasure code kernels work on 64-byte blocks.
const SYMBOL_STEP_BYTES: usize = 64;
/// Largest K that a session may use: K + R of a code over GF(2^8) is at most 256, and 200 + 56 is.
pub const SOURCE_SYMBOLS_MAX: usize = 200;

/// What the packets of a session have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionParameters {
    /// The session's id in every packet.
    pub session: SessionId,
    /// Size of every symbol; the last of a chunk is padded with zeros.
    pub symbol_bytes: u16,
    /// Chunks in the pack.
    pub chunk_count: u32,
    /// Stored bytes of the largest chunk that the pack may hold.
    pub chunk_bytes_max: u32,
}

/// Why parameters cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// The MTU leaves no room, or so little that a chunk would need more symbols than the erasure code has.
    #[error(
        "MTU {mtu_bytes} is too small: a chunk of {chunk_bytes_max} bytes would need more than {SOURCE_SYMBOLS_MAX} symbols; raise the MTU or pack with smaller chunks"
    )]
    Mtu {
        /// The MTU that was asked for.
        mtu_bytes: usize,
        /// The pack's chunk size.
        chunk_bytes_max: u32,
    },
    /// A peer sent a symbol size that is zero or no multiple of two, or too small for the chunk size.
    #[error("symbols of {symbol_bytes} bytes do not suit chunks of {chunk_bytes_max} bytes")]
    Symbol {
        /// The symbol size.
        symbol_bytes: u16,
        /// The pack's chunk size.
        chunk_bytes_max: u32,
    },
}

impl SessionParameters {
    /// Checks parameters that came from a peer.
    ///
    /// # Errors
    /// [`ParameterError::Symbol`] when the sizes cannot work together.
    pub fn checked(self) -> Result<SessionParameters, ParameterError> {
        let odd = !usize::from(self.symbol_bytes).is_multiple_of(SYMBOL_STEP_BYTES);
        if self.symbol_bytes == 0 || odd || usize::from(self.source_symbols(self.chunk_bytes_max)) > SOURCE_SYMBOLS_MAX {
            return Err(ParameterError::Symbol { symbol_bytes: self.symbol_bytes, chunk_bytes_max: self.chunk_bytes_max });
        }
        Ok(self)
    }

    /// K of a chunk of `stored_bytes`: at least 1.
    pub fn source_symbols(&self, stored_bytes: u32) -> u16 {
        let symbols = stored_bytes.div_ceil(u32::from(self.symbol_bytes).max(1)).max(1);
        u16::try_from(symbols).unwrap_or(u16::MAX)
    }

    /// K of the largest chunk.
    pub fn source_symbols_max(&self) -> u16 {
        self.source_symbols(self.chunk_bytes_max)
    }

    /// Bytes of a packet's UDP payload.
    pub fn payload_bytes(&self) -> usize {
        HEADER_BYTES + usize::from(self.symbol_bytes)
    }

    /// Length of full packets from the IP header on: what an MTU must have room for.
    pub fn packet_bytes(&self, is_ipv6: bool) -> usize {
        let headers_bytes = if is_ipv6 { NETWORK_HEADERS_BYTES } else { 20 + 8 };
        headers_bytes + self.payload_bytes()
    }

    /// Whether a packet with a sound CRC fits this session, given the stored size of its chunk: right session, right K, a symbol that
    /// the code has, and a symbol of the right length. `stored_bytes` is asked only for chunk ids within range.
    pub fn admits(&self, header: &Header, symbol: &[u8], stored_bytes: impl FnOnce(u32) -> Option<u32>) -> bool {
        self.admits_length(header, symbol.len(), stored_bytes)
    }

    /// As [`SessionParameters::admits`] for one who has only the symbol's length, such as a state machine that never sees bytes.
    pub fn admits_length(&self, header: &Header, symbol_bytes: usize, stored_bytes: impl FnOnce(u32) -> Option<u32>) -> bool {
        if header.session != self.session {
            return false;
        }
        match header.kind {
            Kind::Sync => header.chunk.0 == self.chunk_count,
            Kind::Symbol => {
                header.chunk.0 < self.chunk_count
                    && symbol_bytes == usize::from(self.symbol_bytes)
                    && stored_bytes(header.chunk.0).is_some_and(|bytes| {
                        let k = self.source_symbols(bytes);
                        header.source_symbols == k && header.symbol.0 < k + erasure::repair_symbols(k)
                    })
            }
        }
    }
}

/// The symbol size for an MTU: the largest multiple of 64 that fits IPv6, UDP, our header and an authentication tag, then the
/// smallest one with the same K for a full chunk, so that padding of the last symbol wastes least.
/// 1408 at MTU 1500 (K = 187, 0.44 % padding), 8768 at MTU 9000 (K = 30, 0.34 %), for chunks of 256 KiB.
///
/// # Errors
/// [`ParameterError::Mtu`] when a chunk would need more than [`SOURCE_SYMBOLS_MAX`] symbols.
pub fn symbol_bytes_for_mtu(mtu_bytes: usize, chunk_bytes_max: u32) -> Result<u16, ParameterError> {
    let error = ParameterError::Mtu { mtu_bytes, chunk_bytes_max };
    let room = mtu_bytes.saturating_sub(NETWORK_HEADERS_BYTES + HEADER_BYTES + TAG_BYTES).min(usize::from(u16::MAX));
    let largest = room / SYMBOL_STEP_BYTES * SYMBOL_STEP_BYTES;
    let chunk_bytes = (chunk_bytes_max as usize).max(1);
    if largest == 0 {
        return Err(error);
    }
    let source_symbols = chunk_bytes.div_ceil(largest);
    if source_symbols > SOURCE_SYMBOLS_MAX {
        return Err(error);
    }
    let tight = chunk_bytes.div_ceil(source_symbols).next_multiple_of(SYMBOL_STEP_BYTES);
    u16::try_from(tight.min(largest)).map_err(|_| error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ChunkId, Sequence, StreamId, SymbolIndex};

    const CHUNK_BYTES: u32 = 256 * 1024;

    fn session() -> SessionParameters {
        SessionParameters { session: SessionId(1), symbol_bytes: 1408, chunk_count: 10, chunk_bytes_max: CHUNK_BYTES }
    }

    #[test]
    fn symbol_size_follows_the_mtu() {
        assert_eq!(symbol_bytes_for_mtu(1500, CHUNK_BYTES), Ok(1408));
        assert_eq!(symbol_bytes_for_mtu(9000, CHUNK_BYTES), Ok(8768));
        assert!(symbol_bytes_for_mtu(1280, CHUNK_BYTES).is_err(), "K would be 229");
        assert!(symbol_bytes_for_mtu(0, CHUNK_BYTES).is_err());
    }

    #[test]
    fn a_full_packet_with_its_tag_fits_an_ipv6_datagram_of_the_mtu() {
        for mtu_bytes in 1436..9100 {
            let symbol = usize::from(symbol_bytes_for_mtu(mtu_bytes, CHUNK_BYTES).unwrap());
            assert!(symbol + HEADER_BYTES + TAG_BYTES + NETWORK_HEADERS_BYTES <= mtu_bytes);
            let parameters = SessionParameters { symbol_bytes: symbol as u16, ..session() };
            assert_eq!(parameters.checked(), Ok(parameters));
        }
    }

    #[test]
    fn only_packets_that_fit_the_session_are_admitted() {
        let good = Header {
            kind: Kind::Symbol,
            session: SessionId(1),
            chunk: ChunkId(9),
            symbol: SymbolIndex(187 + 47),
            source_symbols: 187,
            sequence: Sequence(0),
            stream: StreamId(0),
        };
        let symbol = [0; 1408];
        let admits = |header: Header, symbol: &[u8]| session().admits(&header, symbol, |_| Some(CHUNK_BYTES));
        assert!(admits(good, &symbol));
        assert!(!admits(good, &symbol[1..]), "short symbol");
        assert!(!admits(Header { session: SessionId(2), ..good }, &symbol));
        assert!(!admits(Header { chunk: ChunkId(10), ..good }, &symbol));
        assert!(!admits(Header { source_symbols: 186, ..good }, &symbol));
        assert!(!admits(Header { symbol: SymbolIndex(187 + 48), ..good }, &symbol));
        assert!(admits(Header::sync(SessionId(1), 10, StreamId(0), Sequence(0)), &[]));
        assert!(!admits(Header::sync(SessionId(1), 9, StreamId(0), Sequence(0)), &[]));
    }
}
