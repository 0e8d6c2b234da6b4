//! The search for the highest rate without loss (throughput in the sense of RFC 2544, section 26.1): trials at a rate, halving the interval
//! between the highest rate that lost nothing and the lowest that did.

/// One trial: what was offered and what arrived.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(super) struct Trial {
    /// Packets a second that were offered.
    pub(super) rate: f64,
    pub(super) sent: u64,
    pub(super) arrived: u64,
}

/// The next rate to try, given the trials so far, between 0 and `rate_max` packets a second; `None` when the interval is below `resolution` (a
/// share of `rate_max`).
pub(super) fn next_rate(trials: &[Trial], rate_max: f64, resolution: f64) -> Option<f64> {
    if trials.is_empty() {
        return Some(rate_max);
    }
    let low = loss_free(trials).unwrap_or(0.0);
    let lossy = trials.iter().filter(|trial| trial.arrived < trial.sent).map(|trial| trial.rate);
    let high = lossy.fold(f64::INFINITY, f64::min);
    // A rate that lost nothing above one that did: noise; the lower one counts.
    let low = low.min(high);
    (high.is_finite() && high - low > resolution * rate_max).then_some((low + high) / 2.0)
}

/// The highest offered rate of which everything arrived and below which nothing was lost.
pub(super) fn loss_free(trials: &[Trial]) -> Option<f64> {
    let lowest_lossy = trials.iter().filter(|trial| trial.arrived < trial.sent).map(|trial| trial.rate).fold(f64::INFINITY, f64::min);
    let clean = trials.iter().filter(|trial| trial.arrived >= trial.sent && trial.sent > 0 && trial.rate < lowest_lossy);
    clean.map(|trial| trial.rate).max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_ends_at_the_limit_of_the_link() {
        for limit in [10_000.0, 333_333.0, 900_000.0, 2_000_000.0] {
            let mut trials = Vec::new();
            while let Some(rate) = next_rate(&trials, 1_000_000.0, 0.01) {
                let sent = rate as u64;
                trials.push(Trial { rate, sent, arrived: (rate.min(limit)) as u64 });
                assert!(trials.len() < 12, "{trials:?}");
            }
            let found = loss_free(&trials).unwrap_or(0.0);
            let expected = limit.min(1_000_000.0);
            assert!(found <= expected && found > expected - 10_001.0, "{limit}: {found}");
        }
    }
}
