//! What one receiver loses, and whether that is more than what it loses at any rate.

use wire::report::Report;

/// Packets that a judgement rests on at least: a window at 50 Mbit/s.
pub(super) const SAMPLE_PACKETS_MIN: f64 = 200.0;
/// More packets than a window can have, so that sums stay far from losing digits.
const PACKETS_MAX: i64 = 1 << 40;
/// Loss is compared with a quarter more than the ground loss: the ground is a measurement, and off by some percent.
const GROUND_MARGIN: f64 = 1.25;
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
    /// It loses more, or as much arrives as before: the rate is still far above what the way carries.
    TooLittle,
}

/// What was measured before a decrease.
#[derive(Clone, Copy, Debug)]
struct Before {
    loss: f64,
    deviation: f64,
    arrives_bits_per_second: f64,
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
    before: Option<Before>,
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
        let deviation = (expected * self.recent.run()).sqrt();
        let limit = ALARM_PACKETS + ALARM_DEVIATIONS * deviation;
        let surplus = self.surplus + window.lost - GROUND_MARGIN * expected - STRAY_PACKETS;
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

    /// The rate will be lowered from `bits_per_second`: keeps what is to be compared, when this receiver is a reason for it.
    pub(super) fn before_decrease(&mut self, bits_per_second: f64) {
        let loss = self.recent.loss();
        let deviation = self.recent.deviation();
        self.before = self.alarmed.then_some(Before { loss, deviation, arrives_bits_per_second: bits_per_second * (1.0 - loss) });
    }

    /// What comes from now on was sent at the lower rate.
    pub(super) fn begin_test(&mut self) {
        (self.window, self.test) = (Counts::default(), Counts::default());
    }

    /// Adds the window to the test; whether that is long enough for this receiver: ten losses that could be expected.
    pub(super) fn test(&mut self) -> bool {
        self.test = self.test.plus(std::mem::take(&mut self.window));
        self.before.is_none_or(|before| self.test.is_enough() && self.test.sent * before.loss >= 10.0 * self.test.run())
    }

    /// What the decrease to `bits_per_second`, `factor` of the rate before, has done; `None` when this receiver was no reason for it or says nothing.
    pub(super) fn effect(&mut self, bits_per_second: f64, factor: f64) -> Option<Effect> {
        let before = self.before.take()?;
        (self.surplus, self.alarmed, self.recent) = (0.0, false, self.test);
        if !self.test.is_enough() {
            return None;
        }
        let loss = self.test.loss();
        let arrives = bits_per_second * (1.0 - loss) / before.arrives_bits_per_second.max(1.0);
        // Loss of a tenth tells the two cases apart: what arrives falls with the rate, or it does not.
        let still_full = loss > 0.1 && arrives > (1.0 + factor) / 2.0;
        if still_full || loss > 1.5 * before.loss + 0.01 {
            return Some(Effect::TooLittle);
        }
        let (excess_before, excess) = (before.loss - self.ground, loss - self.ground);
        let certain = before.loss - loss > before.deviation.hypot(self.test.deviation());
        self.after = self.after.kept(AFTER_KEPT).plus(self.test);
        self.ground = self.after.loss();
        Some(if certain && excess < 0.6 * excess_before { Effect::Relief } else { Effect::None })
    }

    /// The decrease was too small for this one, or for others: what it shows now is what the next one is compared with.
    pub(super) fn alarm_again(&mut self) {
        self.alarmed = self.excess() > 0.0 && self.recent.is_enough();
    }

    pub(super) fn is_alarmed(&self) -> bool {
        self.alarmed
    }
}
