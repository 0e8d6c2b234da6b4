//! What the reader hands to a transmitter: a group of packets with the symbols they carry.

use super::cache::Chunk;
use crate::schedule::Group;
use crate::transmit::Packet;
use std::ops::Range;
use std::sync::Arc;
use wire::erasure::{self, Encoder};
use wire::packet::{Header, Kind};
use wire::session::SessionParameters;
use wire::{Checksums, ChunkId, Sequence, StreamId, Symbol, SymbolIndex};

/// Something to send on one stream.
pub(super) enum Job {
    /// Interleaved symbols, and the sync that follows them.
    Group {
        /// Which.
        group: Group,
        /// The symbols of each of its chunks, in its order.
        chunks: Vec<Symbols>,
        /// Its packets: index in `chunks`, and symbol.
        order: Vec<(u16, SymbolIndex)>,
    },
    /// A sync alone.
    Sync {
        /// Its stream.
        stream: StreamId,
        /// Its position.
        sequence: Sequence,
    },
}

impl Job {
    /// The packets of a group, whose symbols are `chunks` in its order.
    pub(super) fn group(group: Group, chunks: Vec<Symbols>) -> Job {
        // At most 64 chunks.
        let order = group.packets().map(|(at, symbol)| (at as u16, symbol)).collect();
        Job::Group { group, chunks, order }
    }
}

/// Symbols of one chunk: all its sources, and the repair symbols of this job.
pub(super) struct Symbols {
    id: ChunkId,
    chunk: Arc<Chunk>,
    /// Repair symbols counted from K, of which `repair` holds the cells.
    made: Range<u16>,
    repair: Vec<u8>,
    /// Of each of the cells.
    checksums: Vec<Checksums>,
}

impl Symbols {
    /// Takes the symbols `wanted` of a chunk. Its repair symbols are made here: at some 6 µs each that costs less than keeping
    /// them, as the same one is hardly ever sent twice. `checksums` is of the family in which they go out.
    ///
    /// # Errors
    /// When the code has no such symbols.
    pub(super) fn new(
        id: ChunkId,
        chunk: Arc<Chunk>,
        wanted: &[SymbolIndex],
        encoder: &mut Encoder,
        checksums: fn(&[u8]) -> Checksums,
    ) -> Result<Symbols, erasure::Error> {
        let k = chunk.source_symbols();
        let repairs = || wanted.iter().filter_map(|index| index.0.checked_sub(k));
        let made = repairs().min().unwrap_or(0)..repairs().max().map_or(0, |last| last + 1);
        let symbol_bytes = chunk.sources().len() / usize::from(k.max(1));
        let mut repair = vec![0; made.len() * symbol_bytes];
        if !made.is_empty() {
            encoder.encode_some(k, chunk.sources(), made.clone(), &mut repair)?;
        }
        let checksums = repair.chunks_exact(symbol_bytes.max(1)).map(checksums).collect();
        Ok(Symbols { id, chunk, made, repair, checksums })
    }

    fn get(&self, index: SymbolIndex) -> Option<Symbol<'_>> {
        let k = self.chunk.source_symbols();
        let Some(repair) = index.0.checked_sub(k) else { return self.chunk.source(index) };
        let cell = usize::from(repair.checked_sub(self.made.start)?);
        let bytes = self.repair.chunks_exact((self.repair.len() / self.made.len().max(1)).max(1)).nth(cell)?;
        Some(Symbol::with_checksums(bytes, *self.checksums.get(cell)?))
    }
}

impl Job {
    /// The stream that it goes out on.
    pub(super) fn stream(&self) -> StreamId {
        match self {
            Job::Group { group, .. } => group.stream,
            Job::Sync { stream, .. } => *stream,
        }
    }

    /// The packet at `position` in the order of sending, the sync last; `None` beyond it.
    pub(super) fn packet<'a>(&'a self, position: usize, parameters: &SessionParameters) -> Option<Packet<'a>> {
        let sync = |stream, sequence| {
            let header = Header::sync(parameters.session, parameters.chunk_count, stream, sequence);
            Some(Packet { header, symbol: Symbol::empty() })
        };
        match self {
            Job::Sync { stream, sequence } => (position == 0).then(|| sync(*stream, *sequence)).flatten(),
            Job::Group { group, chunks, order } => {
                let Some(&(at, index)) = order.get(position) else {
                    return (position == order.len()).then(|| sync(group.stream, group.sync_sequence())).flatten();
                };
                let chunk = chunks.get(usize::from(at))?;
                let header = Header {
                    kind: Kind::Symbol,
                    session: parameters.session,
                    chunk: chunk.id,
                    symbol: index,
                    source_symbols: chunk.chunk.source_symbols(),
                    // A group has at most 64 chunks of at most 256 symbols.
                    sequence: group.first_sequence.after(position as u32),
                    stream: group.stream,
                };
                Some(Packet { header, symbol: chunk.get(index)? })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::ChunkSymbols;
    use image::restore::BufferPool;
    use wire::SessionId;

    const SYMBOL_BYTES: u16 = 64;

    fn parameters() -> SessionParameters {
        SessionParameters { session: SessionId(9), symbol_bytes: SYMBOL_BYTES, chunk_count: 50, chunk_bytes_max: 4096 }
    }

    /// A chunk of `k` symbols, each filled with its index.
    fn chunk(k: u16) -> Arc<Chunk> {
        let mut buffer = BufferPool::new(1, 4096).unwrap().take().unwrap();
        for (index, cell) in buffer.chunks_exact_mut(64).take(k.into()).enumerate() {
            cell.fill(index as u8);
        }
        Arc::new(Chunk::new(buffer, usize::from(k) * 64, k, 64, Checksums::for_ipv4).unwrap())
    }

    #[test]
    fn packets_carry_their_symbols_in_sequence_and_end_with_a_sync() {
        let (a, b) = (chunk(3), chunk(2));
        let indices = |list: &[u16]| list.iter().map(|&index| SymbolIndex(index)).collect::<Vec<_>>();
        let wanted = [indices(&[0, 1, 2, 5, 4]), indices(&[1])];
        let mut encoder = Encoder::new(SYMBOL_BYTES);
        let ids = [ChunkId(20), ChunkId(30)];
        let chunks = vec![
            Symbols::new(ids[0], Arc::clone(&a), &wanted[0], &mut encoder, Checksums::for_ipv4).unwrap(),
            Symbols::new(ids[1], b, &wanted[1], &mut encoder, Checksums::for_ipv4).unwrap(),
        ];
        let symbols = |at: usize, k| ChunkSymbols { chunk: ids[at], source_symbols: k, symbols: wanted[at].clone() };
        let group = Group { stream: StreamId(1), first_sequence: Sequence(u32::MAX), chunks: vec![symbols(0, 3), symbols(1, 2)] };
        let job = Job::group(group, chunks);
        let parameters = parameters();
        let packets: Vec<_> = (0..).map_while(|position| job.packet(position, &parameters)).collect();
        let order: Vec<_> = packets.iter().map(|packet| (packet.header.chunk.0, packet.header.symbol.0)).collect();
        assert_eq!(order, [(20, 0), (30, 1), (20, 1), (20, 2), (20, 5), (20, 4), (50, 0)]);
        for (at, packet) in packets.iter().enumerate() {
            assert_eq!(packet.header.sequence, Sequence(u32::MAX).after(at as u32));
            assert!(parameters.admits(&packet.header, packet.symbol.bytes(), |id| Some(if id == 20 { 192 } else { 128 })));
        }
        assert_eq!(packets[1].symbol, Symbol::new(&[1; 64]));
        assert_eq!(packets[6].header.kind, Kind::Sync);
        // Repair symbols are those of a full encoding.
        let mut all = vec![0; usize::from(erasure::repair_symbols(3)) * 64];
        encoder.encode(3, a.sources(), &mut all).unwrap();
        assert_eq!(packets[4].symbol, Symbol::new(&all[2 * 64..3 * 64]));
        assert_eq!(packets[5].symbol, Symbol::new(&all[64..2 * 64]));
    }

    #[test]
    fn a_symbol_that_the_code_does_not_have_is_an_error() {
        assert!(Symbols::new(ChunkId(0), chunk(3), &[SymbolIndex(200)], &mut Encoder::new(SYMBOL_BYTES), Checksums::for_ipv4).is_err());
    }
}
