//! How fast to send: up to the operator's cap, below it as the receivers' loss and backlog allow.
//!
//! **Loss.** Every 50 ms each receiver's loss is compared with its *ground loss*, what it loses at any rate (a bad cable; 0 until proved otherwise).
//! When it has lost clearly more, the rate is lowered by a quarter (23 %), or by more when much was lost, up to a half; and that is a test. When what was
//! sent before has been accounted for, the loss at the lower rate is measured for 100 to 300 ms:
//!
//! * It is clearly less: the loss was made by the rate. The rate stays and climbs again.
//! * It is the same: it is not. The old rate is restored at once.
//! * It is more, or as much arrives as before: the rate is still far too high. It is lowered again.
//!
//! What is lost at the lower rate becomes the ground loss. Where others, such as TCP, fill a link to its brim, some loss remains at any rate, and a
//! sender that put up with it for good would crowd them out: but there the loss at three quarters of the rate is the smaller, the larger our share of the link is. The test
//! therefore finds in the rate's favour below a third to a half of the link, and against it above.
//!
//! **Climbing** is by as much a second for everybody, whatever the rate, so that sessions that share a link draw level: decreases take more from the
//! larger one. The longer nothing is lost, the larger the steps become, so that 10 Gbit/s are reached again in seconds. Until the first decrease the rate grows by half a window.
//!
//! **Silence.** When nobody has said for long how much has come, as when a full queue drops every sync, the rate is halved (as in RFC 5348, 4.4), and again. Once
//! somebody is heard it grows as it did at the start.
//!
//! **Backlog.** The rate follows how full receivers' memories are and soon will be (`backlog`), so that it settles at what the slowest disk takes.
//!
//! One in ten of ten or more receivers may say what it likes without being heeded, unless the operator wants everybody waited for. Where some have a higher
//! priority than others, the others are not heeded at all.

mod backlog;
mod loss;

use super::ReceiverId;
use backlog::Backlog;
use loss::{Comparison, Effect, Losses};
use std::collections::{BTreeMap, BTreeSet};
use wire::Micros;
use wire::report::Report;

/// Time between two decisions: several report intervals of 10 ms.
const WINDOW_US: u64 = 50_000;
/// The rate to begin with, when the cap allows: what every machine of the last 15 years receives. 10 Gbit/s is reached in 6 windows.
const START_BITS_PER_SECOND: u64 = 1_000_000_000;
/// What a decrease leaves of what arrives; CUBIC's is 0.7. Alone on a link the rate swings between 0.77 and 1: 0.88 on average. With 0.8 two sessions
/// draw level more slowly, and TCP gets less.
const DECREASE: f64 = 0.77;
/// … and of the rate, at least: one stall of a receiver must not cost more.
const DECREASE_MIN: f64 = 0.5;
/// Until reports are about the new rate: a group (36 ms at 1 Gbit/s, at most 100 ms) and a report interval …
const SETTLE_US: u64 = 100_000;
/// … at low rates, this many packets: 4 chunks of 187 symbols and some.
const SETTLE_BITS: u64 = 1_000 * 12_000;
/// A test lasts as long as is needed for a judgement, within these limits.
const TEST_US_MIN: u64 = 100_000;
const TEST_US_MAX: u64 = 300_000;
/// Silence is twice the time that a group and its reports take, at least this.
const SILENCE_US_MIN: u64 = 300_000;
/// What silence leaves of the rate.
const SILENCE_FACTOR: f64 = 0.5;
/// What the rate grows by in a window after a decrease: 100 Mbit/s a second …
const STEP_BITS_PER_SECOND: f64 = 5e6;
/// … and as much more after every so many windows without a decrease: after t seconds it has grown by 100 (t + t^2) Mbit/s, so that 10 Gbit/s are
/// reached again from 7.7 in 4.3 s.
const STEP_GROWS_WINDOWS: f64 = 10.0;
/// Steps are never above the larger of the plain one and this part of the rate, …
const STEP_PART: f64 = 1.0 / 16.0;
/// Growth by half a window that passes what a link carries loses a good part of a window. Less than this on the way up is no such overshoot but a stray
/// burst, and the rate goes on growing as it did, from the lowered one.
const OVERSHOOT_LOSS: f64 = 0.02;
/// Less is lost when the difference is so many standard deviations: of all together; of one among several who made alarm.
const ALL_DEVIATIONS: f64 = 1.0;
const ONE_OF_MANY_DEVIATIONS: f64 = 2.0;
/// One in this many receivers may be left out of account.
const STRAGGLER_SHARE: usize = 10;

/// Where the control stands.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Climbing,
    /// After a decrease: what is reported belongs in part to the old rate.
    Settling {
        until: Micros,
        before: Before,
    },
    /// The loss at the lower rate is measured.
    Testing {
        since: Micros,
        before: Before,
    },
}

/// What made for the last decrease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Network,
    Disk,
}

/// What is restored when a decrease turns out to be of no use.
#[derive(Clone, Copy, Debug)]
struct Before {
    rate: f64,
    ramping: bool,
    quiet_windows: f64,
    limit: Limit,
    /// The loss that made for it.
    excess: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    losses: Losses,
    backlog: Backlog,
    fresh: bool,
    /// A fresh report said what was sent and seen.
    counted: bool,
}

/// The rate of a stream, or of all streams that share a way to their receivers. See the module's text.
#[derive(Debug)]
pub struct RateControl {
    cap: f64,
    floor: f64,
    rate: f64,
    leaves_out_stragglers: bool,
    decided_at: Micros,
    /// When somebody last said what was sent and seen, or silence last had its effect.
    heard_at: Option<Micros>,
    figures: BTreeMap<ReceiverId, Figures>,
    /// Those who do not count at present.
    unheeded: BTreeSet<ReceiverId>,
    phase: Phase,
    /// No setback yet.
    ramping: bool,
    quiet_windows: f64,
    limit: Limit,
}

impl RateControl {
    /// A rate that is never above `cap_bits_per_second`, nor, because of what receivers say, below `floor_bits_per_second`.
    pub fn new(cap_bits_per_second: u64, floor_bits_per_second: u64) -> RateControl {
        let mut control = RateControl {
            cap: 1.0,
            floor: 1.0,
            rate: START_BITS_PER_SECOND as f64,
            leaves_out_stragglers: true,
            decided_at: Micros(0),
            heard_at: None,
            figures: BTreeMap::new(),
            unheeded: BTreeSet::new(),
            phase: Phase::Climbing,
            ramping: true,
            quiet_windows: 0.0,
            limit: Limit::Network,
        };
        control.set_cap(cap_bits_per_second);
        control.set_floor(floor_bits_per_second);
        control
    }

    /// Changes the cap: downwards at once, upwards the rate climbs as it does anyway.
    pub fn set_cap(&mut self, bits_per_second: u64) {
        self.cap = bits_per_second.max(1) as f64;
        self.rate = self.rate.min(self.cap);
    }

    /// Changes the floor. Above the cap it is the cap.
    pub fn set_floor(&mut self, bits_per_second: u64) {
        self.floor = bits_per_second.max(1) as f64;
    }

    /// Whether one in ten receivers may fall behind without slowing the others, as it is from the start, or everybody is waited for.
    pub fn set_leaves_out_stragglers(&mut self, leaves_out: bool) {
        self.leaves_out_stragglers = leaves_out;
    }

    /// The rate now.
    pub fn bits_per_second(&self) -> u64 {
        self.rate as u64
    }

    /// The receiver is there from now on, and will report.
    pub fn expect(&mut self, receiver: ReceiverId) {
        self.figures.entry(receiver).or_default();
    }

    /// Only those count from now on of whom `counts` says so. Who counts again begins anew.
    pub(super) fn heed(&mut self, counts: impl Fn(ReceiverId) -> bool) {
        let again: Vec<ReceiverId> = self.unheeded.iter().copied().filter(|&receiver| counts(receiver)).collect();
        for receiver in again {
            self.unheeded.remove(&receiver);
            self.expect(receiver);
        }
        self.unheeded.extend(self.figures.keys().copied().filter(|&receiver| !counts(receiver)));
        self.figures.retain(|&receiver, _| counts(receiver));
    }

    /// Whether there are some who do not count.
    pub(super) fn has_unheeded(&self) -> bool {
        !self.unheeded.is_empty()
    }

    /// Whether [`RateControl::tick`] will decide.
    pub(super) fn is_due(&self, now: Micros) -> bool {
        now.since(self.decided_at) >= WINDOW_US
    }

    /// Takes the figures of a report.
    pub fn note(&mut self, receiver: ReceiverId, report: &Report) {
        if self.unheeded.contains(&receiver) {
            return;
        }
        let figures = self.figures.entry(receiver).or_default();
        figures.losses.note(report);
        figures.backlog.note(report.backlog_permille);
        figures.fresh = true;
        figures.counted |= report.packets_sent > 0;
    }

    /// The receiver is gone.
    pub fn forget(&mut self, receiver: ReceiverId) {
        self.figures.remove(&receiver);
        self.unheeded.remove(&receiver);
    }

    /// Decides anew when it is time. Receivers report every `report_interval_us` at most.
    pub fn tick(&mut self, now: Micros, report_interval_us: u64) {
        if !self.is_due(now) {
            return;
        }
        let elapsed_us = now.since(self.decided_at);
        self.decided_at = now;
        if self.figures.values().any(|figures| figures.counted) {
            self.heard_at = Some(now);
        }
        if self.figures.is_empty() {
            self.heard_at = None;
            return;
        }
        if now.since(*self.heard_at.get_or_insert(now)) >= self.silence_us(report_interval_us) {
            self.heard_at = Some(now);
            (self.ramping, self.phase, self.quiet_windows) = (true, Phase::Climbing, 0.0);
            self.set(self.rate * SILENCE_FACTOR);
            return;
        }
        if !self.figures.values().any(|figures| figures.fresh) {
            return;
        }
        // After a pause the first window is one of many.
        let elapsed_s = elapsed_us.min(4 * WINDOW_US) as f64 / 1e6;
        self.figures.values_mut().filter(|figures| figures.fresh).for_each(|figures| figures.backlog.tick(elapsed_s));
        let backlog = self.backlog_factor(elapsed_s);
        let grown = self.follow_loss(now, report_interval_us);
        self.figures.values_mut().for_each(|figures| (figures.fresh, figures.counted) = (false, false));
        let wished = match backlog {
            Some(factor) if factor < 1.0 => {
                self.give_way_to_disk(factor);
                Some(self.rate * factor)
            }
            // With nobody to share the disk with, the rate climbs as fast as the memory allows; with nothing in it, it doubles in 0.6 s.
            Some(factor) if self.is_climbing_to_disk() => Some(self.rate * factor),
            None if self.is_climbing_to_disk() => Some(self.rate * (1.0 + STEP_PART)),
            Some(factor) => grown.map(|grown| grown.min(self.rate * factor)),
            None => grown,
        };
        self.set(wished.unwrap_or(self.rate));
    }

    /// The rate is about to be lowered to `factor` of it. A test goes on, and what it would restore is lowered too: were it broken off, receivers that lose
    /// some at any rate would make alarm again and again while the disk is busy, and each time a quarter of the rate would be gone for good.
    fn give_way_to_disk(&mut self, factor: f64) {
        (self.ramping, self.quiet_windows) = (false, 0.0);
        match &mut self.phase {
            Phase::Climbing => self.limit = Limit::Disk,
            Phase::Settling { before, .. } | Phase::Testing { before, .. } => {
                before.rate *= factor;
                (before.ramping, before.quiet_windows, before.limit) = (false, 0.0, Limit::Disk);
            }
        }
    }

    /// What a group takes at most.
    fn group_us(&self) -> u64 {
        SETTLE_US.max(SETTLE_BITS * 1_000_000 / self.bits_per_second().max(1))
    }

    fn silence_us(&self, report_interval_us: u64) -> u64 {
        SILENCE_US_MIN.max(self.group_us().saturating_add(report_interval_us).saturating_mul(2))
    }

    fn is_climbing_to_disk(&self) -> bool {
        self.limit == Limit::Disk && matches!(self.phase, Phase::Climbing)
    }

    /// How many of `count` receivers are not heeded.
    fn left_out(&self, count: usize) -> usize {
        if self.leaves_out_stragglers { count / STRAGGLER_SHARE } else { 0 }
    }

    /// The worst of `figures` once those that are left out are; the larger, the worse.
    fn worst(&self, figures: impl Iterator<Item = f64>) -> Option<f64> {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_unstable_by(f64::total_cmp);
        figures.len().checked_sub(self.left_out(figures.len()) + 1).map(|index| figures[index])
    }

    fn backlog_factor(&self, elapsed_s: f64) -> Option<f64> {
        let fresh = self.figures.values().filter(|figures| figures.fresh);
        let factor = |figures: &Figures| -figures.backlog.factor(elapsed_s).unwrap_or(f64::INFINITY);
        self.worst(fresh.map(factor)).map(|worst| -worst).filter(|factor| factor.is_finite())
    }

    /// The rate that the losses let one wish for; `None`: the present one.
    fn follow_loss(&mut self, now: Micros, report_interval_us: u64) -> Option<f64> {
        match self.phase {
            Phase::Climbing => self.climb(now, report_interval_us),
            Phase::Settling { until, before } => {
                if now >= until {
                    self.figures.values_mut().for_each(|figures| figures.losses.begin_test());
                    self.phase = Phase::Testing { since: now, before };
                }
                None
            }
            Phase::Testing { since, before } => {
                let tested = |figures: &mut Figures| figures.losses.test();
                // All of them, not only until one says no.
                let unsure = self.figures.values_mut().map(tested).filter(|&sure| !sure).count();
                let lasts_us = now.since(since);
                if lasts_us < TEST_US_MIN || (unsure > 0 && lasts_us < TEST_US_MAX.saturating_add(report_interval_us)) {
                    return None;
                }
                self.conclude(now, report_interval_us, before)
            }
        }
    }

    fn climb(&mut self, now: Micros, report_interval_us: u64) -> Option<f64> {
        let judged = self.figures.values_mut().filter(|figures| figures.fresh).filter_map(|figures| figures.losses.judge()).count();
        if judged == 0 {
            return None;
        }
        // Of many only some report in each window: the others stand where they last stood.
        let alarmed = self.figures.values().filter(|figures| figures.losses.is_alarmed()).count();
        if alarmed > self.left_out(self.figures.len()) {
            let alarmed = self.figures.values().filter(|figures| figures.losses.is_alarmed());
            let excess = self.worst(alarmed.map(|figures| figures.losses.excess())).unwrap_or(0.0);
            let (rate, ramping, quiet_windows, limit) = (self.rate, self.ramping, self.quiet_windows, self.limit);
            let before = Before { rate, ramping, quiet_windows, limit, excess };
            self.decrease(now, report_interval_us, before, excess);
            return None;
        }
        self.quiet_windows += 1.0;
        if self.ramping {
            return Some(self.rate * 1.5);
        }
        let plain = STEP_BITS_PER_SECOND * (self.rate / START_BITS_PER_SECOND as f64).sqrt();
        let step = plain * (1.0 + self.quiet_windows / STEP_GROWS_WINDOWS);
        Some(self.rate + step.min(self.rate * STEP_PART))
    }

    fn decrease(&mut self, now: Micros, report_interval_us: u64, before: Before, excess: f64) {
        self.figures.values_mut().for_each(|figures| figures.losses.before_decrease());
        let factor = ((1.0 - excess) * DECREASE).max(DECREASE_MIN);
        (self.ramping, self.quiet_windows, self.limit) = (false, 0.0, Limit::Network);
        self.set(self.rate * factor);
        let settle_us = self.group_us().max(report_interval_us + report_interval_us / 4);
        self.phase = Phase::Settling { until: now.after(settle_us), before };
    }

    /// Ends a test.
    fn conclude(&mut self, now: Micros, report_interval_us: u64, before: Before) -> Option<f64> {
        self.phase = Phase::Climbing;
        // Of many who lose in long runs, those make alarm who have just lost much, and then lose less by chance; all together do not.
        let alarmed = self.figures.values().filter(|figures| figures.losses.is_alarmed()).count();
        let deviations = if alarmed > 1 { ONE_OF_MANY_DEVIATIONS } else { ALL_DEVIATIONS };
        let effects: Vec<_> = self.figures.values_mut().filter_map(|figures| figures.losses.effect(deviations)).collect();
        let count = |effect: Effect| effects.iter().filter(|(one, _)| *one == effect).count();
        let left_out = self.left_out(effects.len());
        let all = effects.iter().fold(Comparison::default(), |sum, (_, comparison)| sum.plus(*comparison));
        if count(Effect::TooLittle) > left_out && self.rate > self.floor {
            let excess = self.worst(self.figures.values().map(|figures| figures.losses.excess())).unwrap_or(0.0);
            self.figures.values_mut().for_each(|figures| figures.losses.alarm_again());
            self.decrease(now, report_interval_us, before, excess);
            return None;
        }
        let is_relief = all.is_relief(ALL_DEVIATIONS) || count(Effect::Relief) + count(Effect::TooLittle) > left_out;
        if effects.is_empty() || is_relief {
            self.ramping = before.ramping && before.excess < OVERSHOOT_LOSS;
            return None;
        }
        (self.ramping, self.quiet_windows, self.limit) = (before.ramping, before.quiet_windows, before.limit);
        Some(before.rate)
    }

    fn set(&mut self, rate: f64) {
        self.rate = rate.max(self.floor).min(self.cap);
    }
}

#[cfg(test)]
mod tests;
