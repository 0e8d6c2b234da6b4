//! The numbers that name things on the wire, each a type of its own so that none can stand in for another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A chunk of the pack: dense from 0.
    ChunkId(u32)
}
id! {
    /// A symbol of a chunk: `0..K` are source symbols, `K..K+R` repair symbols.
    SymbolIndex(u16)
}
id! {
    /// A stream of the session: one multicast group and port.
    StreamId(u16)
}
id! {
    /// Tells this session's packets from those of any other on the same port.
    SessionId(u32)
}

impl ChunkId {
    /// As an index into a table of chunks.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A moment, in microseconds since a start that each program chooses. The state machines take time as a value and never look at a
/// clock, so that a simulator can run them; moments of two machines have nothing to do with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// The moment `us` microseconds later.
    #[must_use]
    pub fn after(self, us: u64) -> Micros {
        Micros(self.0.saturating_add(us))
    }

    /// Microseconds from `earlier` to `self`; 0 when `earlier` is not earlier.
    pub fn since(self, earlier: Micros) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Position of a packet in its stream. It wraps; compare with [`Sequence::since`] only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sequence(pub u32);

impl Sequence {
    /// How many packets `self` lies after `earlier`; negative when it lies before it. The two must be less than 2^31 packets
    /// apart (serial number arithmetic, RFC 1982): at 20 Mpps that is 107 seconds of one stream.
    pub fn since(self, earlier: Sequence) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// The position `packets` later.
    #[must_use]
    pub fn after(self, packets: u32) -> Sequence {
        Sequence(self.0.wrapping_add(packets))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_distance_survives_the_wrap() {
        assert_eq!(Sequence(3).since(Sequence(u32::MAX - 1)), 5);
        assert_eq!(Sequence(u32::MAX - 1).since(Sequence(3)), -5);
        assert_eq!(Sequence(u32::MAX).after(2), Sequence(1));
    }
}
