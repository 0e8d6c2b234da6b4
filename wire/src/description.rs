//! The descriptive stream: what a receiver must know of its image before data means anything to it (the manifest, and the proof of a signed
//! pack behind it), multicast once to many receivers that wait for the same.
//!
//! Its packets are those of [`crate::packet`]. The session id is the first four bytes of the description's hash, so that descriptions of
//! several images share one group without being mixed up; the chunk id counts *blocks*, pieces of the description that are as large as
//! the largest chunk of the pack. Up to 16 blocks are interleaved; behind the source symbols of each come a few repair symbols. Nothing
//! here is trusted: the hash of the whole is said at enrolment, over the control connection.

use crate::erasure::{Decoder, Encoder, repair_symbols};
use crate::ids::{ChunkId, Sequence, SessionId, StreamId, SymbolIndex};
use crate::packet::{HEADER_BYTES, Header, Kind};
use crate::session::SessionParameters;
use crate::symbol::Symbol;
use std::ops::Range;

/// The stream id in every packet; no stream of chunks has it.
pub const STREAM: StreamId = StreamId(u16::MAX);
/// Larger descriptions are fetched by unicast: 64 MiB take more than five seconds at the rate that they are sent at.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Blocks that are interleaved, as chunks are.
const INTERLEAVED_BLOCKS: usize = 16;
/// One loss in a hundred is expected, and twice as many are mended.
const REPAIR_PERCENT: u16 = 2;
/// What short blocks have on top: the chance to lose a few of few.
const REPAIR_LEAST: u16 = 2;

/// The shape of one description: how it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    parameters: SessionParameters,
    bytes: usize,
}

impl Shape {
    /// Of a description of `bytes` with this BLAKE3 hash, whose data goes by `session`. `None` when it is empty or larger than
    /// [`BYTES_MAX`].
    pub fn new(hash: &[u8; 32], bytes: usize, session: &SessionParameters) -> Option<Shape> {
        let block_bytes = session.chunk_bytes_max as usize;
        if !(1..=BYTES_MAX).contains(&bytes) || block_bytes == 0 {
            return None;
        }
        let chunk_count = u32::try_from(bytes.div_ceil(block_bytes)).ok()?;
        let [a, b, c, d, ..] = *hash;
        let parameters = SessionParameters { session: SessionId(u32::from_be_bytes([a, b, c, d])), chunk_count, ..*session };
        Some(Shape { parameters, bytes })
    }

    /// How many blocks it has.
    pub fn block_count(&self) -> u32 {
        self.parameters.chunk_count
    }

    /// Where a block's bytes stand in the description; empty for a block that it does not have.
    pub fn block(&self, block: u32) -> Range<usize> {
        let block_bytes = self.parameters.chunk_bytes_max as usize;
        let start = (block as usize).saturating_mul(block_bytes).min(self.bytes);
        start..(start + block_bytes).min(self.bytes)
    }

    /// Bytes of each packet's UDP payload.
    pub fn payload_bytes(&self) -> usize {
        self.parameters.payload_bytes()
    }

    fn source_symbols(&self, block: u32) -> u16 {
        self.parameters.source_symbols(self.block(block).len() as u32)
    }

    fn symbol_bytes(&self) -> usize {
        self.parameters.symbol_bytes.into()
    }
}

/// UDP payloads of a description, in the order of sending, made as they are asked for.
pub struct Packets<'a> {
    shape: Shape,
    description: &'a [u8],
    next_block: u32,
    sequence: Sequence,
    ready: std::vec::IntoIter<Vec<u8>>,
}

impl<'a> Packets<'a> {
    /// All packets of `description`, which has this shape; `first` is the sequence number of the first.
    pub fn new(shape: Shape, description: &'a [u8], first: Sequence) -> Packets<'a> {
        Packets { shape, description, next_block: 0, sequence: first, ready: Vec::new().into_iter() }
    }

    /// The number that follows those of the packets made so far.
    pub fn next_sequence(&self) -> Sequence {
        self.sequence
    }

    /// The packets of the next blocks; none when all have been made.
    fn interleaved(&mut self) -> Vec<Vec<u8>> {
        let last = self.shape.block_count().min(self.next_block + INTERLEAVED_BLOCKS as u32);
        let blocks: Vec<(u32, u16, Vec<u8>)> = (self.next_block..last).filter_map(|block| self.cells(block)).collect();
        self.next_block = last;
        let longest = blocks.iter().map(|(_, _, cells)| cells.len()).max().unwrap_or(0) / self.shape.symbol_bytes();
        let mut packets = Vec::new();
        for index in 0..longest {
            for (block, source_symbols, cells) in &blocks {
                let start = index * self.shape.symbol_bytes();
                let Some(symbol) = cells.get(start..start + self.shape.symbol_bytes()) else { continue };
                let header = Header {
                    kind: Kind::Symbol,
                    session: self.shape.parameters.session,
                    chunk: ChunkId(*block),
                    symbol: SymbolIndex(index as u16),
                    source_symbols: *source_symbols,
                    sequence: self.sequence,
                    stream: STREAM,
                };
                self.sequence = Sequence(self.sequence.0.wrapping_add(1));
                let mut head = [0; HEADER_BYTES];
                header.write(&mut head, Symbol::new(symbol));
                packets.push([head.as_slice(), symbol].concat());
            }
        }
        packets
    }

    /// A block's K, its source symbols and the repair symbols that are sent with them.
    fn cells(&self, block: u32) -> Option<(u32, u16, Vec<u8>)> {
        let source_symbols = self.shape.source_symbols(block);
        let repairs = (source_symbols * REPAIR_PERCENT).div_ceil(100).saturating_add(REPAIR_LEAST).min(repair_symbols(source_symbols));
        let source_bytes = usize::from(source_symbols) * self.shape.symbol_bytes();
        let mut cells = self.description.get(self.shape.block(block))?.to_vec();
        cells.resize(source_bytes + usize::from(repairs) * self.shape.symbol_bytes(), 0);
        let (source, repair) = cells.split_at_mut(source_bytes);
        // The sizes are right by construction; without repairs the block would still be of use.
        let made = Encoder::new(self.shape.parameters.symbol_bytes).encode_some(source_symbols, source, 0..repairs, repair);
        if made.is_err() {
            cells.truncate(source_bytes);
        }
        Some((block, source_symbols, cells))
    }
}

impl Iterator for Packets<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(packet) = self.ready.next() {
            return Some(packet);
        }
        self.ready = self.interleaved().into_iter();
        self.ready.next()
    }
}

/// Puts a description together from packets that may be lost, doubled, out of order, foreign or forged.
pub struct Gathering {
    shape: Shape,
    blocks: Vec<Block>,
    lacking: u32,
}

/// One block on its way.
struct Block {
    /// Room for K symbols, or exactly the block's bytes once it is whole.
    bytes: Vec<u8>,
    /// Which source symbols are there; empty once the block is whole.
    present: Vec<bool>,
    repairs: Vec<(SymbolIndex, Vec<u8>)>,
}

impl Block {
    fn is_whole(&self) -> bool {
        self.present.is_empty()
    }

    fn become_whole(&mut self, block_bytes: usize) {
        self.bytes.truncate(block_bytes);
        (self.present, self.repairs) = (Vec::new(), Vec::new());
    }
}

impl Gathering {
    /// Of nothing yet.
    pub fn new(shape: Shape) -> Gathering {
        let block = |block| {
            let source_symbols = usize::from(shape.source_symbols(block));
            Block { bytes: vec![0; source_symbols * shape.symbol_bytes()], present: vec![false; source_symbols], repairs: Vec::new() }
        };
        Gathering { shape, blocks: (0..shape.block_count()).map(block).collect(), lacking: shape.block_count() }
    }

    /// Takes a UDP payload if it is of this description. Answers whether it was of use.
    pub fn on_payload(&mut self, payload: &[u8]) -> bool {
        let Ok((header, symbol)) = Header::parse(payload) else { return false };
        let stored_bytes = |block| u32::try_from(self.shape.block(block).len()).ok();
        if header.kind != Kind::Symbol || header.stream != STREAM || !self.shape.parameters.admits(&header, symbol, stored_bytes) {
            return false;
        }
        let Some(block) = self.blocks.get_mut(header.chunk.0 as usize).filter(|block| !block.is_whole()) else { return false };
        let index = usize::from(header.symbol.0);
        match block.present.get_mut(index) {
            Some(true) => return false,
            Some(present) => {
                *present = true;
                block.bytes[index * symbol.len()..(index + 1) * symbol.len()].copy_from_slice(symbol);
            }
            None if block.repairs.iter().any(|(known, _)| *known == header.symbol) => return false,
            None => block.repairs.push((header.symbol, symbol.to_vec())),
        }
        let missing = block.present.iter().filter(|present| !**present).count();
        if missing > block.repairs.len() {
            return true;
        }
        let Block { bytes, present, repairs } = block;
        let repairs = repairs.iter().map(|(index, symbol)| (*index, symbol.as_slice()));
        let is_present = |index: SymbolIndex| present[usize::from(index.0)];
        let mut decoder = Decoder::new(self.shape.parameters.symbol_bytes);
        if decoder.decode(header.source_symbols, bytes, is_present, repairs).is_ok() {
            block.become_whole(self.shape.block(header.chunk.0).len());
            self.lacking -= 1;
        }
        true
    }

    /// Takes a whole block that came by unicast. Answers whether the description has such a block of that size.
    pub fn supply(&mut self, block: u32, bytes: Vec<u8>) -> bool {
        let expected = self.shape.block(block).len();
        let Some(place) = self.blocks.get_mut(block as usize).filter(|_| bytes.len() == expected) else { return false };
        if !place.is_whole() {
            self.lacking -= 1;
        }
        place.bytes = bytes;
        place.become_whole(expected);
        true
    }

    /// How many blocks the description has.
    pub fn block_count(&self) -> u32 {
        self.shape.block_count()
    }

    /// Whether nothing is lacking.
    pub fn is_whole(&self) -> bool {
        self.lacking == 0
    }

    /// The blocks that are not whole, ascending.
    pub fn lacking(&self) -> Vec<u32> {
        (0..).zip(&self.blocks).filter(|(_, block)| !block.is_whole()).map(|(block, _)| block).collect()
    }

    /// The description, its hash unchecked; `None` while something is lacking.
    pub fn into_description(self) -> Option<Vec<u8>> {
        self.is_whole().then(|| self.blocks.into_iter().flat_map(|block| block.bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: [u8; 32] = [0xAB; 32];

    fn session() -> SessionParameters {
        SessionParameters { session: SessionId(1), symbol_bytes: 1408, chunk_count: 9, chunk_bytes_max: 32 * 1024 }
    }

    fn description(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
    }

    fn packets(description: &[u8]) -> (Shape, Vec<Vec<u8>>) {
        let shape = Shape::new(&HASH, description.len(), &session()).unwrap();
        (shape, Packets::new(shape, description, Sequence(u32::MAX)).collect())
    }

    #[test]
    fn a_description_is_neither_empty_nor_huge() {
        let shape = |bytes| Shape::new(&HASH, bytes, &session());
        assert_eq!((shape(0), shape(BYTES_MAX + 1)), (None, None));
        assert_eq!(shape(1).unwrap().block_count(), 1);
        assert_eq!(shape(BYTES_MAX).unwrap().block_count(), 2048);
    }

    #[test]
    fn packets_of_others_and_twice_the_same_are_of_no_use() {
        let (shape, sent) = packets(&description(5000));
        let mut gathering = Gathering::new(shape);
        let other = Shape::new(&[0xAC; 32], 5000, &session()).unwrap();
        let of_other: Vec<_> = Packets::new(other, &description(5000), Sequence(0)).collect();
        assert!(of_other.iter().all(|packet| !gathering.on_payload(packet)));
        assert!(gathering.on_payload(&sent[0]));
        assert!(!gathering.on_payload(&sent[0]));
        let mut damaged = sent[1].clone();
        damaged[HEADER_BYTES] ^= 1;
        assert!(!gathering.on_payload(&damaged) && !gathering.on_payload(&sent[1][..HEADER_BYTES + 7]) && !gathering.on_payload(&[]));
        assert_eq!(gathering.lacking(), [0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is lost, what is not whole is named, and together with it the description is what it was.
        #[test]
        fn lost_packets_leave_named_blocks(
            bytes in 1_usize..700_000,
            keep_percent in prop::sample::select(vec![100_u32, 99, 90, 0]),
            seed in any::<u32>(),
        ) {
            let sent = description(bytes);
            let (shape, packets) = packets(&sent);
            let mut gathering = Gathering::new(shape);
            let mut state = seed | 1;
            let mut lost = 0;
            for packet in packets.iter().rev() {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if state >> 8 < (1 << 24) / 100 * keep_percent || keep_percent == 100 {
                    gathering.on_payload(packet);
                } else {
                    lost += 1;
                }
            }
            if lost == 0 {
                prop_assert!(gathering.is_whole());
            }
            for block in gathering.lacking() {
                prop_assert!(!gathering.supply(block, vec![0; shape.block(block).len() + 1]));
                prop_assert!(gathering.supply(block, sent[shape.block(block)].to_vec()));
            }
            prop_assert!(!gathering.supply(shape.block_count(), Vec::new()));
            prop_assert!(gathering.into_description() == Some(sent));
        }

        /// Any two symbols of a short block may be lost, and more of a long one.
        #[test]
        fn the_repairs_mend_what_they_should(bytes in 1_usize..33_000, first in any::<prop::sample::Index>(), second in any::<prop::sample::Index>()) {
            let sent = description(bytes);
            let (shape, packets) = packets(&sent[..bytes.min(32 * 1024)]);
            let lost = [first.index(packets.len()), second.index(packets.len())];
            let mut gathering = Gathering::new(shape);
            for (at, packet) in packets.iter().enumerate() {
                if !lost.contains(&at) {
                    gathering.on_payload(packet);
                }
            }
            prop_assert!(gathering.into_description().as_deref() == Some(&sent[..bytes.min(32 * 1024)]));
        }
    }
}
