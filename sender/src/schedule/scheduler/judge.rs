//! What follows from what is known of a chunk: it is judged when all listeners have passed its last group, or have had the time to.

use super::{Flight, Scheduler};
use crate::schedule::ReceiverId;
use crate::schedule::proactive::{Landed, LossModel};
use crate::schedule::roster::Attendance;
use crate::schedule::stream::{InFlight, Stream};
use wire::{ChunkId, Micros};

/// How long a chunk waits for the reports of receivers that have not passed it, in multiples of the time that reports lately took.
const REPORT_WAIT_LAGS: u64 = 2;
/// Bounds of that wait: three report intervals of 10 ms; half of [`ABSENT_AFTER_US`].
const REPORT_WAIT_MIN_US: u64 = 30_000;
pub(super) const REPORT_WAIT_MAX_US: u64 = 500_000;
/// A receiver that does not answer a sync for this long is absent: it makes no demand until it reports again. Long beside any round trip of
/// a network that carries such streams, short beside TCP's own notice that a peer is gone. With very many receivers it is so many report intervals.
pub(super) const ABSENT_AFTER_US: u64 = 1_000_000;
const ABSENT_AFTER_INTERVALS: u64 = 4;

impl Scheduler {
    /// Judges the chunks of all groups that all listeners have passed; when the last of them had left.
    pub(super) fn land_passed(&mut self, stream: usize) -> Option<Micros> {
        let mut on_wire_at = None;
        loop {
            let was_overdue = self.streams[stream].overdue > 0;
            let Some(group) = self.streams[stream].take_passed() else { return on_wire_at };
            on_wire_at = Some(group.on_wire_at);
            if !was_overdue {
                self.learn(&group);
            }
            for &chunk in &group.cargo.chunks {
                if self.is_in(chunk, stream, group.first, group.sync) {
                    self.progress[chunk.index()].flight = Flight::Landed;
                    self.judge(chunk);
                }
            }
        }
    }

    /// Learns from a group of whole chunks how much repair should have gone with it.
    fn learn(&mut self, group: &InFlight) {
        let Some(provision) = group.cargo.proactive else { return };
        let deficit = |&chunk: &ChunkId| {
            let source_symbols = self.config.source_symbols[chunk.index()];
            // Who lacks more than R joined in the middle or has no memory: that is not loss.
            self.roster.needs(chunk).map_or(0, |needs| needs.max_up_to(wire::erasure::repair_symbols(source_symbols)))
        };
        let deficits = group.cargo.chunks.iter().map(deficit).collect();
        self.proactive.landed(Landed { provision, deficits, listeners: self.listeners(), receivers: self.roster.wanting() });
    }

    fn listeners(&self) -> usize {
        self.streams.iter().map(Stream::listener_count).max().unwrap_or(0)
    }

    /// Whether the group from `first` to `sync` is the last one that `chunk` was in.
    fn is_in(&self, chunk: ChunkId, stream: usize, first: u64, sync: u64) -> bool {
        self.progress[chunk.index()].sent.is_some_and(|sent| sent.stream == stream && (first..sync).contains(&sent.last))
    }

    /// Queues `chunk` as what is known of it asks for.
    pub(super) fn judge(&mut self, chunk: ChunkId) {
        let Some(priority) = self.priority(chunk) else { return };
        let needs = self.roster.needs(chunk);
        let partial = needs.is_some_and(|needs| needs.partial_max() > 0);
        let whole = needs.is_some_and(|needs| needs.any_whole() || needs.turn_max().is_some());
        if self.roster.stragglers_needs(chunk).is_some_and(|needs| needs.needy() > 0) {
            self.queues.push_later(priority, chunk);
        }
        if whole {
            self.queues.push_whole(priority, chunk);
        }
        let progress = &mut self.progress[chunk.index()];
        if partial && !progress.queued {
            progress.queued = true;
            self.queues.push_repair(priority, chunk);
        }
    }

    // What time brings.

    fn report_wait_us(&self) -> u64 {
        let most_us = REPORT_WAIT_MAX_US.max(self.absent_after_us() / 2);
        (self.report_lag_us * REPORT_WAIT_LAGS).clamp(REPORT_WAIT_MIN_US, most_us)
    }

    fn absent_after_us(&self) -> u64 {
        ABSENT_AFTER_US.max(self.report_interval_us() * ABSENT_AFTER_INTERVALS)
    }

    /// Sorts out stragglers, and takes a first estimate of the loss.
    fn review_losses(&mut self, now: Micros) {
        let listeners = self.listeners();
        let Some(review) = self.losses.review(now, listeners) else { return };
        for (receiver, straggler) in review.changes {
            self.roster.set_straggler(receiver, straggler);
            for chunk in self.roster.lacking(receiver) {
                if self.progress[chunk.index()].flight != Flight::Waiting {
                    self.judge(chunk);
                }
            }
        }
        let (interleave, run_packets) = (self.interleave_alone(), self.losses.run_packets());
        self.proactive.mind_interleave(interleave, run_packets);
        // Who has not reported yet will lose like those that have.
        let receivers = self.roster.wanting();
        let source_symbols = self.config.parameters.source_symbols_max();
        self.proactive.mind_losses(&LossModel { losses: review.losses, receivers, run_packets, interleave, source_symbols });
    }

    pub(super) fn tick(&mut self, now: Micros) {
        self.tick_rate(now);
        self.review_losses(now);
        while let Some(&(until, receiver)) = self.greeting_until.front() {
            if now < until {
                break;
            }
            self.greeting_until.pop_front();
            if self.roster.attendance(receiver) == Some(&Attendance::Greeting) {
                self.give_up_on(receiver);
            }
        }
        for stream in 0..self.streams.len() {
            // Without listeners a group lands unheard.
            self.land_passed(stream);
            while let Some(sync) = self.overdue_sync(stream, now) {
                let silent: Vec<ReceiverId> = self.streams[stream].behind(sync.saturating_sub(1)).collect();
                silent.into_iter().for_each(|receiver| self.give_up_on(receiver));
                // Nobody is left who has not passed it: it has landed.
            }
            self.judge_overdue(stream, now);
        }
    }

    /// The sync of the oldest group when it has been without an answer for too long.
    fn overdue_sync(&self, stream: usize, now: Micros) -> Option<u64> {
        let group = self.streams[stream].in_flight.front()?;
        (now >= group.on_wire_at.after(self.absent_after_us())).then_some(group.sync)
    }

    /// Judges the chunks of groups that have waited long enough by what is known.
    fn judge_overdue(&mut self, stream: usize, now: Micros) {
        let wait_us = self.report_wait_us();
        loop {
            let line = &mut self.streams[stream];
            let Some(group) = line.in_flight.get(line.overdue).filter(|group| now >= group.on_wire_at.after(wait_us)) else { return };
            let group = group.clone();
            line.overdue += 1;
            self.learn(&group);
            for chunk in group.cargo.chunks {
                if self.is_in(chunk, stream, group.first, group.sync) {
                    self.progress[chunk.index()].flight = Flight::Overdue;
                    self.judge(chunk);
                }
            }
        }
    }

    /// When time alone changes something.
    pub(super) fn deadline(&self) -> Option<Micros> {
        let of_stream = |stream: &Stream| {
            let overdue = stream.in_flight.get(stream.overdue).map(|group| group.on_wire_at.after(self.report_wait_us()));
            let absent = stream.in_flight.front().map(|group| group.on_wire_at.after(self.absent_after_us()));
            overdue.into_iter().chain(absent).min()
        };
        let greeting = self.greeting_until.front().map(|&(until, _)| until);
        self.streams.iter().filter_map(of_stream).chain(greeting).min()
    }

    /// From now on greeting receivers have something to answer.
    pub(super) fn set_greeting_deadlines(&mut self, on_wire_at: Micros) {
        if self.greeting_new.is_empty() {
            return;
        }
        let until = on_wire_at.after(self.absent_after_us());
        self.greeting_until.extend(self.greeting_new.drain(..).map(|receiver| (until, receiver)));
    }
}
