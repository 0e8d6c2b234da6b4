//! How fast to send: up to the operator's cap, below it as the receivers' loss and backlog allow.
//!
//! Every 50 ms with enough reports in it, the rate is judged by the worst receiver that is not a straggler (the worst tenth of ten
//! or more receivers is left out of account: it must not slow the rest). More than 70 % backlog takes 15 % off the rate, a full one half. More than 5 % loss in two
//! windows in a row, or more than a quarter in one, takes off what was lost, but no less than a quarter and no more than half: random loss of
//! 1 % stays far below, and one burst is not a trend. Otherwise the rate grows by half a window until the first setback, by a sixteenth
//! afterwards.
//!
//! Where a link is too narrow, as much arrives after a decrease as before. Where what arrives falls with the rate, the loss is not made by the
//! rate (a bad cable, or a receiver that lies): after four decreases the rate goes back to where it was and that much loss is put up with.

use super::ReceiverId;
use std::collections::BTreeMap;
use wire::Micros;
use wire::report::Report;

/// Time between two decisions: several report intervals of 10 ms.
const WINDOW_US: u64 = 50_000;
/// Packets that a receiver's loss must rest on: 5 % of 200 are 10 packets, which is no accident.
const SAMPLE_PACKETS_MIN: i64 = 200;
/// More packets than a window can have, so that sums stay far from overflowing.
const PACKETS_MAX: i64 = 1 << 40;
/// The rate to begin with, when the cap allows: what every machine of the last 15 years receives. 10 Gbit/s is reached in 6 windows.
const START_BITS_PER_SECOND: u64 = 1_000_000_000;
const LOSS_TOLERATED_PERMILLE: u64 = 50;
const LOSS_SEVERE_PERMILLE: u64 = 250;
/// What is put up with at most, however much is lost.
const LOSS_TOLERATED_MAX_PERMILLE: u64 = 900;
const BACKLOG_HIGH_PERMILLE: u64 = 700;
const BACKLOG_LOW_PERMILLE: u64 = 500;
/// 0.75^4 is 0.32: loss made by the rate would have gone, or as much as before would arrive.
const FUTILE_DECREASES: u32 = 4;
/// One in this many receivers may be left out of account.
const STRAGGLER_SHARE: usize = 10;

/// What one receiver reported, of which half is forgotten every window. A receiver's count of packets is taken at another moment than its position
/// in the stream: it may be ahead by what waits in the receiver's rings, and the next one behind. So lost packets are counted with their sign.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    sent: i64,
    lost: i64,
    backlog_permille: u64,
    fresh: bool,
}

impl Sample {
    fn loss_permille(&self) -> u64 {
        (self.lost.max(0) * 1000 / self.sent.max(1)) as u64
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct RateControl {
    cap: u64,
    floor: u64,
    rate: u64,
    decide_at: Micros,
    samples: BTreeMap<ReceiverId, Sample>,
    /// No setback yet.
    ramping: bool,
    tolerated_permille: u64,
    /// The window before this one had more loss than is tolerated.
    lossy_before: bool,
    /// The rate was lowered in the window before: what is reported now belongs in part to the old rate.
    settling: bool,
    decreases: u32,
    /// Rate and loss before the first of `decreases`.
    before_decreases: (u64, u64),
}

impl RateControl {
    pub(super) fn new(cap_bits_per_second: u64, floor_bits_per_second: u64) -> RateControl {
        let cap = cap_bits_per_second.max(1);
        RateControl {
            cap,
            floor: floor_bits_per_second.clamp(1, cap),
            rate: START_BITS_PER_SECOND.min(cap),
            decide_at: Micros(0),
            samples: BTreeMap::new(),
            ramping: true,
            tolerated_permille: LOSS_TOLERATED_PERMILLE,
            lossy_before: false,
            settling: false,
            decreases: 0,
            before_decreases: (0, 0),
        }
    }

    /// Of all streams together.
    pub(super) fn bits_per_second(&self) -> u64 {
        self.rate
    }

    /// Takes the figures of a report.
    pub(super) fn note(&mut self, receiver: ReceiverId, report: &Report) {
        let sample = self.samples.entry(receiver).or_default();
        // Within a stream's numbers; anything beyond is not true.
        let sent = i64::from(u32::try_from(report.packets_sent).unwrap_or(u32::MAX));
        let seen = i64::from(u32::try_from(report.packets_seen).unwrap_or(u32::MAX));
        sample.sent = sample.sent.saturating_add(sent).min(PACKETS_MAX);
        sample.lost = sample.lost.saturating_add(sent - seen).clamp(-sample.sent, sample.sent);
        sample.backlog_permille = u64::from(report.backlog_permille.min(1000));
        sample.fresh = true;
    }

    /// The receiver is gone.
    pub(super) fn forget(&mut self, receiver: ReceiverId) {
        self.samples.remove(&receiver);
    }

    /// Decides anew when it is time.
    pub(super) fn tick(&mut self, now: Micros) {
        if now < self.decide_at {
            return;
        }
        self.decide_at = now.after(WINDOW_US);
        let fresh = || self.samples.values().filter(|sample| sample.fresh);
        if fresh().next().is_none() {
            return;
        }
        let backlog_permille = worst(fresh().map(|sample| sample.backlog_permille));
        let loss = worst(fresh().filter(|sample| sample.sent >= SAMPLE_PACKETS_MIN).map(Sample::loss_permille));
        let settling = std::mem::take(&mut self.settling);
        for sample in self.samples.values_mut().filter(|sample| sample.fresh) {
            sample.fresh = false;
            if settling {
                (sample.sent, sample.lost) = (0, 0);
            } else if sample.sent >= SAMPLE_PACKETS_MIN {
                (sample.sent, sample.lost) = (sample.sent / 2, sample.lost / 2);
            }
        }
        self.decide(loss.filter(|_| !settling), backlog_permille.unwrap_or(0));
    }

    fn decide(&mut self, loss_permille: Option<u64>, backlog_permille: u64) {
        let loss = loss_permille.unwrap_or(0);
        let lossy = loss > self.tolerated_permille;
        let confirmed = lossy && (self.lossy_before || loss > LOSS_SEVERE_PERMILLE.max(self.tolerated_permille));
        if loss_permille.is_some() {
            self.lossy_before = lossy;
        }
        if backlog_permille > BACKLOG_HIGH_PERMILLE {
            self.ramping = false;
            // From 15 % off at 70 % to 50 % off when all is full: a receiver with little memory leaves little time.
            let off_permille = 150 + (backlog_permille - BACKLOG_HIGH_PERMILLE) * 350 / (1000 - BACKLOG_HIGH_PERMILLE);
            self.set((u128::from(self.rate) * u128::from(1000 - off_permille) / 1000) as u64);
        } else if confirmed {
            self.decrease_for(loss);
        } else if !lossy && loss_permille.is_some() {
            self.decreases = 0;
            if self.tolerated_permille > LOSS_TOLERATED_PERMILLE && loss * 2 < self.tolerated_permille {
                self.tolerated_permille = (loss * 5 / 4).max(LOSS_TOLERATED_PERMILLE);
            }
            if backlog_permille < BACKLOG_LOW_PERMILLE {
                let step = if self.ramping { self.rate / 2 } else { (self.rate / 16).max(self.cap / 100) };
                self.set(self.rate.saturating_add(step));
            }
        }
    }

    fn decrease_for(&mut self, loss_permille: u64) {
        self.ramping = false;
        if self.decreases == 0 {
            self.before_decreases = (self.rate, loss_permille);
        }
        let (rate_before, loss_before) = self.before_decreases;
        let arrives = |rate: u64, loss_permille: u64| u128::from(rate) * u128::from(1000 - loss_permille.min(1000));
        let less_arrives = arrives(self.rate, loss_permille) * 10 < arrives(rate_before, loss_before) * 6;
        if self.decreases >= FUTILE_DECREASES && loss_permille * 10 >= loss_before * 7 && less_arrives {
            self.tolerated_permille = (loss_permille * 5 / 4).min(LOSS_TOLERATED_MAX_PERMILLE);
            self.decreases = 0;
            self.set(rate_before);
            return;
        }
        self.decreases += 1;
        self.set((u128::from(self.rate) * u128::from(1000 - loss_permille.clamp(250, 500)) / 1000) as u64);
    }

    fn set(&mut self, rate: u64) {
        self.settling |= rate < self.rate;
        self.rate = rate.clamp(self.floor, self.cap);
    }
}

/// The largest of `figures` after the share of the stragglers is left out.
fn worst(figures: impl Iterator<Item = u64>) -> Option<u64> {
    let mut figures: Vec<u64> = figures.collect();
    figures.sort_unstable();
    let stragglers = figures.len() / STRAGGLER_SHARE;
    figures.len().checked_sub(stragglers + 1).map(|index| figures[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GBIT: u64 = 1_000_000_000;

    struct Run {
        control: RateControl,
        now: Micros,
    }

    impl Run {
        fn new(cap: u64) -> Run {
            Run { control: RateControl::new(cap, GBIT / 100), now: Micros(0) }
        }

        /// One window in which receiver i loses `losses_permille[i]` of 10,000 packets.
        fn window(&mut self, losses_permille: &[u64], backlog_permille: u16) -> u64 {
            for (receiver, loss) in (0..).zip(losses_permille) {
                let report = Report { packets_sent: 10_000, packets_seen: 10_000 - loss * 10, backlog_permille, ..Report::default() };
                self.control.note(ReceiverId(receiver), &report);
            }
            self.now = self.now.after(WINDOW_US);
            self.control.tick(self.now);
            self.control.bits_per_second()
        }
    }

    #[test]
    fn one_percent_of_random_loss_does_not_slow_it() {
        let mut run = Run::new(10 * GBIT);
        for _ in 0..6 {
            run.window(&[10, 12, 8], 0);
        }
        assert_eq!(run.window(&[10, 12, 8], 0), 10 * GBIT);
        assert_eq!(run.window(&[10, 120, 8], 0), 10 * GBIT, "one window is a burst");
    }

    #[test]
    fn lasting_loss_slows_it_and_the_cap_is_never_passed() {
        let mut run = Run::new(GBIT);
        assert_eq!(run.window(&[0], 0), GBIT);
        run.window(&[80], 0);
        assert_eq!(run.window(&[80], 0), GBIT * 3 / 4);
        let slowed = run.control.bits_per_second();
        assert_eq!(run.window(&[900], 0), slowed, "what comes right after a decrease is not judged");
        assert!(run.window(&[20], 0) > slowed, "recovers");
        for _ in 0..100 {
            assert!(run.window(&[0], 0) <= GBIT);
        }
        assert_eq!(run.control.bits_per_second(), GBIT);
    }

    #[test]
    fn loss_that_does_not_depend_on_the_rate_is_put_up_with() {
        let mut run = Run::new(GBIT);
        for _ in 0..40 {
            run.window(&[120], 0);
        }
        assert!(run.control.bits_per_second() > GBIT / 2, "{}", run.control.bits_per_second());
    }

    #[test]
    fn a_narrow_link_is_found_whatever_the_overshoot() {
        let mut run = Run::new(10 * GBIT);
        let mut worst_after = 0;
        for window in 0..60 {
            let rate = run.control.bits_per_second();
            let loss_permille = 1000 - (GBIT / 4 * 1000 / rate).min(1000);
            run.window(&[loss_permille], 0);
            if window >= 10 {
                worst_after = worst_after.max(rate);
            }
        }
        assert!(worst_after < GBIT / 2, "{worst_after}");
        assert!(run.control.bits_per_second() > GBIT / 8);
    }

    #[test]
    fn backlog_holds_and_slows_down_to_the_floor() {
        let mut run = Run::new(GBIT);
        assert_eq!(run.window(&[0], 600), GBIT);
        assert_eq!(run.window(&[0], 700), GBIT);
        assert_eq!(run.window(&[0], 850), GBIT * 675 / 1000);
        for _ in 0..100 {
            run.window(&[0], 1000);
        }
        assert_eq!(run.control.bits_per_second(), GBIT / 100);
    }

    #[test]
    fn one_straggler_among_ten_does_not_slow_the_rest() {
        let mut run = Run::new(GBIT);
        for _ in 0..10 {
            run.window(&[500, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0);
        }
        assert_eq!(run.control.bits_per_second(), GBIT);
    }

    #[test]
    fn figures_that_cannot_be_do_no_harm() {
        let mut control = RateControl::new(0, u64::MAX);
        let report = Report { packets_sent: u64::MAX, packets_seen: u64::MAX, backlog_permille: u16::MAX, ..Report::default() };
        for window in 0..3 {
            control.note(ReceiverId(1), &report);
            control.note(ReceiverId(1), &report);
            control.tick(Micros(window * WINDOW_US));
        }
        assert_eq!(control.bits_per_second(), 1);
    }
}
