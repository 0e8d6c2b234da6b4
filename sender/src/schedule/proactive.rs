//! How many repair symbols follow each chunk before anybody has asked for them, so that among many receivers few have to report.
//!
//! For one receiver the cheapest is to send what it lacks, when it is known. For N receivers some symbol is lacking somewhere of nearly every chunk: it costs
//! nothing to send at once what will be asked for anyway, and it saves N reports and a round trip. The number h of such symbols is first what losses let expect
//! (`model`), and then follows f, the share of chunks of which somebody still lacked something. A group that went out with h and of which f was reported says that
//! the target would have been met with h + s ln(ln(1 − f) / ln(1 − target)), s being the symbols that divide the rate of reports by e; h moves part of the way there. Of receivers
//! that are not listening yet as many reports are expected as of those that are.
//! Since what is said is related to the h that the group went out with, h does not swing, however long reports take. The target is what makes few
//! entries of each receiver's reports, as far as the symbols sent in vain allow (`target`).

mod model;
mod target;

pub(super) use model::LossModel;
use target::Target;

/// From so many receivers on: fewer report little, and repaired by the very symbols that they lack they have nothing to decode.
const LISTENERS_MIN: usize = 8;
/// Never more than this share of K, whatever is said: R is a quarter of K, and some symbols must be left for repair.
const SHARE_OF_K_MAX: f64 = 0.2;
/// Nothing changes by more than this at once, the first estimate apart.
const STEP_MAX: f64 = 4.0;
/// A group of n chunks moves h by n / (n + 32) of the way: one of 16 by a third, so that its chance of 4 +- 1.7 chunks reported makes h waver by 0.1
/// symbols, one of 64 by two thirds.
const INERTIA_CHUNKS: f64 = 32.0;
/// That nothing was reported of a group does not mean that nothing ever is: so many reports are taken to have come before it, at the rate that is aimed at.
const REPORTS_BEFORE: f64 = 0.5;
/// Symbols that divide the rate of reports by e, until losses tell: with 1 % of 187 lost, the probability of 9 is a fifth of that of 8.
const SCALE: f64 = 0.65;
/// … and whatever they tell. Runs of 32 packets in groups of 16 chunks have 2.5.
const SCALE_MIN: f64 = 0.2;
const SCALE_MAX: f64 = 3.0;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Proactive {
    symbols: f64,
    scale: f64,
    /// The share of chunks that is to be reported.
    target: Target,
    /// Counts how often all was learnt anew.
    epoch: u32,
    /// Part of a symbol that the chunks so far should have had and did not get.
    owed: f64,
    primed: bool,
    /// Of the groups that were learnt from.
    interleave: usize,
}

/// With what a group went out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Provision {
    epoch: u32,
    symbols: f64,
}

/// What became of a group.
pub(super) struct Landed {
    pub(super) provision: Provision,
    /// What the neediest receiver lacked of each of its chunks; 0 where nobody lacked any.
    pub(super) deficits: Vec<u16>,
    /// Receivers that listen, and those that want something: some of these may not have reported yet.
    pub(super) listeners: usize,
    pub(super) receivers: usize,
}

impl Proactive {
    pub(super) fn new() -> Proactive {
        Proactive { symbols: 0.0, scale: SCALE, target: Target::default(), epoch: 0, owed: 0.0, primed: false, interleave: 0 }
    }

    /// With what groups go out now.
    pub(super) fn provision(&self) -> Provision {
        Provision { epoch: self.epoch, symbols: self.symbols }
    }

    /// How many repair symbols go with the next chunk of K = `source_symbols`: on average what is aimed at.
    pub(super) fn next(&mut self, source_symbols: u16) -> u16 {
        self.owed += self.symbols.min(f64::from(most_symbols(source_symbols)));
        let symbols = self.owed.floor();
        self.owed -= symbols;
        symbols as u16
    }

    /// From now on groups have so many chunks. Where losses come in runs, what was learnt holds no longer when that is far from what it was.
    pub(super) fn mind_interleave(&mut self, interleave: usize, run_packets: f64) {
        let (fewer, more) = (interleave.min(self.interleave), interleave.max(self.interleave));
        if run_packets > 2.0 && more * 2 > fewer * 3 {
            self.epoch = self.epoch.wrapping_add(1);
            self.primed = false;
        }
        if !self.primed {
            self.interleave = interleave;
        }
    }

    /// Takes what is known of losses: what it may cost to have few reports, and a first estimate, while there is no experience.
    pub(super) fn mind_losses(&mut self, model: &LossModel) {
        if model.losses.is_empty() || model.receivers < LISTENERS_MIN {
            return;
        }
        let most = most_symbols(model.source_symbols);
        self.target.mind_losses(model, most);
        if !self.primed {
            self.primed = true;
            let estimate = model.estimate(report_rate(self.target.share(model.receivers)), most);
            self.symbols = estimate.symbols;
            self.scale = if estimate.scale.is_finite() { estimate.scale.clamp(SCALE_MIN, SCALE_MAX) } else { SCALE };
        }
    }

    /// Learns from a group that all, or all but a few, have passed.
    pub(super) fn landed(&mut self, mut group: Landed) {
        if group.listeners < LISTENERS_MIN {
            self.symbols = 0.0;
            return;
        }
        if group.provision.epoch != self.epoch || group.deficits.is_empty() {
            return;
        }
        let receivers = group.receivers.max(group.listeners);
        let target = self.target.share(receivers);
        let unheard = receivers as f64 / group.listeners as f64;
        let (chunks, reported) = (group.deficits.len() as f64, group.deficits.iter().filter(|&&deficit| deficit > 0).count() as f64);
        let short = if reported > chunks * 0.75 {
            // Far off: what all but `target` of the chunks would have needed.
            group.deficits.sort_unstable();
            let index = ((1.0 - target) * (chunks - 1.0)) as usize;
            f64::from(group.deficits[index]).max(0.5) + self.scale * unheard.ln()
        } else {
            let came = chunks * report_rate(reported / chunks);
            let aimed_at = chunks * report_rate(target) / unheard;
            // By chance it is now more and now less: on average nothing is to follow from that.
            let by_chance = mean_logarithm(aimed_at);
            self.scale * ((came + REPORTS_BEFORE).ln() - by_chance)
        };
        let step = group.provision.symbols + short - self.symbols;
        let part = if self.primed { chunks / (chunks + INERTIA_CHUNKS) } else { 1.0 };
        let step_max = if self.primed { STEP_MAX } else { f64::INFINITY };
        self.primed = true;
        self.symbols = (self.symbols + (step * part).clamp(-step_max, step_max)).max(0.0);
    }
}

/// The most that goes with a chunk of K = `source_symbols`.
fn most_symbols(source_symbols: u16) -> u16 {
    (f64::from(source_symbols) * SHARE_OF_K_MAX) as u16
}

/// Receivers that lack something of a chunk, on average, when of a share of the chunks somebody does and they lose independently (Poisson).
fn report_rate(share: f64) -> f64 {
    -(1.0 - share).ln()
}

/// Of ln(n + [`REPORTS_BEFORE`]), n being Poisson with this mean. Of few it is far below the logarithm of the mean: with a target of 4 % 16 chunks have 0.7
/// reports, and h would be moved down by 0.16 symbols with each group that is as it should be.
fn mean_logarithm(mean: f64) -> f64 {
    // Beyond, the first term of the expansion differs by less than 0.001.
    if mean > 30.0 {
        return (mean + REPORTS_BEFORE).ln() - 0.5 * mean / (mean + REPORTS_BEFORE).powi(2);
    }
    let mut probability = (-mean).exp();
    let mut sum = 0.0;
    for count in 0..100 {
        sum += probability * (f64::from(count) + REPORTS_BEFORE).ln();
        probability *= mean / f64::from(count + 1);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landed(symbols: f64, deficits: &[u16]) -> Landed {
        Landed { provision: Provision { epoch: 0, symbols }, deficits: deficits.to_vec(), listeners: 100, receivers: 100 }
    }

    #[test]
    fn fractions_are_given_on_average() {
        let mut proactive = Proactive { symbols: 1.25, ..Proactive::new() };
        assert_eq!((0..8).map(|_| proactive.next(187)).collect::<Vec<_>>(), [1, 1, 1, 2, 1, 1, 1, 2]);
        proactive.symbols = 1e9;
        assert!(proactive.next(10) <= 2, "within what a small chunk has");
    }

    #[test]
    fn it_goes_to_what_meets_the_target_whatever_it_was_when_the_group_went_out() {
        let mut proactive = Proactive::new();
        proactive.landed(landed(0.0, &[2, 3, 2, 4]));
        assert_eq!(proactive.symbols, 3.0, "three quarters would have had enough");
        (0..100).for_each(|_| proactive.landed(landed(0.0, &[2, 3, 2, 4])));
        assert_eq!(proactive.symbols, 3.0, "that has been heeded");
        (0..100).for_each(|_| proactive.landed(landed(3.0, &[0, 1, 0, 0].repeat(16))));
        assert!((2.9..3.1).contains(&proactive.symbols), "as aimed at: {proactive:?}");
        proactive.landed(landed(3.0, &[0; 64]));
        assert!((1.0..2.5).contains(&proactive.symbols), "nobody asked about many: {proactive:?}");
        let before = proactive.symbols;
        proactive.landed(Landed { receivers: 10_000, ..landed(before, &[0; 16]) });
        assert!((before - 0.1..before).contains(&proactive.symbols), "one in a hundred listens: that says little, {proactive:?}");
        proactive.landed(Landed { listeners: 3, ..landed(2.0, &[]) });
        assert_eq!(proactive.symbols, 0.0);
    }

    #[test]
    fn chance_moves_nothing_on_average() {
        // Of 16 chunks one is reported as often as the target says: 0, 1, 2 of them by the Poisson distribution.
        for aimed_at in [0.1_f64, 0.7, 4.6, 29.9, 30.1] {
            let mut probability = (-aimed_at).exp();
            let mut step = 0.0;
            for count in 0..90 {
                step += probability * ((f64::from(count) + REPORTS_BEFORE).ln() - mean_logarithm(aimed_at));
                probability *= aimed_at / f64::from(count + 1);
            }
            assert!(step.abs() < 0.001, "{aimed_at}: {step}");
        }
    }

    #[test]
    fn what_was_learnt_of_runs_holds_for_one_interleave_only() {
        let model = |interleave| LossModel { losses: vec![0.01], receivers: 1_000, run_packets: 32.0, interleave, source_symbols: 187 };
        let mut proactive = Proactive::new();
        proactive.mind_interleave(16, 32.0);
        proactive.mind_losses(&model(16));
        let (before, at_16) = (proactive.provision(), proactive.symbols);
        proactive.mind_interleave(20, 32.0);
        assert_eq!(proactive.provision(), before);
        proactive.mind_interleave(64, 32.0);
        proactive.mind_losses(&model(64));
        let at_64 = proactive.symbols;
        assert!(at_64 + 4.0 < at_16, "{at_16} {at_64}");
        proactive.landed(Landed { provision: before, deficits: vec![9; 16], listeners: 1_000, receivers: 1_000 });
        assert_eq!(proactive.symbols, at_64, "it went out as 16 chunks");
    }
}
