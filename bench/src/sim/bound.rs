//! The least that can be sent: DESIGN.md section 7.

/// Symbols sent per symbol needed that no scheme that treats each chunk by itself can go below, for chunks of K = `source_symbols` and
/// receivers that lose each packet independently with probability `losses[i]`.
///
/// (1/K) · Σ over m ≥ 0 of [1 − Π over receivers of P(Binomial(m, p) ≤ m − K)]: the expected number of symbols until every receiver has K.
pub fn least_overhead(source_symbols: u16, losses: &[f64]) -> f64 {
    let k = f64::from(source_symbols);
    // Until m = K nobody has enough.
    let mut sum = k;
    // Per receiver: the probability that exactly the m-th symbol sent is the K-th that arrives, and its sum so far.
    let mut arrival: Vec<f64> = losses.iter().map(|loss| (1.0 - loss).powf(k)).collect();
    let mut enough: Vec<f64> = arrival.clone();
    let mut m = k;
    loop {
        let missing = 1.0 - enough.iter().product::<f64>();
        if missing < 1e-9 || m > k * 1_000.0 {
            return sum / k;
        }
        sum += missing;
        // Negative binomial: P(m + 1) = P(m) · p · m / (m + 1 − K).
        for ((arrival, enough), loss) in arrival.iter_mut().zip(&mut enough).zip(losses) {
            *arrival *= loss * m / (m + 1.0 - k);
            *enough += *arrival;
        }
        m += 1.0;
    }
}

/// The same for `receivers` receivers that lose `loss` of all packets in runs of `run_packets` on average (Gilbert's model), for chunks of which every
/// `interleave`-th packet is a symbol until all receivers have enough: so far apart, two symbols are still hit by the same run at times. Repair that is sent later
/// is hit by other runs, so this is no bound on every scheme, but shows what interleaving leaves.
pub fn least_overhead_of_runs(source_symbols: u16, receivers: usize, loss: f64, run_packets: f64, interleave: u32) -> f64 {
    let k = usize::from(source_symbols);
    let leave = 1.0 / run_packets.max(1.0);
    let enter = loss * leave / (1.0 - loss);
    let memory = (1.0 - enter - leave).max(0.0).powf(f64::from(interleave));
    let (turns_bad, stays_bad) = (loss * (1.0 - memory), loss + (1.0 - loss) * memory);
    // By the number of symbols lost so far, and whether the last one arrived; more than K lost are not told apart.
    let (mut good, mut bad) = (vec![0.0; k + 2], vec![0.0; k + 2]);
    (good[0], bad[1]) = (1.0 - loss, loss);
    let mut sum = k as f64;
    for sent in 1..2 * k {
        if let Some(beyond) = sent.checked_sub(k) {
            let enough: f64 = good[..=beyond].iter().chain(&bad[..=beyond]).sum();
            let missing = 1.0 - enough.min(1.0).powf(receivers as f64);
            if missing < 1e-9 {
                break;
            }
            sum += missing;
        }
        for lost in (0..=k).rev() {
            let (was_good, was_bad) = (good[lost], bad[lost]);
            good[lost] = was_good * (1.0 - turns_bad) + was_bad * (1.0 - stays_bad);
            bad[lost + 1] = was_good * turns_bad + was_bad * stays_bad;
        }
        bad[0] = 0.0;
    }
    sum / k as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_are_spread_far_enough_are_single_losses() {
        let runs = |interleave| least_overhead_of_runs(187, 1_000, 0.01, 32.0, interleave);
        assert!((runs(10_000) - least_overhead(187, &[0.01; 1_000])).abs() < 1e-4, "{}", runs(10_000));
        assert!((1.104..1.106).contains(&runs(16)) && (1.049..1.051).contains(&runs(64)), "{} {}", runs(16), runs(64));
    }

    /// The figures of DESIGN.md section 7.
    #[test]
    fn the_bound_is_that_of_the_design() {
        for (loss, expected) in [(0.0001, 1.006), (0.001, 1.014), (0.01, 1.041)] {
            let bound = least_overhead(192, &vec![loss; 1000]);
            assert!((bound - expected).abs() < 0.001, "{loss}: {bound}");
        }
        assert!((least_overhead(187, &[0.0, 0.0]) - 1.0).abs() < 1e-9);
        assert!((least_overhead(187, &[0.5]) - 2.0).abs() < 0.001);
    }
}
