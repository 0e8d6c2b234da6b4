//! The search for the highest rate without loss (throughput in the sense of RFC 2544, section 26.1): trials at a rate, halving the interval
//! between the highest rate that lost nothing and the lowest that did.

use wire::doctor::throughput::{Trial, loss_free, lowest_lossy};

/// The next rate to try, given the trials so far, between 0 and `rate_max` packets a second; `None` when the interval is below `resolution` (a
/// share of `rate_max`).
pub(super) fn next_rate(trials: &[Trial], rate_max: f64, resolution: f64) -> Option<f64> {
    if trials.is_empty() {
        return Some(rate_max);
    }
    let low = loss_free(trials).map_or(0.0, |trial| trial.rate);
    let high = lowest_lossy(trials)?.rate;
    (high - low > resolution * rate_max).then_some((low + high) / 2.0)
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
            let found = loss_free(&trials).map_or(0.0, |trial| trial.rate);
            let expected = limit.min(1_000_000.0);
            assert!(found <= expected && found > expected - 10_001.0, "{limit}: {found}");
        }
    }
}
