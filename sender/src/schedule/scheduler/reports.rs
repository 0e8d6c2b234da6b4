//! What receivers say: how far they have come and what they lack, and what becomes of those who say nothing.

use super::{Attendance, Flight, Scheduler};
use crate::schedule::ReceiverId;
use crate::schedule::stream::Stream;
use wire::report::Report;
use wire::{ChunkId, Micros};

impl Scheduler {
    pub(super) fn report(&mut self, now: Micros, receiver: ReceiverId, report: &Report) {
        if self.roster.want(receiver).is_none() {
            return;
        }
        self.rate.note(receiver, report);
        // Not only when a group is due: at low rates that is rare.
        self.tick_rate(now);
        self.losses.note(receiver, report);
        for &range in &report.completed {
            self.roster.complete(receiver, range);
        }
        let mut news: Vec<ChunkId> = Vec::new();
        for deficit in report.deficits.iter().filter(|deficit| deficit.chunk.index() < self.progress.len()) {
            let in_the_middle = self.was_sent_before_it_listened(receiver, deficit.chunk);
            if self.roster.lack(receiver, deficit, in_the_middle) {
                news.push(deficit.chunk);
            }
        }
        news.extend(self.pass(receiver, report));
        // What is said of a chunk counts when the receiver has passed all that was sent of it.
        news.retain(|&chunk| self.has_passed(receiver, chunk) && self.roster.count(receiver, chunk));
        if self.remaining(receiver) == Some(0) {
            self.unlisten(receiver);
        }
        for stream in 0..self.streams.len() {
            if let Some(on_wire_at) = self.land_passed(stream) {
                let lag_us = now.since(on_wire_at);
                // Up at once, down by an eighth: the slowest listener counts.
                self.report_lag_us = lag_us.max(self.report_lag_us - self.report_lag_us.saturating_sub(lag_us) / 8);
            }
        }
        for chunk in news {
            if self.progress[chunk.index()].flight != Flight::Waiting {
                self.judge(chunk);
            }
        }
        self.catch_up(receiver);
    }

    /// Moves `receiver` along the streams; it listens from its first credible position on. The chunks that it has passed by this report.
    fn pass(&mut self, receiver: ReceiverId, report: &Report) -> Vec<ChunkId> {
        let mut heard = false;
        let mut passed = Vec::new();
        for &(id, sequence) in &report.passed {
            let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else { continue };
            if let Some(position) = stream.position_of(sequence) {
                if let Some(before) = stream.listen(receiver, position) {
                    passed.extend(stream.groups_between(before, position).flat_map(|group| group.cargo.chunks.iter().copied()));
                }
                heard = true;
            }
        }
        let listening = matches!(self.roster.attendance(receiver), Some(Attendance::Listening { .. }));
        if !heard || listening || self.streams.iter().any(|stream| stream.passed(receiver).is_none()) {
            return passed;
        }
        self.greeting_new.retain(|&greeting| greeting != receiver);
        let catch_up = self.streams.iter().map(|stream| stream.symbols_end).collect();
        self.roster.set_attendance(receiver, Attendance::Listening { catch_up: Some(catch_up) });
        self.sort_queues();
        self.queue_never_sent(receiver);
        passed
    }

    /// Whether `chunk` went out, or was about to, before `receiver` is known to have listened, and there are others whom that would delay.
    fn was_sent_before_it_listened(&self, receiver: ReceiverId, chunk: ChunkId) -> bool {
        if self.roster.wanting() <= 1 {
            return false;
        }
        match (self.roster.attendance(receiver), self.progress[chunk.index()].sent) {
            (Some(Attendance::Listening { catch_up }), Some(sent)) => {
                catch_up.as_ref().and_then(|positions| positions.get(sent.stream)).is_some_and(|&end| sent.last < end)
            }
            (attendance, _) => attendance == Some(&Attendance::Greeting),
        }
    }

    /// Whether `receiver` listens and everything that was sent of `chunk` lies behind it.
    pub(super) fn has_passed(&self, receiver: ReceiverId, chunk: ChunkId) -> bool {
        let Some(sent) = self.progress[chunk.index()].sent else { return false };
        // A receiver at a position has seen only what lies before it.
        self.streams[sent.stream].passed(receiver).is_some_and(|passed| passed > sent.last)
    }

    /// Judges everything that went out before `receiver` listened, once it has passed all that.
    fn catch_up(&mut self, receiver: ReceiverId) {
        let Some(Attendance::Listening { catch_up: Some(positions) }) = self.roster.attendance(receiver) else { return };
        let reached = |(stream, &end): (&Stream, &u64)| stream.passed(receiver).is_none_or(|passed| passed >= end);
        if !self.streams.iter().zip(positions).all(reached) {
            return;
        }
        self.roster.set_attendance(receiver, Attendance::Listening { catch_up: None });
        for chunk in self.wanted_by(receiver) {
            let lacks = self.has_passed(receiver, chunk) && self.roster.count(receiver, chunk);
            if lacks && self.progress[chunk.index()].flight != Flight::Waiting {
                self.judge(chunk);
            }
        }
    }

    pub(super) fn unlisten(&mut self, receiver: ReceiverId) {
        for stream in 0..self.streams.len() {
            self.streams[stream].unlisten(receiver);
            self.land_passed(stream);
        }
    }

    /// Makes a receiver that was silent for too long absent.
    pub(super) fn give_up_on(&mut self, receiver: ReceiverId) {
        self.roster.set_attendance(receiver, Attendance::Absent);
        self.somebody_is_absent = true;
        self.unlisten(receiver);
    }
}
