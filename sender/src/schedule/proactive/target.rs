//! The share of chunks that some receiver may report: what leaves each receiver a few entries in its reports, as far as symbols sent in vain allow.
//!
//! The fewer receivers there are, the smaller is the share of chunks that makes the same number of entries for each, and the more symbols have to be sent that
//! would not have been asked for. What that costs depends on how much losses differ by chance, so it is computed from what is known of them (`model`).

use super::LossModel;

/// From so many receivers on the share is fixed: it makes fewer than 5 entries for each in 1,000 chunks, and costs 0.4 % of K at most where losses have nothing to do with each other.
const RECEIVERS_MANY: usize = 64;
const SHARE_OF_MANY: f64 = 0.25;
/// Below that: entries of each receiver for one chunk: 3.5 in 1,000, since 1,000 chunks and 10 receivers make 35 +- 6 of them by chance.
const ENTRIES: f64 = 0.003_5;
/// … unless that needs more symbols in vain than this share of all: what is sent stays within 1.01 of the least that can be.
const IN_VAIN_MAX: f64 = 0.009_5;
/// Never more than half: to have all chunks mended once more would cost a round trip for each and save next to nothing.
const SHARE_MAX: f64 = 0.5;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Target {
    /// The smallest share that does not cost too much, by the losses that are known.
    affordable: f64,
}

impl Default for Target {
    /// Nothing is known of losses: as if they were great.
    fn default() -> Target {
        Target { affordable: SHARE_MAX }
    }
}

impl Target {
    /// Takes what is known of losses.
    pub(super) fn mind_losses(&mut self, model: &LossModel, most_symbols: u16) {
        if model.receivers < RECEIVERS_MANY {
            self.affordable = 1.0 - (-model.report_rate_at(IN_VAIN_MAX, most_symbols)).exp();
        }
    }

    /// Of so many receivers.
    pub(super) fn share(&self, receivers: usize) -> f64 {
        if receivers >= RECEIVERS_MANY {
            return SHARE_OF_MANY;
        }
        let few_entries = 1.0 - (-ENTRIES * receivers as f64).exp();
        few_entries.max(self.affordable).min(SHARE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report_rate;
    use super::*;

    fn target(receivers: usize, loss: f64) -> f64 {
        let mut target = Target::default();
        let model = LossModel { losses: vec![loss; receivers.min(10)], receivers, run_packets: 1.0, interleave: 16, source_symbols: 187 };
        target.mind_losses(&model, 37);
        target.share(receivers)
    }

    #[test]
    fn few_receivers_report_few_chunks_where_that_is_cheap() {
        let entries = |receivers: usize, loss| report_rate(target(receivers, loss)) / receivers as f64 * 1_000.0;
        for receivers in [10, 20, 30, 50, 63, 64, 100, 1_000] {
            for loss in [0.000_1, 0.001, 0.01] {
                assert!(entries(receivers, loss) < 5.0, "{receivers} {loss}: {}", entries(receivers, loss));
            }
        }
        assert!((0.15..0.25).contains(&target(10, 0.05)), "at 5 % that would cost too much");
        assert!(target(10, 0.01) < target(10, 0.02) && target(10, 0.02) < target(10, 0.05));
    }

    #[test]
    fn as_long_as_nothing_is_known_nothing_is_risked() {
        assert_eq!([8, 63, 64, 1_000].map(|receivers| Target::default().share(receivers)), [0.5, 0.5, 0.25, 0.25]);
    }
}
