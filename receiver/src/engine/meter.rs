//! How much was restored lately while restoring was what everything waited for: only then does it say what this machine can do.

use std::time::{Duration, Instant};

/// From this backlog on the disk, or the threads before it, are the bottleneck.
const BUSY_PERMILLE: u16 = 500;
/// A rate is that of at least this long, and said at most so often.
const WINDOW: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct RestoreMeter {
    /// Since when there is a backlog, or the last rate was said, and what had been written by then.
    since: Option<(Instant, u64)>,
    /// What the operator knows, until it is said.
    known: u64,
}

impl RestoreMeter {
    /// Says what the operator knows first; 0: nothing.
    pub(super) fn knowing(known_bytes_per_second: u64) -> RestoreMeter {
        RestoreMeter { known: known_bytes_per_second, ..RestoreMeter::default() }
    }

    /// So many stored bytes are written by `now`. Bytes a second, when there is something to be said; else 0.
    pub(super) fn look(&mut self, now: Instant, backlog_permille: u16, written_bytes: u64) -> u64 {
        if backlog_permille <= BUSY_PERMILLE {
            self.since = None;
            return std::mem::take(&mut self.known);
        }
        let (since, before) = *self.since.get_or_insert((now, written_bytes));
        let time = now.saturating_duration_since(since);
        if time < WINDOW {
            return 0;
        }
        self.since = Some((now, written_bytes));
        (written_bytes.saturating_sub(before) as f64 / time.as_secs_f64()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_said_once_a_second_while_there_is_a_backlog() {
        let start = Instant::now();
        let mut meter = RestoreMeter::default();
        let mut said = Vec::new();
        for tenth in 0..60_u64 {
            // The disk takes 20 MB/s; in the fourth second it is the network that is slow.
            let backlog_permille = if (30..40).contains(&tenth) { 400 } else { 600 };
            let rate = meter.look(start + Duration::from_millis(100 * tenth), backlog_permille, tenth * 2_000_000);
            if rate > 0 {
                said.push((tenth, rate));
            }
        }
        assert_eq!(said, [(10, 20_000_000), (20, 20_000_000), (50, 20_000_000)]);
    }
}
