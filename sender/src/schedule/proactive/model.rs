//! What to expect before anything was reported of chunks: of how many chunks some receiver lacks something, by the number of repair symbols that go
//! with them, the receivers' losses, the length of the runs in which they lose, and the number of chunks that are interleaved.

/// Receivers are taken together in so many classes of similar loss: the work is 20,000 steps for each.
const CLASSES: usize = 8;

/// What is known of losses.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::schedule) struct LossModel {
    /// The losses of some receivers, ascending; they stand for all.
    pub(in crate::schedule) losses: Vec<f64>,
    /// Receivers in all.
    pub(in crate::schedule) receivers: usize,
    /// Mean number of packets that are lost in a row.
    pub(in crate::schedule) run_packets: f64,
    /// Packets from one symbol of a chunk to its next.
    pub(in crate::schedule) interleave: usize,
    /// K.
    pub(in crate::schedule) source_symbols: u16,
}

/// How much repair to begin with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    /// Symbols per chunk.
    pub(super) symbols: f64,
    /// So many symbols more divide the rate of reports by e.
    pub(super) scale: f64,
}

impl LossModel {
    /// The symbols, `most` of them at most, with which reports on a chunk come at the rate `wanted`: their mean number, were they independent.
    pub(super) fn estimate(&self, wanted: f64, most: u16) -> Estimate {
        let rates = self.report_rates(most);
        let (mut symbols, mut at) = (f64::from(most), rates.len().saturating_sub(2));
        if let Some(first) = rates.iter().position(|&rate| rate <= wanted) {
            at = first.saturating_sub(1);
            symbols = match first {
                0 => 0.0,
                // Between two whole numbers some chunks have the one and some the other.
                _ => at as f64 + (rates[at] - wanted) / (rates[at] - rates[first]),
            };
        }
        let scale = match (rates.get(at), rates.get(at + 1)) {
            (Some(&here), Some(&next)) if here > next && next > 0.0 => 1.0 / (here / next).ln(),
            _ => f64::NAN,
        };
        Estimate { symbols, scale }
    }

    /// The rate of reports that is left when so much goes with chunks, `most` symbols at most, that the share `in_vain` of all symbols is more than the neediest needs.
    pub(super) fn report_rate_at(&self, in_vain: f64, most: u16) -> f64 {
        let rates = self.report_rates(most);
        // The neediest needs more than m symbols with probability 1 − exp(−rate(m)): the sum is what it needs on average.
        let needed: f64 = rates.iter().map(|rate| 1.0 - (-rate).exp()).sum();
        let mut left = in_vain * (f64::from(self.source_symbols) + needed);
        for (&here, &next) in rates.iter().zip(rates.iter().skip(1)) {
            // One symbol more is in vain when those before it were enough.
            let cost = (-here).exp();
            if cost > left {
                // Some chunks have it and some do not.
                return here + (next - here) * left / cost;
            }
            left -= cost;
        }
        rates.last().copied().unwrap_or(0.0)
    }

    /// For 0, 1, 2 … repair symbols: the rate of reports on a chunk, by which nobody lacks anything of it with probability exp(−rate). Where somebody
    /// seldom does it is how many receivers do, on average.
    fn report_rates(&self, most: u16) -> Vec<f64> {
        let mut rates = vec![0.0; usize::from(most) + 1];
        let class = self.losses.len().div_ceil(CLASSES).max(1);
        for losses in self.losses.chunks(class) {
            let loss = losses.iter().sum::<f64>() / losses.len() as f64;
            let receivers = self.receivers as f64 * losses.len() as f64 / self.losses.len() as f64;
            self.add_class(loss.clamp(0.0, 0.5), receivers, &mut rates);
        }
        rates
    }

    /// Gilbert's model: a chain of a good state and a bad one, in which all is lost, of which a chunk sees every `interleave`-th step.
    fn add_class(&self, loss: f64, receivers: f64, rates: &mut [f64]) {
        let leave = 1.0 / self.run_packets.max(1.0);
        let enter = (loss * leave / (1.0 - loss)).min(1.0);
        let memory = (1.0 - enter - leave).max(0.0).powi(i32::try_from(self.interleave).unwrap_or(i32::MAX));
        let (turns_bad, stays_bad) = (loss * (1.0 - memory), loss + (1.0 - loss) * memory);
        // Probability of i symbols lost so far, and the last one arrived or lost.
        let (mut good, mut bad) = (vec![0.0; rates.len() + 1], vec![0.0; rates.len() + 1]);
        (good[0], bad[1]) = (1.0 - loss, loss);
        let first = usize::from(self.source_symbols.max(1));
        for sent in 1..first + rates.len() {
            if let Some(repair) = sent.checked_sub(first) {
                let has_enough: f64 = good[..=repair].iter().chain(&bad[..=repair]).sum();
                rates[repair] -= receivers * has_enough.clamp(f64::MIN_POSITIVE, 1.0).ln();
            }
            for lost in (0..good.len()).rev() {
                let (was_good, was_bad) = (good[lost], bad[lost]);
                good[lost] = was_good * (1.0 - turns_bad) + was_bad * (1.0 - stays_bad);
                if let Some(more) = bad.get_mut(lost + 1) {
                    *more = was_good * turns_bad + was_bad * stays_bad;
                }
            }
            bad[0] = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(loss: f64, run_packets: f64, interleave: usize) -> LossModel {
        LossModel { losses: vec![loss; 10], receivers: 1_000, run_packets, interleave, source_symbols: 187 }
    }

    #[test]
    fn single_losses_are_binomial() {
        let rates = model(0.01, 1.0, 16).report_rates(12);
        // All 187 arrive with probability 0.99^187; and of 195 symbols more than 8 are lost: Σ C(195, i) 0.01^i 0.99^(195 − i) from 9 on.
        assert!((rates[0] + 187_000.0 * 0.99_f64.ln()).abs() < 0.5, "{rates:?}");
        assert!((rates[8] - 0.176).abs() < 0.001, "{rates:?}");
    }

    #[test]
    fn runs_are_worse_the_fewer_chunks_are_interleaved() {
        let symbols = |run, interleave| model(0.01, run, interleave).estimate(0.288, 37).symbols;
        let (single, wide, narrow) = (symbols(1.0, 16), symbols(32.0, 64), symbols(32.0, 16));
        assert!((7.0..8.5).contains(&single) && (9.0..10.5).contains(&wide) && (19.0..22.0).contains(&narrow), "{single} {wide} {narrow}");
        assert!((symbols(32.0, 1_000) - single).abs() < 0.01);
    }

    #[test]
    fn what_is_in_vain_is_weighed_against_reports() {
        let few = LossModel { receivers: 10, ..model(0.01, 1.0, 16) };
        // Computed apart, from binomial distributions: with 5.86 symbols 0.9 % of 187 are in vain, and 5.0 entries of each receiver are left in 1,000 chunks.
        let rate = few.report_rate_at(0.009 * 187.0 / (187.0 + 4.24), 37);
        assert!((rate - 0.05).abs() < 0.002, "{rate}");
        assert_eq!(few.report_rate_at(0.0, 37), few.report_rates(0)[0], "nothing may be");
        assert!(few.report_rate_at(1.0, 37) < 1e-6);
    }

    #[test]
    fn estimates_keep_their_bounds() {
        assert_eq!(model(0.0, 1.0, 16).estimate(0.288, 37).symbols, 0.0);
        assert_eq!(model(0.9, 1.0, 16).estimate(0.288, 37).symbols, 37.0);
        assert_eq!(model(0.9, 1.0, 16).estimate(0.288, 0).symbols, 0.0);
        assert_eq!(LossModel { losses: vec![], ..model(0.0, 1.0, 1) }.estimate(0.288, 37).symbols, 0.0);
    }
}
