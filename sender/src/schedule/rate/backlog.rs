//! How full one receiver's memory is and soon will be, and what that does to the rate.
//!
//! A memory fills by the difference of what comes and what the disk takes, so the rate has to follow the memory's tendency more than its level: a controller
//! of proportional and derivative action. How far ahead it looks depends on how fast the memory was once seen to fill: it may be enough for
//! 100 ms of what the disk takes, or for 20 s.

/// Of memory, this much may wait for the disk; the rest is for chunks in assembly.
const TARGET: f64 = 0.5;
/// Below this the disk keeps up: a group of 16 chunks that is complete at once is a twelfth of 48 MiB.
const IDLE: f64 = 0.1;
/// From here on the brake is pulled even while it fills slowly …
const HIGH: f64 = 0.8;
/// … unless it has emptied by this much of late.
const EMPTYING: f64 = 0.01;
/// A memory that the disk empties in T takes a horizon of about 2 sqrt(T) s to keep the rate from swinging, and it fills at 9 / T a second when ten times
/// what the disk takes comes: so the horizon is this over the root of the fastest filling seen.
const HORIZON_ROOT_S: f64 = 2.5;
const HORIZON_S_MIN: f64 = 0.3;
const HORIZON_S_MAX: f64 = 4.0;
/// Gain times horizon: the part of the rate that a tendency of 1 a second takes off a second.
const DAMPING: f64 = 1.5;
const GAIN_PER_S_MIN: f64 = 1.0;
/// What one window takes off at most.
const FACTOR_MIN: f64 = 0.5;
/// Time constants of the two averages whose difference is the tendency. Whole groups of chunks are assembled at a time, every 30 to 100 ms.
const FAST_S: f64 = 0.1;
const SLOW_S: f64 = 0.4;
/// The fastest filling is forgotten in this time.
const FILLING_FORGOTTEN_S: f64 = 30.0;

/// One receiver's backlog.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backlog {
    level: f64,
    fast: f64,
    slow: f64,
    /// The fastest, in memories a second.
    filling_per_s: f64,
}

impl Backlog {
    pub(super) fn note(&mut self, permille: u16) {
        self.level = f64::from(permille.min(1000)) / 1000.0;
    }

    /// `elapsed_s` have passed.
    pub(super) fn tick(&mut self, elapsed_s: f64) {
        self.fast += (self.level - self.fast) * (elapsed_s / FAST_S).min(1.0);
        self.slow += (self.level - self.slow) * (elapsed_s / SLOW_S).min(1.0);
        let forgotten = self.filling_per_s * (elapsed_s / FILLING_FORGOTTEN_S).min(1.0);
        self.filling_per_s = (self.filling_per_s - forgotten).max(self.tendency_per_s());
    }

    fn tendency_per_s(&self) -> f64 {
        (self.fast - self.slow) / (SLOW_S - FAST_S)
    }

    /// By what the rate may change in `window_s` at most; `None`: by anything.
    pub(super) fn factor(&self, window_s: f64) -> Option<f64> {
        if self.level.max(self.fast) < IDLE {
            return None;
        }
        let horizon_s = (HORIZON_ROOT_S / self.filling_per_s.max(0.01).sqrt()).clamp(HORIZON_S_MIN, HORIZON_S_MAX);
        let gain_per_s = (DAMPING / horizon_s).max(GAIN_PER_S_MIN);
        let expected = self.fast + horizon_s * self.tendency_per_s();
        let factor = 1.0 + gain_per_s * window_s * (TARGET - expected);
        // A memory that empties needs no brake, only patience.
        let brake = if self.level > HIGH && self.level >= self.slow - EMPTYING {
            1.0 - (self.level - HIGH) / (1.0 - HIGH) / 2.0
        } else {
            f64::INFINITY
        };
        Some(factor.min(brake).max(FACTOR_MIN))
    }
}
