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

/// What simpler schemes cost, in symbols sent per symbol needed, when they know at once and for nothing what every receiver lacks.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Simpler {
    /// Every source symbol is sent again until all have it.
    pub selective_repeat: f64,
    /// All source symbols are sent round and round until all have all.
    pub carousel: f64,
    /// A chunk is sent again, wholly, until all have all of its symbols (as Frisbee does with the blocks that clients request).
    pub whole_chunks: f64,
}

/// The costs of [`Simpler`] schemes for `chunks` chunks of K = `source_symbols`. `run` is the mean length of loss runs in packets: n packets in a row are all
/// spared with probability (1 − p)^(n / run + 1) (runs of loss) or (1 − p)^n (single losses, `run` = 1).
pub fn simpler_schemes(source_symbols: u16, chunks: usize, losses: &[f64], run: f64) -> Simpler {
    let units = |packets: f64| if run > 1.0 { packets / run + 1.0 } else { packets };
    // Expected number of times that something is sent that is lost in `units` independent ways: Σ over m ≥ 0 of [1 − Π (1 − p^m)^units].
    let sendings = |units: f64| {
        let mut sum = 0.0;
        for m in 0..10_000 {
            let all_have: f64 = losses.iter().map(|loss| units * (-loss.powi(m)).ln_1p()).sum();
            let missing = -all_have.exp_m1();
            sum += missing;
            if missing < 1e-9 {
                break;
            }
        }
        sum
    };
    let k = f64::from(source_symbols);
    Simpler {
        selective_repeat: sendings(1.0),
        // It ends within the last round; half of that on average.
        carousel: (sendings(units(k * chunks as f64)) - 0.5).max(1.0),
        whole_chunks: sendings(units(k)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of DESIGN.md section 7.
    #[test]
    fn the_bound_is_that_of_the_design() {
        for (loss, expected) in [(0.0001, 1.006), (0.001, 1.014), (0.01, 1.041)] {
            let bound = least_overhead(192, &vec![loss; 1000]);
            assert!((bound - expected).abs() < 0.001, "{loss}: {bound}");
        }
        for (loss, expected) in [(0.0001, 1.095), (0.001, 1.6), (0.01, 2.1)] {
            let simpler = simpler_schemes(192, 100, &vec![loss; 1000], 1.0);
            assert!((simpler.selective_repeat - expected).abs() < 0.05, "{loss}: {simpler:?}");
        }
        assert!((least_overhead(187, &[0.0, 0.0]) - 1.0).abs() < 1e-9);
        assert!((least_overhead(187, &[0.5]) - 2.0).abs() < 0.001);
    }
}
