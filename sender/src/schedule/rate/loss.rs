//! What one receiver loses, and whether that is more than what it loses at any rate.

use wire::report::Report;

/// Packets that a judgement rests on at least: a window at 50 Mbit/s.
pub(super) const SAMPLE_PACKETS_MIN: f64 = 200.0;
/// More packets than a window can have, so that sums stay far from losing digits.
const PACKETS_MAX: i64 = 1 << 40;
/// Loss is compared with a quarter more than the ground loss: the ground is a measurement, and off by some percent.
const GROUND_MARGIN: f64 = 1.25;
/// … and so many standard deviations of that measurement: where losses come in runs of 32 packets it is off by a quarter and more.
const GROUND_DOUBT_DEVIATIONS: f64 = 1.5;
/// Packets a window that are nobody's sign: one in two windows is 1 in 8,000 at 1 Gbit/s.
const STRAY_PACKETS: f64 = 0.5;
/// Surplus that makes alarm: so many packets, and so many standard deviations of what the ground loss lets expect. Four, because the surplus is
/// looked at 20 times a second for many receivers.
const ALARM_PACKETS: f64 = 3.0;
const ALARM_DEVIATIONS: f64 = 4.0;
/// Of earlier windows so much counts with the present one: some 4 windows, 200 ms.
const RECENT_KEPT: f64 = 0.75;
/// Of what was measured after earlier decreases so much counts with the last one.
const AFTER_KEPT: f64 = 0.5;
/// From here on loss is measured so well that even a little less of it after a decrease is no chance, …
const LARGE_LOSS: f64 = 0.1;
/// … unless so much of it is left. What is measured before a decrease can be too little, because a queue was filled meanwhile.
const LARGE_LOSS_KEPT: f64 = 0.85;
/// A cable that loses more is not put up with.
const GROUND_MAX: f64 = 0.3;
/// It is clearly less when so much of it is left.
const RELIEF: f64 = 0.6;
/// What a receiver is ahead of its position is forgotten by this part a window: in 3 s.
const AHEAD_FORGOTTEN: i64 = 64;

/// Packets, in floating point as they are averaged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: f64,
    pub(super) lost: f64,
    pub(super) runs: f64,
}

impl Counts {
    pub(super) fn loss(&self) -> f64 {
        (self.lost / self.sent.max(1.0)).clamp(0.0, 1.0)
    }

    /// Mean length of runs of lost packets; 1 when unknown.
    fn run(&self) -> f64 {
        if self.runs > 0.0 { (self.lost / self.runs).max(1.0) } else { 1.0 }
    }

    /// Standard deviation of the loss, of runs that come independently.
    fn deviation(&self) -> f64 {
        (self.lost * self.run()).sqrt() / self.sent.max(1.0)
    }

    pub(super) fn is_enough(&self) -> bool {
        self.sent >= SAMPLE_PACKETS_MIN
    }

    fn kept(self, share: f64) -> Counts {
        Counts { sent: self.sent * share, lost: self.lost * share, runs: self.runs * share }
    }

    fn plus(self, more: Counts) -> Counts {
        Counts { sent: self.sent + more.sent, lost: self.lost + more.lost, runs: self.runs + more.runs }
    }
}

/// What a decrease did to a receiver's loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It loses as much as before: the loss is not made by the rate.
    None,
    /// It loses clearly less.
    Relief,
    /// It loses more, or still much and yet less than before: the rate is still far above what the way carries.
    TooLittle,
}

/// Losses before a decrease and after it, of one receiver or of several together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Comparison {
    before: Counts,
    after: Counts,
    /// What the ground losses let expect of each.
    expected_before: f64,
    expected_after: f64,
}

impl Comparison {
    pub(super) fn plus(self, more: Comparison) -> Comparison {
        Comparison {
            before: self.before.plus(more.before),
            after: self.after.plus(more.after),
            expected_before: self.expected_before + more.expected_before,
            expected_after: self.expected_after + more.expected_after,
        }
    }

    /// Whether clearly less is lost after the decrease, by so many standard deviations.
    pub(super) fn is_relief(&self, deviations: f64) -> bool {
        let excess = |counts: Counts, expected: f64| (counts.lost - expected) / counts.sent.max(1.0);
        let certain = self.before.loss() - self.after.loss() > deviations * self.before.deviation().hypot(self.after.deviation());
        certain && excess(self.after, self.expected_after) < RELIEF * excess(self.before, self.expected_before)
    }
}

/// One receiver's losses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    /// Since the last judgement.
    window: Counts,
    /// In the windows before.
    recent: Counts,
    /// In the present test of a decrease, and what is kept of earlier ones.
    test: Counts,
    after: Counts,
    /// How many packets the receiver's count is ahead of its position, because they wait in its rings.
    ahead: i64,
    /// The loss that remained after decreases.
    ground: f64,
    /// Packets lost beyond what the ground loss lets expect, summed up, never below 0.
    surplus: f64,
    alarmed: bool,
    before: Option<Counts>,
}

impl Losses {
    /// Takes the figures of a report. A receiver's count of packets is taken at another moment than its position: it is ahead by what waits in the
    /// receiver's rings, at one time more, at another less. Only what the count falls behind its best is lost for certain.
    pub(super) fn note(&mut self, report: &Report) {
        // Within a stream's numbers; anything beyond is not true.
        let sent = i64::from(u32::try_from(report.packets_sent).unwrap_or(u32::MAX));
        let seen = i64::from(u32::try_from(report.packets_seen).unwrap_or(u32::MAX));
        let behind = sent - seen - self.ahead;
        self.ahead = (-behind).clamp(0, PACKETS_MAX);
        let lost = behind.clamp(0, sent);
        let runs = report.loss_runs.min(lost.unsigned_abs());
        self.window = self.window.plus(Counts { sent: sent as f64, lost: lost as f64, runs: runs as f64 });
        self.window.sent = self.window.sent.min(PACKETS_MAX as f64);
    }

    /// Judges the window when it has enough packets: whether the receiver now loses more than it always does.
    pub(super) fn judge(&mut self) -> Option<bool> {
        self.ahead -= self.ahead / AHEAD_FORGOTTEN;
        if !self.window.is_enough() {
            return None;
        }
        let window = std::mem::take(&mut self.window);
        self.recent = self.recent.kept(RECENT_KEPT).plus(window);
        let expected = self.ground * window.sent;
        let bearable = (GROUND_MARGIN * self.ground + GROUND_DOUBT_DEVIATIONS * self.after.deviation()) * window.sent;
        let deviation = (expected * self.recent.run()).sqrt();
        let limit = ALARM_PACKETS + ALARM_DEVIATIONS * deviation;
        let surplus = self.surplus + window.lost - bearable - STRAY_PACKETS;
        // Bounded, so that an alarm ends soon after its cause.
        self.surplus = surplus.clamp(0.0, 2.0 * limit);
        if window.lost + ALARM_DEVIATIONS * deviation < expected {
            // The cable was changed.
            self.ground = (self.ground + window.loss()) / 2.0;
        }
        self.alarmed = self.surplus > limit;
        Some(self.alarmed)
    }

    /// The loss of late beyond the ground loss.
    pub(super) fn excess(&self) -> f64 {
        (self.recent.loss() - self.ground).max(0.0)
    }

    /// The rate will be lowered: keeps what is to be compared.
    pub(super) fn before_decrease(&mut self) {
        self.before = Some(self.recent);
    }

    /// What comes from now on was sent at the lower rate.
    pub(super) fn begin_test(&mut self) {
        (self.window, self.test) = (Counts::default(), Counts::default());
    }

    /// Adds the window to the test; whether that is long enough for this receiver: ten losses that could be expected.
    pub(super) fn test(&mut self) -> bool {
        self.test = self.test.plus(std::mem::take(&mut self.window));
        self.before
            .filter(|_| self.alarmed)
            .is_none_or(|before| self.test.is_enough() && self.test.sent * before.loss() >= 10.0 * self.test.run())
    }

    /// What the decrease has done, judged by so many standard deviations; `None` when the receiver says nothing. Who made no alarm sees no effect,
    /// but learns its ground loss.
    pub(super) fn effect(&mut self, deviations: f64) -> Option<(Effect, Comparison)> {
        let before = self.before.take()?;
        let was_alarmed = self.alarmed;
        (self.surplus, self.alarmed, self.recent) = (0.0, false, self.test);
        if !self.test.is_enough() {
            return None;
        }
        let (expected_before, expected_after) = (self.ground * before.sent, self.ground * self.test.sent);
        let comparison = Comparison { before, after: self.test, expected_before, expected_after };
        let (loss_before, loss) = (before.loss(), self.test.loss());
        let is_more = loss > 1.5 * loss_before + 0.01;
        // Whoever loses as much at a lower rate has a bad cable; whoever loses less, if only a little, has a narrow link.
        let is_narrow = loss > LARGE_LOSS && (loss > GROUND_MAX || loss - self.ground < LARGE_LOSS_KEPT * (loss_before - self.ground));
        if was_alarmed && (is_more || is_narrow) {
            return Some((Effect::TooLittle, comparison));
        }
        self.after = self.after.kept(AFTER_KEPT).plus(self.test);
        self.ground = self.after.loss();
        Some((if was_alarmed && comparison.is_relief(deviations) { Effect::Relief } else { Effect::None }, comparison))
    }

    /// The decrease was too small for this one, or for others: what it shows now is what the next one is compared with.
    pub(super) fn alarm_again(&mut self) {
        self.alarmed = self.excess() > 0.0 && self.recent.is_enough();
    }

    pub(super) fn is_alarmed(&self) -> bool {
        self.alarmed
    }
}
