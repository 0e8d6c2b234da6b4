//! The packets of one stream in the order in which they leave the sender, kept until all receivers have looked at them.

use std::collections::VecDeque;

/// A header without what all packets of the stream have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Packed {
    pub(super) chunk: u32,
    pub(super) sequence: u32,
    pub(super) symbol: u16,
    pub(super) source_symbols: u16,
    pub(super) stream: u16,
}

impl Packed {
    /// Whether it carries no symbol: no chunk has K = 0.
    pub(super) fn is_sync(&self) -> bool {
        self.source_symbols == 0
    }
}

/// See the module's text. Packets are counted from the start of the run, whatever becomes of the sender.
#[derive(Debug, Default)]
pub(super) struct Wire {
    packets: VecDeque<(u64, Packed)>,
    first: u64,
    /// Packets with symbols in all.
    symbols: u64,
}

impl Wire {
    /// A packet leaves at `departs_ns`, no earlier than the one before it.
    pub(super) fn push(&mut self, departs_ns: u64, packet: Packed) {
        self.symbols += u64::from(!packet.is_sync());
        self.packets.push_back((departs_ns, packet));
    }

    /// Packet number `ordinal` and when it leaves.
    pub(super) fn get(&self, ordinal: u64) -> Option<(u64, Packed)> {
        self.packets.get(ordinal.checked_sub(self.first)? as usize).copied()
    }

    /// The first packet that leaves at `from_ns` or later.
    pub(super) fn first_from(&self, from_ns: u64) -> u64 {
        self.first + self.packets.partition_point(|&(departs_ns, _)| departs_ns < from_ns) as u64
    }

    /// Symbols that left before `time_ns`, which is not before the packets that are kept.
    pub(super) fn symbols_before(&self, time_ns: u64) -> u64 {
        let later = self.packets.iter().rev().take_while(|&&(departs_ns, _)| departs_ns >= time_ns);
        self.symbols - later.filter(|(_, packet)| !packet.is_sync()).count() as u64
    }

    /// Nobody will ask for packets before `ordinal`.
    pub(super) fn forget_before(&mut self, ordinal: u64) {
        let count = ordinal.saturating_sub(self.first).min(self.packets.len() as u64);
        self.packets.drain(..count as usize);
        self.first += count;
    }

    /// … nor for any that leave before `time_ns`.
    pub(super) fn forget_until(&mut self, time_ns: u64) {
        self.forget_before(self.first_from(time_ns));
    }
}
