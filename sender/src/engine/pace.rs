//! When the next batch of packets may leave: virtual time that advances by what each batch costs at the allowed rate. Knows no clock;
//! the caller says what time it is and sleeps.

/// Paces one stream. Times are nanoseconds on any monotonic clock, the same at every call.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    bits_per_second: u64,
    /// How far behind its plan a stream may fall and still catch up at full speed: a sleep that ends late costs no rate, yet
    /// the burst that follows stays bounded.
    catch_up_bits: u64,
    next_ns: u64,
}

impl Pacer {
    /// A pacer of `bits_per_second` that lets at most `catch_up_bytes` go unpaced after a late wake-up.
    pub(super) fn new(bits_per_second: u64, catch_up_bytes: usize) -> Pacer {
        Pacer { bits_per_second: bits_per_second.max(1), catch_up_bits: catch_up_bytes as u64 * 8, next_ns: 0 }
    }

    /// Changes the rate for batches from now on. What is waited for at a lower rate is waited for no longer than the new one asks for.
    pub(super) fn set_rate(&mut self, now_ns: u64, bits_per_second: u64) {
        let before = std::mem::replace(&mut self.bits_per_second, bits_per_second.max(1));
        if self.bits_per_second > before {
            let waited_ns = u128::from(self.next_ns.saturating_sub(now_ns)) * u128::from(before) / u128::from(self.bits_per_second);
            self.next_ns = self.next_ns.min(now_ns.saturating_add(waited_ns as u64));
        }
    }

    /// When the next bytes may start to leave; at once when that is past.
    pub(super) fn starts_ns(&self, now_ns: u64) -> u64 {
        self.next_ns.max(now_ns.saturating_sub(self.duration_ns(self.catch_up_bits)))
    }

    /// Books `bytes` on the wire and returns the time at which they may start to leave; they may leave at once when that is past.
    pub(super) fn book(&mut self, now_ns: u64, bytes: usize) -> u64 {
        let start_ns = self.starts_ns(now_ns);
        self.next_ns = start_ns.saturating_add(self.duration_ns(bytes as u64 * 8));
        start_ns
    }

    fn duration_ns(&self, bits: u64) -> u64 {
        // u128: a group of 6 MB is 5e7 bits, times 1e9 leaves 64 bits soon.
        u64::try_from(u128::from(bits) * 1_000_000_000 / u128::from(self.bits_per_second)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH_BYTES: usize = 32 * 1500;

    /// Sends batches for a second on a clock that wakes `late_ns` after what was asked, and returns the bytes that left.
    fn run(rate: u64, late_ns: u64) -> usize {
        let mut pacer = Pacer::new(rate, BATCH_BYTES);
        let (mut now_ns, mut sent) = (5_000_000_000, 0);
        let end_ns = now_ns + 1_000_000_000;
        while now_ns < end_ns {
            let start_ns = pacer.book(now_ns, BATCH_BYTES);
            if start_ns > now_ns {
                now_ns = start_ns + late_ns;
            }
            sent += BATCH_BYTES;
        }
        sent
    }

    #[test]
    fn the_rate_is_met_when_wake_ups_are_on_time() {
        let sent_bits = run(5_000_000_000, 0) * 8;
        assert!((4_990_000_000..5_010_000_000).contains(&sent_bits), "{sent_bits}");
    }

    #[test]
    fn late_wake_ups_within_the_catch_up_cost_no_rate() {
        // A batch lasts 77 µs at 5 Gbit/s; wake up 60 µs late every time.
        let sent_bits = run(5_000_000_000, 60_000) * 8;
        assert!((4_990_000_000..5_010_000_000).contains(&sent_bits), "{sent_bits}");
    }

    #[test]
    fn after_an_idle_hour_the_burst_is_the_catch_up_and_one_batch() {
        let mut pacer = Pacer::new(1_000_000_000, BATCH_BYTES);
        pacer.book(0, BATCH_BYTES);
        let now_ns = 3_600_000_000_000;
        let unpaced = (0..100).take_while(|_| pacer.book(now_ns, BATCH_BYTES) <= now_ns).count();
        assert_eq!(unpaced, 2);
    }

    #[test]
    fn a_new_rate_holds_from_the_next_batch() {
        let mut pacer = Pacer::new(8_000_000_000, 0);
        assert_eq!(pacer.book(0, 1_000), 0);
        pacer.set_rate(0, 8_000_000);
        assert_eq!(pacer.book(0, 1_000), 1_000);
        assert_eq!(pacer.book(0, 1_000), 1_001_000);
    }

    #[test]
    fn a_higher_rate_ends_a_wait_that_a_lower_one_began() {
        let mut pacer = Pacer::new(1, 0);
        pacer.book(0, 90);
        assert_eq!(pacer.starts_ns(0), 720_000_000_000);
        // A second later 719 bits are left.
        pacer.set_rate(1_000_000_000, 719_000_000);
        assert_eq!(pacer.starts_ns(1_000_000_000), 1_000_001_000);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut pacer = Pacer::new(0, usize::MAX / 16);
        pacer.book(u64::MAX, usize::MAX / 16);
        assert_eq!(pacer.book(u64::MAX, 1), u64::MAX);
        pacer.set_rate(0, u64::MAX);
        assert_eq!(pacer.starts_ns(0), 1);
    }
}
