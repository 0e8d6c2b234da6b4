//! Throughput in the sense of RFC 2544, section 26.1: what trials at several rates say of the highest one that loses nothing.
//!
//! `discus-bench limits` and the doctors judge trials by it. They choose the rates in ways of their own, because they hear different things: the bench
//! has an answer after each trial and halves the interval; a doctor's probes are for any number of receivers, none of which answers, so
//! that its rates are fixed before.

/// One trial: what was offered and what arrived.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Trial {
    /// The rate that was offered; all trials have the same unit.
    pub rate: f64,
    /// Packets that were sent.
    pub sent: u64,
    /// Those that arrived.
    pub arrived: u64,
}

impl Trial {
    /// Whether something was sent and everything arrived.
    pub fn is_clean(&self) -> bool {
        self.sent > 0 && self.arrived >= self.sent
    }

    /// The part that did not arrive.
    pub fn loss(&self) -> f64 {
        self.sent.saturating_sub(self.arrived) as f64 / self.sent.max(1) as f64
    }
}

/// The trial with the lowest rate at which something was lost.
pub fn lowest_lossy(trials: &[Trial]) -> Option<&Trial> {
    trials.iter().filter(|trial| trial.arrived < trial.sent).min_by(|a, b| a.rate.total_cmp(&b.rate))
}

/// The trial with the highest rate of which everything arrived and below which nothing was lost. A rate that lost nothing above one that did is chance.
pub fn loss_free(trials: &[Trial]) -> Option<&Trial> {
    let limit = lowest_lossy(trials).map_or(f64::INFINITY, |trial| trial.rate);
    trials.iter().filter(|trial| trial.is_clean() && trial.rate < limit).max_by(|a, b| a.rate.total_cmp(&b.rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(rate: f64, arrived: u64) -> Trial {
        Trial { rate, sent: 100, arrived }
    }

    #[test]
    fn a_rate_counts_only_if_no_lower_one_lost_anything() {
        let trials = [trial(4.0, 100), trial(1.0, 100), trial(3.0, 99), trial(2.0, 100)];
        assert_eq!(loss_free(&trials), Some(&trials[3]));
        assert_eq!(lowest_lossy(&trials), Some(&trials[2]));
        assert_eq!(loss_free(&trials[2..3]), None);
        assert_eq!(loss_free(&[]), None);
        assert_eq!(loss_free(&[Trial { rate: 1.0, sent: 0, arrived: 0 }]), None, "nothing sent shows nothing");
    }

    #[test]
    fn loss_is_a_share_of_what_was_sent() {
        assert_eq!(trial(1.0, 75).loss(), 0.25);
        assert_eq!(trial(1.0, 101).loss(), 0.0);
        assert_eq!(Trial { rate: 1.0, sent: 0, arrived: 0 }.loss(), 0.0);
    }
}
