//! The way from the sender's interface to one receiver: what it loses, delays, swaps and repeats.

use super::random::{Random, mixed};
use super::scenario::{Receiver, frame_bits};

/// A burst of n packets lasts as long as n packets at 100 Mbit/s.
const BURST_NS_PER_PACKET: u64 = 120_000;
/// The bad state of the Gilbert-Elliott model ends after this even when hardly anything is sent.
const BAD_STATE_NS_MAX: u64 = 20_000_000;

/// See the module's text. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Path {
    random: Random,
    packets: u64,
    burst_left: u64,
    /// A burst is an event on the line: it ends in time even when hardly anything is sent.
    burst_until_ns: u64,
    /// Until when the Gilbert-Elliott model's bad state lasts at most; 0 in the good state.
    bad_until_ns: u64,
    /// When the narrowest link has sent everything that waits for it.
    busy_until_ns: u64,
    /// Packets lost, of those that the sender sent.
    pub(super) lost: u64,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrivals {
    /// When it arrives in its turn.
    pub(super) in_turn_ns: Option<u64>,
    /// When it arrives behind others that left later: the packet itself, or a copy of it.
    pub(super) astray_ns: [Option<u64>; 2],
}

impl Path {
    pub(super) fn new(random: Random) -> Path {
        Path { random, packets: 0, burst_left: 0, burst_until_ns: 0, bad_until_ns: 0, busy_until_ns: 0, lost: 0 }
    }

    /// When packet number `ordinal` of the sender, which has so many `bits` and leaves at `departs_ns`, arrives: not at all, once or twice.
    pub(super) fn carry(&mut self, seed: u64, spec: &Receiver, ordinal: u64, departs_ns: u64, bits: u64) -> Arrivals {
        self.packets += 1;
        let service_ns = |bits: u64| bits * 1_000_000_000 / spec.path_bits_per_second.max(1);
        // Queues are told in full packets.
        let waiting = self.busy_until_ns.saturating_sub(departs_ns) / service_ns(frame_bits()).max(1);
        // Each model draws, whatever the others said, so that they do not disturb each other.
        let lost = [
            self.in_burst(spec, departs_ns),
            self.in_bad_state(spec, departs_ns),
            in_rack(seed, spec, ordinal),
            self.random.chance_ppm(spec.loss_ppm),
            waiting > spec.path_queue_packets,
        ];
        if lost.contains(&true) {
            self.lost += 1;
            return Arrivals::default();
        }
        self.busy_until_ns = self.busy_until_ns.max(departs_ns) + service_ns(bits);
        let arrives_ns = self.busy_until_ns + spec.latency_us * 1_000;
        let twin_ns = self.random.chance_ppm(spec.duplicate_ppm).then(|| arrives_ns + self.random.below(1_000_000));
        if self.random.chance_ppm(spec.reorder_ppm) {
            let late_ns = arrives_ns + self.random.between(1, spec.reorder_us.max(1)) * 1_000;
            return Arrivals { in_turn_ns: None, astray_ns: [Some(late_ns), twin_ns] };
        }
        Arrivals { in_turn_ns: Some(arrives_ns), astray_ns: [twin_ns, None] }
    }

    fn in_burst(&mut self, spec: &Receiver, departs_ns: u64) -> bool {
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
        in_burst
    }

    /// Gilbert's model: in the bad state all is lost.
    fn in_bad_state(&mut self, spec: &Receiver, departs_ns: u64) -> bool {
        if spec.bad_enter_ppm == 0 {
            return false;
        }
        if self.bad_until_ns > 0 {
            if departs_ns > self.bad_until_ns || self.random.chance_ppm(spec.bad_leave_ppm) {
                self.bad_until_ns = 0;
            }
        } else if self.random.chance_ppm(spec.bad_enter_ppm) {
            self.bad_until_ns = departs_ns + BAD_STATE_NS_MAX;
        }
        self.bad_until_ns > 0
    }
}

/// What the switch of a rack loses, all of its receivers lose: it depends on nothing but the rack and the packet.
fn in_rack(seed: u64, spec: &Receiver, ordinal: u64) -> bool {
    if spec.rack_loss_ppm == 0 {
        return false;
    }
    let stretch = ordinal / spec.rack_burst_packets.max(1);
    let drawn = mixed(seed ^ mixed(u64::from(spec.rack) << 48 ^ stretch));
    ((u128::from(drawn) * 1_000_000) >> 64) < u128::from(spec.rack_loss_ppm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(spec: &Receiver, seed: u64) -> Vec<bool> {
        let mut path = Path::new(Random::new(seed));
        (0..400_000).map(|ordinal| path.carry(1, spec, ordinal, ordinal * 2_000, frame_bits()).in_turn_ns.is_none()).collect()
    }

    fn share_and_mean_run(losses: &[bool]) -> (f64, f64) {
        let lost = losses.iter().filter(|&&lost| lost).count() as f64;
        let runs = losses.windows(2).filter(|pair| pair == &[false, true]).count() as f64;
        (lost / losses.len() as f64, lost / runs)
    }

    #[test]
    fn bursts_have_the_share_and_length_that_were_asked_for() {
        let spec = Receiver::on_lan(0).with_bursts(0.01, 32.0);
        let (share, run) = share_and_mean_run(&losses(&spec, 3));
        assert!((0.008..0.012).contains(&share) && (28.0..36.0).contains(&run), "{share} {run}");
    }

    #[test]
    fn a_rack_loses_the_same_packets_for_all_its_receivers() {
        let spec = |rack| Receiver { rack, rack_loss_ppm: 10_000, rack_burst_packets: 4, ..Receiver::on_lan(0) };
        let (one, twin, other) = (losses(&spec(1), 3), losses(&spec(1), 4), losses(&spec(2), 3));
        assert_eq!(one, twin);
        assert_ne!(one, other);
        let (share, run) = share_and_mean_run(&one);
        assert!((0.009..0.011).contains(&share) && (3.9..4.2).contains(&run), "{share} {run}");
    }
}
