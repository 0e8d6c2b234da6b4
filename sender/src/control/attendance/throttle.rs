//! How fast reports of one attendance are read.

use std::time::Duration;
use tokio::time::Instant;

/// Reports that may follow each other faster than the pace: a stalled connection delivers what it held back all at once.
const REPORT_BURST: u32 = 32;
/// Reports are read at twice their pace at most, so that clocks may differ; a flood waits in its own connection.
const PACE_TOLERANCE: u32 = 2;

/// Bounds how fast reports are read: a bucket of [`REPORT_BURST`] that refills at [`PACE_TOLERANCE`] times the pace.
pub(super) struct Throttle {
    interval: Duration,
    /// When the bucket will be full again.
    full_at: Instant,
}

impl Throttle {
    pub(super) fn new(now: Instant) -> Throttle {
        Throttle { interval: Duration::ZERO, full_at: now }
    }

    pub(super) fn set_pace(&mut self, report_interval_us: u32) {
        self.interval = Duration::from_micros(report_interval_us.into()) / PACE_TOLERANCE;
    }

    pub(super) fn note_report(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }

    /// The moment from which the next message may be read: `now` when there is no need to wait.
    pub(super) fn read_from(&self, now: Instant) -> Instant {
        let owed = self.full_at.saturating_duration_since(now);
        now + owed.saturating_sub(self.interval * REPORT_BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_reports_is_read_at_twice_the_pace() {
        let start = Instant::now();
        let (mut throttle, mut now) = (Throttle::new(start), start);
        throttle.set_pace(10_000);
        for _ in 0..1000 {
            now = throttle.read_from(now);
            throttle.note_report(now);
        }
        // The first is free, and so is the burst.
        assert_eq!(now - start, Duration::from_millis(5) * (999 - REPORT_BURST));
    }

    #[test]
    fn reports_at_their_pace_never_wait() {
        let start = Instant::now();
        let (mut throttle, mut now) = (Throttle::new(start), start);
        throttle.set_pace(10_000);
        for _ in 0..1000 {
            assert_eq!(throttle.read_from(now), now);
            throttle.note_report(now);
            now += Duration::from_millis(10);
        }
    }
}
