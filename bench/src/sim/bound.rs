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
        assert!((least_overhead(187, &[0.0, 0.0]) - 1.0).abs() < 1e-9);
        assert!((least_overhead(187, &[0.5]) - 2.0).abs() < 0.001);
    }
}
