//! How many packets a second reach a receiver, from reports that come many times a second.

use std::time::{Duration, Instant};

/// Long enough to count hundreds of packets at any useful rate, short enough to be called "now".
const WINDOW: Duration = Duration::from_secs(1);
/// A figure that no report has renewed for so long is not true any more. Report intervals stretch to a second with 10,000 receivers.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// The rate over the last full window.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateMeter {
    window_began: Instant,
    packets: u64,
    per_second: u64,
}

impl RateMeter {
    pub(super) fn new(now: Instant) -> RateMeter {
        RateMeter { window_began: now, packets: 0, per_second: 0 }
    }

    /// So many packets have arrived since the last time.
    pub(super) fn note(&mut self, now: Instant, packets: u64) {
        self.packets = self.packets.saturating_add(packets);
        let elapsed = now.saturating_duration_since(self.window_began);
        if elapsed >= WINDOW {
            let per_second = u128::from(self.packets) * 1_000_000 / elapsed.as_micros();
            *self = RateMeter { window_began: now, packets: 0, per_second: u64::try_from(per_second).unwrap_or(u64::MAX) };
        }
    }

    /// The rate lately; 0 until a window is full and after reports have stopped.
    pub(super) fn per_second(&self, now: Instant) -> u64 {
        if now.saturating_duration_since(self.window_began) < STALE_AFTER { self.per_second } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_rate_and_forgets_it_when_reports_stop() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut meter = RateMeter::new(start);
        for step in 1..=100 {
            meter.note(at(step * 10), 50);
            assert_eq!(meter.per_second(at(step * 10)), if step < 100 { 0 } else { 5_000 });
        }
        meter.note(at(3_000), 1_000);
        assert_eq!(meter.per_second(at(3_000)), 500);
        assert_eq!(meter.per_second(at(7_999)), 500);
        assert_eq!(meter.per_second(at(8_000)), 0);
    }

    #[test]
    fn absurd_counts_do_no_harm() {
        let start = Instant::now();
        let mut meter = RateMeter::new(start);
        meter.note(start, u64::MAX);
        meter.note(start + WINDOW, u64::MAX);
        assert_eq!(meter.per_second(start + WINDOW), u64::MAX);
    }
}
