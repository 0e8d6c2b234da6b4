//! What receivers lose: who loses far more than the rest, how long the runs of lost packets are.
//!
//! Such a receiver's repair does not go out in line, where everybody would wait for it: it is a straggler, served when the rest has what it needs.

use super::ReceiverId;
use std::collections::BTreeMap;
use wire::Micros;
use wire::report::Report;

/// Time between two reviews.
const REVIEW_US: u64 = 50_000;
/// Packets that a figure rests on at least: 1 % of 1,000 are 10.
const PACKETS_MIN: i64 = 1_000;
/// When a receiver's figures rest on more than this, half of them is forgotten.
const PACKETS_KEPT: i64 = 100_000;
/// Receivers from which on there is a rest to be far above.
const RECEIVERS_MIN: usize = 8;
/// At most one in this many becomes a straggler.
const STRAGGLER_SHARE: usize = 8;
/// A straggler's loss is more than twice what seven of eight receivers stay below, and a percent; to be one no longer it must be below three
/// quarters of what that is for the others alone: they are done first, and stragglers must not come into line because only they and the last
/// few of the others are left.
const STRAGGLER_FACTOR: f64 = 2.0;
const STRAGGLER_MARGIN: f64 = 0.01;
const STRAGGLER_END: f64 = 0.75;
/// Mean length of runs, in packets, from which on more chunks are interleaved, and to which it must fall to end that.
const LONG_RUN: f64 = 8.0;
const LONG_RUN_END: f64 = 5.0;
/// Runs that the mean rests on; when it rests on ten times as many, half are forgotten.
const RUNS_MIN: f64 = 20.0;
/// A first estimate of losses takes so many receivers' figures.
const SAMPLE: usize = 128;

#[derive(Clone, Copy, Debug, Default)]
struct History {
    sent: i64,
    lost: i64,
    straggler: bool,
}

impl History {
    fn loss(&self) -> f64 {
        self.lost.max(0) as f64 / self.sent.max(1) as f64
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct LossBook {
    receivers: BTreeMap<ReceiverId, History>,
    review_at: Micros,
    runs: f64,
    run_packets: f64,
    long_runs: bool,
}

/// What a review finds.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// Who is a straggler from now on, or is not any more.
    pub(super) changes: Vec<(ReceiverId, bool)>,
    /// The losses, as far as they are known, of some receivers that are not stragglers, ascending; empty until enough have reported.
    pub(super) losses: Vec<f64>,
}

impl LossBook {
    /// Takes the figures of a report.
    pub(super) fn note(&mut self, receiver: ReceiverId, report: &Report) {
        let history = self.receivers.entry(receiver).or_default();
        // Within a stream's numbers; anything beyond is not true.
        let sent = i64::from(u32::try_from(report.packets_sent).unwrap_or(u32::MAX));
        let seen = i64::from(u32::try_from(report.packets_seen).unwrap_or(u32::MAX));
        history.sent = history.sent.saturating_add(sent);
        history.lost = history.lost.saturating_add(sent - seen).clamp(-history.sent, history.sent);
        if history.sent > PACKETS_KEPT {
            (history.sent, history.lost) = (history.sent / 2, history.lost / 2);
        }
        let runs = report.loss_runs as f64;
        if report.loss_runs > 0 && sent - seen >= report.loss_runs.min(1 << 40) as i64 {
            self.runs += runs;
            self.run_packets += (sent - seen) as f64;
            if self.runs > RUNS_MIN * 10.0 {
                (self.runs, self.run_packets) = (self.runs / 2.0, self.run_packets / 2.0);
            }
            let mean = self.run_packets / self.runs;
            if self.runs >= RUNS_MIN && !(LONG_RUN_END..=LONG_RUN).contains(&mean) {
                self.long_runs = mean > LONG_RUN;
            }
        }
    }

    /// The receiver is gone.
    pub(super) fn forget(&mut self, receiver: ReceiverId) {
        self.receivers.remove(&receiver);
    }

    /// Whether losses come in long runs.
    pub(super) fn has_long_runs(&self) -> bool {
        self.long_runs
    }

    /// Mean number of packets that are lost in a row; 1 until enough runs were seen.
    pub(super) fn run_packets(&self) -> f64 {
        if self.runs >= RUNS_MIN { (self.run_packets / self.runs).max(1.0) } else { 1.0 }
    }

    /// Looks at all when it is time; `listeners` of them are listening.
    pub(super) fn review(&mut self, now: Micros, listeners: usize) -> Option<Review> {
        if now < self.review_at {
            return None;
        }
        self.review_at = now.after(REVIEW_US);
        let known = |history: &&History| history.sent >= PACKETS_MIN;
        let mut losses: Vec<f64> = self.receivers.values().filter(known).map(History::loss).collect();
        losses.sort_unstable_by(f64::total_cmp);
        let count = losses.len();
        let mut review = Review::default();
        let Some(&reference) = count.checked_sub(1 + count / STRAGGLER_SHARE).and_then(|index| losses.get(index)) else {
            return Some(review);
        };
        let limit = limit_above(reference);
        let end = self.limit_of_the_rest().map_or(f64::INFINITY, |limit| limit * STRAGGLER_END);
        for (&receiver, history) in self.receivers.iter_mut().filter(|(_, history)| history.sent >= PACKETS_MIN) {
            let loss = history.loss();
            let straggler = if history.straggler { loss > end } else { count >= RECEIVERS_MIN && loss > limit };
            if straggler != history.straggler {
                history.straggler = straggler;
                review.changes.push((receiver, straggler));
            }
        }
        if count * 2 >= listeners.min(2 * SAMPLE) {
            review.losses = self.losses_up_to(limit);
        }
        Some(review)
    }

    /// The losses of receivers that lose no more than `limit`, of some of them when they are many. What differs between them by chance alone is taken out: after
    /// a few thousand packets, lost in runs of 32, one has seen 3 % and the next nothing of the 1 % that both lose.
    fn losses_up_to(&self, limit: f64) -> Vec<f64> {
        let mut rest: Vec<History> =
            self.receivers.values().copied().filter(|history| history.sent >= PACKETS_MIN && history.loss() <= limit).collect();
        let count = rest.len().max(1) as f64;
        let mean = rest.iter().map(History::loss).sum::<f64>() / count;
        let spread = rest.iter().map(|history| (history.loss() - mean).powi(2)).sum::<f64>() / count;
        // Of n packets in runs of mean length L a share p is lost with variance p (2 L - 1) / n.
        let by_chance = |history: &History| mean * (2.0 * self.run_packets() - 1.0) / history.sent as f64;
        let by_nature = (spread - rest.iter().map(by_chance).sum::<f64>() / count).max(0.0);
        rest.sort_unstable_by(|a, b| a.loss().total_cmp(&b.loss()));
        let likely = |history: &History| {
            let trust = if by_nature > 0.0 { by_nature / (by_nature + by_chance(history)) } else { 0.0 };
            mean + (history.loss() - mean) * trust
        };
        rest.iter().step_by(rest.len().div_ceil(SAMPLE).max(1)).map(likely).collect()
    }

    /// The limit by those who are not stragglers; `None` when there are none.
    fn limit_of_the_rest(&self) -> Option<f64> {
        let rest = |history: &&History| history.sent >= PACKETS_MIN && !history.straggler;
        let mut losses: Vec<f64> = self.receivers.values().filter(rest).map(History::loss).collect();
        losses.sort_unstable_by(f64::total_cmp);
        let index = losses.len().checked_sub(1 + losses.len() / STRAGGLER_SHARE)?;
        losses.get(index).map(|&reference| limit_above(reference))
    }
}

/// The loss from which on a receiver is far above the rest, of which seven of eight stay below `reference`.
fn limit_above(reference: f64) -> f64 {
    reference * STRAGGLER_FACTOR + STRAGGLER_MARGIN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sent: u64, lost: u64, loss_runs: u64) -> Report {
        Report { packets_sent: sent, packets_seen: sent - lost, loss_runs, ..Report::default() }
    }

    fn reviewed(book: &mut LossBook, second: u64) -> Review {
        book.review(Micros(second * 1_000_000), book.receivers.len()).expect("it is time")
    }

    #[test]
    fn who_loses_far_more_than_the_rest_is_a_straggler_until_it_does_not() {
        let mut book = LossBook::default();
        for receiver in 0..20 {
            book.note(ReceiverId(receiver), &report(10_000, if receiver == 7 { 500 } else { 100 }, 0));
        }
        let review = reviewed(&mut book, 1);
        assert_eq!(review.changes, [(ReceiverId(7), true)]);
        assert_eq!(review.losses.len(), 19);
        assert!(reviewed(&mut book, 2).changes.is_empty());
        (0..20).for_each(|_| book.note(ReceiverId(7), &report(10_000, 100, 0)));
        assert_eq!(reviewed(&mut book, 3).changes, [(ReceiverId(7), false)]);
    }

    #[test]
    fn a_straggler_remains_one_while_any_of_the_others_is_left() {
        let mut book = LossBook::default();
        (0..20).for_each(|receiver| book.note(ReceiverId(receiver), &report(10_000, if receiver < 2 { 500 } else { 100 }, 0)));
        assert_eq!(reviewed(&mut book, 1).changes.len(), 2);
        (3..20).for_each(|receiver| book.forget(ReceiverId(receiver)));
        assert!(reviewed(&mut book, 2).changes.is_empty(), "one of the others is not done");
        book.forget(ReceiverId(2));
        assert_eq!(reviewed(&mut book, 3).changes, [(ReceiverId(0), false), (ReceiverId(1), false)]);
    }

    #[test]
    fn chance_does_not_make_receivers_differ() {
        let mut book = LossBook::default();
        (0..20).for_each(|receiver| book.note(ReceiverId(receiver), &report(3_000, if receiver % 2 == 0 { 64 } else { 0 }, 2)));
        let alike = reviewed(&mut book, 1).losses;
        assert!(alike.iter().all(|loss| (loss - 32.0 / 3_000.0).abs() < 1e-9), "{alike:?}");
        let mut book = LossBook::default();
        (0..20).for_each(|receiver| book.note(ReceiverId(receiver), &report(30_000, if receiver % 4 == 0 { 300 } else { 30 }, 30)));
        let apart = reviewed(&mut book, 1).losses;
        assert!(apart[0] < 0.002 && apart[19] > 0.009, "{apart:?}");
    }

    #[test]
    fn many_who_lose_much_are_the_rest() {
        let mut book = LossBook::default();
        (0..20).for_each(|receiver| book.note(ReceiverId(receiver), &report(10_000, if receiver < 5 { 500 } else { 100 }, 0)));
        assert!(reviewed(&mut book, 1).changes.is_empty());
    }

    #[test]
    fn runs_are_long_when_their_mean_is() {
        let mut book = LossBook::default();
        book.note(ReceiverId(1), &report(100_000, 1_000, 900));
        assert!(!book.has_long_runs());
        (0..10).for_each(|_| book.note(ReceiverId(1), &report(100_000, 1_000, 30)));
        assert!(book.has_long_runs());
        book.note(ReceiverId(2), &report(1_000, 10, u64::MAX));
        book.note(ReceiverId(2), &report(u64::MAX, 0, u64::MAX));
        assert!(book.has_long_runs(), "more runs than losses cannot be");
    }
}
