//! How long to wait between two attempts to connect: doubling, so that a sender that is away is not flooded, and random, so that
//! the receivers of a restarted sender do not come all at once.

use ring::rand::{SecureRandom, SystemRandom};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
/// A sender that is back should not wait long for its receivers: 10,000 of them at this interval are 2,000 connections a second.
const LONGEST: Duration = Duration::from_secs(5);

/// The state of the waiting.
#[derive(Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next pause.
    pub(super) fn pause(&mut self) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LONGEST);
        self.attempts += 1;
        // Between half and all of it.
        longest / 2 + (longest / 2).mul_f64(random_u64() as f64 / u64::MAX as f64)
    }
}

/// A random number; 0 only when the system has no random source, which costs the jitter and nothing else.
pub(super) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_limit() {
        let mut backoff = Backoff::default();
        let mut expected = FIRST;
        for _ in 0..100 {
            let pause = backoff.pause();
            assert!(pause >= expected / 2 && pause <= expected, "{pause:?} of {expected:?}");
            expected = (expected * 2).min(LONGEST);
        }
    }
}
