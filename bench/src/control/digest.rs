//! What the sender would have multicast, in a few words: a way onto no network that tells the load generator, by one datagram a group,
//! how many symbols of which chunks it would have carried.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use sender::transmit::{Error, Mode, Packet, Transmit};
use wire::packet::Kind;

/// Of one chunk: its id, its K, and how many of its symbols went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) chunk: u32,
    pub(super) source_symbols: u16,
    pub(super) symbols: u16,
}

/// What went out between two syncs, and the second one's position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) sequence: u32,
    pub(super) parts: Vec<Part>,
}

/// Sequence number (4 bytes), then 8 bytes a part.
const HEAD_BYTES: usize = 4;
const PART_BYTES: usize = 8;
/// A group has 64 chunks at most; the limit of a datagram is far above.
pub(super) const DIGEST_BYTES_MAX: usize = HEAD_BYTES + 1024 * PART_BYTES;

impl Digest {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.sequence.to_be_bytes().to_vec();
        for part in &self.parts {
            bytes.extend(part.chunk.to_be_bytes());
            bytes.extend(part.source_symbols.to_be_bytes());
            bytes.extend(part.symbols.to_be_bytes());
        }
        bytes
    }

    /// None for what is not a digest.
    pub(super) fn parse(bytes: &[u8]) -> Option<Digest> {
        let (sequence, parts) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let (parts, []) = parts.as_chunks::<PART_BYTES>() else { return None };
        let part = |bytes: &[u8; PART_BYTES]| {
            let [a, b, c, d, e, f, g, h] = *bytes;
            Part {
                chunk: u32::from_be_bytes([a, b, c, d]),
                source_symbols: u16::from_be_bytes([e, f]),
                symbols: u16::from_be_bytes([g, h]),
            }
        };
        Some(Digest { sequence: u32::from_be_bytes(*sequence), parts: parts.iter().map(part).collect() })
    }
}

/// See the module's text.
pub(super) struct ToNobody {
    socket: UdpSocket,
    group: Digest,
}

impl ToNobody {
    /// Digests go to `listener`.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub(super) fn new(listener: SocketAddr) -> io::Result<ToNobody> {
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.connect(listener)?;
        Ok(ToNobody { socket, group: Digest::default() })
    }
}

impl Transmit for ToNobody {
    fn send(&mut self, packets: &[Packet<'_>]) -> Result<usize, Error> {
        for Packet { header, .. } in packets {
            if header.kind == Kind::Sync {
                self.group.sequence = header.sequence.0;
                // A digest that is lost is a group that nobody received: the protocol copes with that.
                let _ = self.socket.send(&self.group.to_bytes());
                self.group.parts.clear();
                continue;
            }
            match self.group.parts.iter_mut().find(|part| part.chunk == header.chunk.0) {
                Some(part) => part.symbols += 1,
                None => {
                    let part = Part { chunk: header.chunk.0, source_symbols: header.source_symbols, symbols: 1 };
                    self.group.parts.push(part);
                }
            }
        }
        Ok(packets.len())
    }

    fn flush(&mut self, _limit: Duration) -> bool {
        true
    }

    fn mode(&self) -> Mode {
        Mode::Udp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::packet::Header;
    use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

    #[test]
    fn a_group_arrives_as_what_was_sent_of_each_chunk() {
        let listener = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut nobody = ToNobody::new(listener.local_addr().unwrap()).unwrap();
        let symbol = |chunk, symbol| Packet {
            header: Header {
                kind: Kind::Symbol,
                session: SessionId(1),
                chunk: ChunkId(chunk),
                symbol: SymbolIndex(symbol),
                source_symbols: 187,
                sequence: Sequence(0),
                stream: StreamId(0),
            },
            symbol: Symbol::empty(),
        };
        let sync = Packet { header: Header::sync(SessionId(1), 9, StreamId(0), Sequence(77)), symbol: Symbol::empty() };
        assert_eq!(nobody.send(&[symbol(7, 0), symbol(8, 0), symbol(7, 1), sync]).unwrap(), 4);
        let mut bytes = [0; DIGEST_BYTES_MAX];
        let count = listener.recv(&mut bytes).unwrap();
        let part = |chunk, symbols| Part { chunk, source_symbols: 187, symbols };
        assert_eq!(Digest::parse(&bytes[..count]), Some(Digest { sequence: 77, parts: vec![part(7, 2), part(8, 1)] }));
        assert_eq!(Digest::parse(&bytes[..count - 1]), None);
    }
}
