//! The way from the sender's interface to one receiver: what it loses, delays, swaps and repeats.

use super::random::Random;
use super::scenario::{Receiver, frame_bits};

/// A burst of n packets lasts as long as n packets at 100 Mbit/s.
const BURST_NS_PER_PACKET: u64 = 120_000;

/// See the module's text. Times are in nanoseconds.
#[derive(Debug)]
pub(super) struct Path {
    random: Random,
    packets: u64,
    burst_left: u64,
    /// A burst is an event on the line: it ends in time even when hardly anything is sent.
    burst_until_ns: u64,
    /// When the narrowest link has sent everything that waits for it.
    busy_until_ns: u64,
    /// Packets lost, of those that the sender sent.
    pub(super) lost: u64,
}

impl Path {
    pub(super) fn new(random: Random) -> Path {
        Path { random, packets: 0, burst_left: 0, burst_until_ns: 0, busy_until_ns: 0, lost: 0 }
    }

    /// When a packet that leaves at `departs_ns` arrives: not at all, once or twice.
    pub(super) fn carry(&mut self, spec: &Receiver, departs_ns: u64) -> [Option<u64>; 2] {
        self.packets += 1;
        if departs_ns > self.burst_until_ns {
            self.burst_left = 0;
        }
        let begins = match spec.burst_once {
            Some((at, length)) if self.packets == at => Some(length),
            _ if self.burst_left == 0 && self.random.chance_ppm(spec.burst_ppm) => {
                Some(self.random.between(1, spec.burst_packets_max.max(1)))
            }
            _ => None,
        };
        if let Some(length) = begins {
            self.burst_left = length;
            self.burst_until_ns = departs_ns + length * BURST_NS_PER_PACKET;
        }
        let in_burst = self.burst_left > 0;
        self.burst_left = self.burst_left.saturating_sub(1);
        let service_ns = frame_bits() * 1_000_000_000 / spec.path_bits_per_second.max(1);
        let waiting = self.busy_until_ns.saturating_sub(departs_ns) / service_ns.max(1);
        if in_burst || self.random.chance_ppm(spec.loss_ppm) || waiting > spec.path_queue_packets {
            self.lost += 1;
            return [None, None];
        }
        self.busy_until_ns = self.busy_until_ns.max(departs_ns) + service_ns;
        let mut arrives_ns = self.busy_until_ns + spec.latency_us * 1_000;
        let twin = self.random.chance_ppm(spec.duplicate_ppm).then(|| arrives_ns + self.random.below(1_000_000));
        if self.random.chance_ppm(spec.reorder_ppm) {
            arrives_ns += self.random.between(1, spec.reorder_us.max(1)) * 1_000;
        }
        [Some(arrives_ns), twin]
    }
}
