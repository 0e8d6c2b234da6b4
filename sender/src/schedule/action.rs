//! What goes into the scheduler and what comes out of it: events, groups of packets to send, totals.

use wire::report::{ChunkRange, Report};
use wire::session::SessionParameters;
use wire::{ChunkId, Micros, Sequence, StreamId, SymbolIndex};

/// A receiver on the sender's list. A receiver that comes back gets a new one or its old one after [`Event::Left`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiverId(pub u64);

/// What the scheduler works with for as long as it lives.
#[derive(Clone, Debug)]
pub struct ScheduleConfig {
    /// The session's parameters.
    pub parameters: SessionParameters,
    /// K of each chunk, by chunk id; `chunk_count` of them.
    pub source_symbols: Vec<u16>,
    /// The streams to send on; at least one.
    pub streams: Vec<StreamId>,
    /// Never send faster than this, all streams together, counted as frames on the wire.
    pub rate_cap_bits_per_second: u64,
    /// Never slow down below this (or the cap, when that is lower).
    pub rate_floor_bits_per_second: u64,
    /// Bytes that a packet has on the wire beyond its UDP payload: 42 for Ethernet, IPv4 and UDP, 62 for IPv6, 4 more per VLAN tag.
    pub frame_overhead_bytes: u32,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A receiver is on the list and wants these chunks. Ranges outside the pack are ignored; a receiver that is listed already
    /// starts anew.
    Joined {
        /// Who.
        receiver: ReceiverId,
        /// What it wants.
        want: Vec<ChunkRange>,
    },
    /// A report came.
    Reported {
        /// Whose.
        receiver: ReceiverId,
        /// What it says.
        report: Report,
    },
    /// What a listed receiver wants is of this priority from now on; 0 when it was never said since it joined. Chunks of a higher priority go before those of a
    /// lower one. At most 16 priorities are told apart at a time; what comes beyond is served with the nearest.
    Prioritized {
        /// Whose.
        receiver: ReceiverId,
        /// Higher goes first.
        priority: i16,
    },
    /// A receiver is off the list: complete, failed or gone. Its demand goes with it.
    Left {
        /// Who.
        receiver: ReceiverId,
    },
}

/// What a stream does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send these packets, then a sync at [`Group::sync_sequence`].
    Group(Group),
    /// Send one sync.
    Sync {
        /// Its sequence number.
        sequence: Sequence,
    },
    /// Send nothing. Ask again after the next event, or at `until` when there was none.
    Wait {
        /// When something may be due although nothing happened; `None`: nobody wants anything.
        until: Option<Micros>,
    },
}

/// Chunks of one group at most.
pub const GROUP_CHUNKS_MAX: usize = 64;

/// Symbols of several chunks that are sent interleaved, one symbol of each chunk in turn, and a sync behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The stream that it goes out on.
    pub stream: StreamId,
    /// Sequence number of its first packet; the others follow without a gap.
    pub first_sequence: Sequence,
    /// The chunks, each with at least one symbol.
    pub chunks: Vec<ChunkSymbols>,
}

/// The symbols of one chunk in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSymbols {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its K: indices below are source symbols, from K on repair symbols.
    pub source_symbols: u16,
    /// Which symbols, in the order of sending; none twice.
    pub symbols: Vec<SymbolIndex>,
}

impl ChunkSymbols {
    /// Whether repair symbols have to be encoded for it.
    pub fn needs_repair_symbols(&self) -> bool {
        self.symbols.iter().any(|symbol| symbol.0 >= self.source_symbols)
    }
}

impl Group {
    /// The packets in the order of sending: index in `chunks`, and symbol. Packet `i` has sequence `first_sequence.after(i)`.
    pub fn packets(&self) -> impl Iterator<Item = (usize, SymbolIndex)> + '_ {
        let rounds = self.chunks.iter().map(|chunk| chunk.symbols.len()).max().unwrap_or(0);
        (0..rounds).flat_map(move |round| {
            let of_chunk = move |(index, chunk): (usize, &ChunkSymbols)| chunk.symbols.get(round).map(|&symbol| (index, symbol));
            self.chunks.iter().enumerate().filter_map(of_chunk)
        })
    }

    /// How many packets carry symbols; the sync is one more.
    pub fn packet_count(&self) -> u32 {
        // At most 64 chunks of at most 256 symbols.
        self.chunks.iter().map(|chunk| chunk.symbols.len() as u32).sum()
    }

    /// Sequence number of the sync that follows the group.
    pub fn sync_sequence(&self) -> Sequence {
        self.first_sequence.after(self.packet_count())
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets with symbols that were handed out.
    pub symbols_sent: u64,
    /// Of those, repair symbols.
    pub repair_symbols_sent: u64,
    /// K of every chunk that was sent at all, once: what one receiver without loss would need of them.
    pub symbols_needed: u64,
    /// Groups that were handed out.
    pub groups_sent: u64,
    /// Syncs, those behind groups included.
    pub syncs_sent: u64,
    /// Symbols that receivers were asked to fetch by unicast, because to multicast them would have cost more.
    pub symbols_by_unicast: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_a_group_are_interleaved_and_the_sync_follows_them() {
        let chunk = |id, symbols: &[u16]| ChunkSymbols {
            chunk: ChunkId(id),
            source_symbols: 2,
            symbols: symbols.iter().map(|&symbol| SymbolIndex(symbol)).collect(),
        };
        let group = Group {
            stream: StreamId(0),
            first_sequence: Sequence(u32::MAX),
            chunks: vec![chunk(7, &[0, 1, 2]), chunk(9, &[3]), chunk(11, &[0, 1])],
        };
        let order: Vec<_> = group.packets().map(|(index, symbol)| (index, symbol.0)).collect();
        assert_eq!(order, [(0, 0), (1, 3), (2, 0), (0, 1), (2, 1), (0, 2)]);
        assert_eq!(group.packet_count(), 6);
        assert_eq!(group.sync_sequence(), Sequence(5));
        assert!(group.chunks[0].needs_repair_symbols());
        assert!(!group.chunks[2].needs_repair_symbols());
    }
}
