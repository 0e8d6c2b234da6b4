//! How long packets are left to gather in the rings before they are fetched.

use std::time::Duration;

/// While packets come, they are left to gather for a while and then fetched at once: whoever sleeps in poll is woken for each few of them, which costs the
/// core that delivers them as much as the delivery. For how long follows from how many came, within these limits …
const GATHER_MIN: Duration = Duration::from_micros(100);
const GATHER_MAX: Duration = Duration::from_millis(2);
/// … and within this part of a queue's frames at a packet a microsecond, 12 Gbit/s at MTU 1500: after a stretch of other images' chunks comes one of ours.
const GATHER_PART_OF_FRAMES: u64 = 4;
/// Fewer packets are hardly worth waking up for; more leave the cache before they are fetched.
const GATHERED_MIN: usize = 64;
const GATHERED_MAX: usize = 192;
/// After so many times without a packet, up to 40 ms, the stream is silent, and its next packet wakes us.
const GATHER_ROUNDS: u32 = 20;

/// How long to let packets gather.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gather {
    time: Duration,
    longest: Duration,
    /// Packets since the last time.
    packets: usize,
    /// Times since the last packet.
    silent_rounds: u32,
}

impl Gather {
    /// For queues of so many frames.
    pub(super) fn new(frames: usize) -> Gather {
        let longest = GATHER_MAX.min(Duration::from_micros(frames as u64 / GATHER_PART_OF_FRAMES));
        Gather { time: GATHER_MIN.min(longest), longest, packets: 0, silent_rounds: GATHER_ROUNDS }
    }

    pub(super) fn came(&mut self, packets: usize) {
        self.packets += packets;
        if packets > 0 {
            self.silent_rounds = 0;
        }
    }

    /// For how long to leave them now; `None` when the stream is silent.
    pub(super) fn next(&mut self) -> Option<Duration> {
        if self.silent_rounds >= GATHER_ROUNDS {
            self.packets = 0;
            return None;
        }
        self.silent_rounds += 1;
        self.time = match std::mem::take(&mut self.packets) {
            few if few < GATHERED_MIN => (self.time * 5 / 4).min(self.longest),
            many if many > GATHERED_MAX => (self.time * 3 / 4).max(GATHER_MIN.min(self.longest)),
            _ => self.time,
        };
        Some(self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::FRAMES_PER_QUEUE_MIN;
    use super::*;

    #[test]
    fn packets_gather_for_longer_when_few_come_and_not_at_all_when_none_do() {
        let mut gather = Gather::new(8192);
        assert_eq!(gather.next(), None, "nothing has come");
        // Packets a second, and how many are fetched at a time in the end.
        for (rate, gathered) in [(1_000_000, 90..=200), (400_000, 60..=200), (100_000, 60..=200), (10_000, 19..=21)] {
            let mut packets = 1;
            for _ in 0..100 {
                gather.came(packets);
                packets = (rate * gather.next().unwrap().as_micros() / 1_000_000) as usize;
            }
            assert!(gathered.contains(&packets), "{packets} at {rate} a second");
        }
        gather.came(1);
        assert_eq!((0..30).filter(|_| gather.next().is_some()).count(), GATHER_ROUNDS as usize);
        // 64 queues share the memory.
        let mut small = Gather::new(FRAMES_PER_QUEUE_MIN);
        small.came(1);
        assert!(small.next().unwrap() <= Duration::from_micros(128));
    }
}
