//! How many repair symbols follow each chunk before anybody has asked for them, so that among many receivers few have to report.
//!
//! For one receiver the cheapest is to send what it lacks, when it is known. For N receivers some symbol is lacking somewhere of nearly every chunk: it costs
//! nothing to send at once what will be asked for anyway, and it saves N reports and a round trip. The number h of such symbols follows f, the share
//! of chunks of which somebody still lacked something: h += f − target after a group. Only groups that were sent with the present h count, so that however long
//! reports take, h answers to its own effect and does not swing. At target 0.25 what was sent in vain is below one standard deviation of the
//! largest loss among the receivers, under 1 % of K = 187.

/// From so many receivers on: fewer report little, and repaired by the very symbols that they lack they have nothing to decode.
const LISTENERS_MIN: usize = 8;
/// From so many on reports count for more than the symbols sent in vain: a quarter of the chunks being reported, by one receiver or two, is fewer than
/// 5 entries per receiver and 1,000 chunks.
const LISTENERS_MANY: usize = 64;
/// Never more than this share of K, whatever is said: R is a quarter of K, and some symbols must be left for repair.
const SHARE_OF_K_MAX: f64 = 0.2;
/// Nothing changes by more than this at once, the first estimate apart.
const STEP_MAX: f64 = 4.0;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Proactive {
    symbols: f64,
    /// Counts the changes of `symbols`.
    version: u32,
    /// Part of a symbol that the chunks so far should have had and did not get.
    owed: f64,
    primed: bool,
}

/// What became of a group.
pub(super) struct Landed {
    /// The version that it was sent with.
    pub(super) version: u32,
    /// What the neediest receiver lacked of each of its chunks; 0 where nobody lacked any.
    pub(super) deficits: Vec<u16>,
    /// Receivers that listen.
    pub(super) listeners: usize,
}

impl Proactive {
    /// Which amount is sent now.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// How many repair symbols go with the next chunk of K = `source_symbols`: on average what is aimed at.
    pub(super) fn next(&mut self, source_symbols: u16) -> u16 {
        self.owed += self.symbols.min(f64::from(source_symbols) * SHARE_OF_K_MAX);
        let symbols = self.owed.floor();
        self.owed -= symbols;
        symbols as u16
    }

    /// Takes a first estimate, while there is no experience.
    pub(super) fn prime(&mut self, losses: &[f64], listeners: usize, source_symbols: u16) {
        if !self.primed && !losses.is_empty() && listeners >= LISTENERS_MIN {
            self.primed = true;
            self.set(expected_symbols(losses, listeners, source_symbols, 1.0 - target(listeners)));
        }
    }

    /// Learns from a group that all, or all but a few, have passed.
    pub(super) fn landed(&mut self, mut group: Landed) {
        if group.listeners < LISTENERS_MIN {
            if self.symbols > 0.0 {
                self.set(0.0);
            }
            return;
        }
        if group.version != self.version || group.deficits.is_empty() {
            return;
        }
        self.primed = true;
        let (chunks, reported) = (group.deficits.len(), group.deficits.iter().filter(|&&deficit| deficit > 0).count());
        let share = reported as f64 / chunks as f64;
        let step = if share > 0.75 {
            // Far off: what all but `target` of the chunks would have needed.
            group.deficits.sort_unstable();
            let index = ((1.0 - target(group.listeners)) * (chunks - 1) as f64) as usize;
            f64::from(group.deficits[index]).clamp(0.5, STEP_MAX)
        } else {
            share - target(group.listeners)
        };
        self.set(self.symbols + step);
    }

    fn set(&mut self, symbols: f64) {
        self.symbols = symbols.max(0.0);
        self.version = self.version.wrapping_add(1);
    }
}

fn target(listeners: usize) -> f64 {
    if listeners >= LISTENERS_MANY { 0.25 } else { 0.5 }
}

/// Symbols beyond K after which all of `listeners` receivers, whose losses are like `losses`, have K with probability `certainty`. Losses are taken as
/// independent and rare (Poisson).
fn expected_symbols(losses: &[f64], listeners: usize, source_symbols: u16, certainty: f64) -> f64 {
    let log_all_have = |beyond: u32| -> f64 {
        let log_has = |&loss: &f64| {
            let mean = (f64::from(source_symbols) + f64::from(beyond)) * loss.clamp(0.0, 0.5);
            // Σ mean^i e^-mean / i! for i up to `beyond`.
            let mut term = (-mean).exp();
            let mut sum = term;
            for i in 1..=beyond {
                term *= mean / f64::from(i);
                sum += term;
            }
            sum.clamp(1e-300, 1.0).ln()
        };
        losses.iter().map(log_has).sum::<f64>() / losses.len().max(1) as f64 * listeners as f64
    };
    let most = (f64::from(source_symbols) * SHARE_OF_K_MAX) as u32;
    (0..most).find(|&beyond| log_all_have(beyond) >= certainty.ln()).map_or(f64::from(most), |beyond| (f64::from(beyond) - 0.5).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_given_on_average() {
        let mut proactive = Proactive { symbols: 1.25, ..Proactive::default() };
        assert_eq!((0..8).map(|_| proactive.next(187)).collect::<Vec<_>>(), [1, 1, 1, 2, 1, 1, 1, 2]);
        proactive.symbols = 1e9;
        assert!(proactive.next(10) <= 2, "within what a small chunk has");
    }

    #[test]
    fn the_first_estimate_is_what_many_receivers_need() {
        // The largest of 1,000 binomial losses of 1 % of 187: 7.7 on average (DESIGN 7).
        let estimate = expected_symbols(&[0.01; 10], 1_000, 187, 0.75);
        assert!((7.0..10.0).contains(&estimate), "{estimate}");
        assert_eq!(expected_symbols(&[0.0], 1_000, 187, 0.75), 0.0);
        assert_eq!(expected_symbols(&[0.9], 1_000, 187, 0.75), 37.0);
    }

    #[test]
    fn it_follows_what_is_reported_of_its_own_groups_only() {
        let mut proactive = Proactive::default();
        let landed = |version, deficits: &[u16]| Landed { version, deficits: deficits.to_vec(), listeners: 100 };
        proactive.landed(landed(0, &[2, 3, 2, 4]));
        assert_eq!(proactive.symbols, 3.0, "three quarters would have had enough");
        proactive.landed(landed(0, &[2, 3, 2, 4]));
        assert_eq!(proactive.symbols, 3.0, "sent before the change");
        proactive.landed(landed(1, &[0, 0, 0, 0]));
        assert_eq!(proactive.symbols, 2.75);
        proactive.landed(Landed { listeners: 3, ..landed(2, &[]) });
        assert_eq!(proactive.symbols, 0.0);
    }
}
