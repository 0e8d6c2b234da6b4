//! The scheduler itself: what reports and time make of each chunk. How that becomes groups is in `compose`, what waits
//! for that in `queue`.

mod compose;
mod order;
mod queue;
mod transfer;

use super::loss::LossBook;
use super::proactive::{Landed, LossModel, Proactive};
use super::rate::RateControl;
use super::roster::{Attendance, Roster};
use super::stream::{InFlight, Stream};
use super::{Event, Next, ReceiverId, ScheduleConfig, Totals, chunk_set::ChunkSet};
pub(super) use order::Order;
use queue::Queues;
use std::collections::VecDeque;
use wire::report::{ChunkRange, Report};
use wire::{ChunkId, Micros, StreamId};

/// The shortest report interval: at 5 Gbit/s a group takes 7 ms, so that there is about one report a group.
const REPORT_INTERVAL_US: u64 = 10_000;
/// … and what each listed receiver adds: 10,000 reports a second altogether, whatever the number of receivers.
const REPORT_INTERVAL_PER_RECEIVER_US: u64 = 100;
/// How long a chunk waits for the reports of receivers that have not passed it, in multiples of the time that reports lately took.
const REPORT_WAIT_LAGS: u64 = 2;
/// Bounds of that wait: three report intervals of 10 ms; half of [`ABSENT_AFTER_US`].
const REPORT_WAIT_MIN_US: u64 = 30_000;
const REPORT_WAIT_MAX_US: u64 = 500_000;
/// Assumed until a report came: one report interval and a busy machine.
const REPORT_LAG_START_US: u64 = 25_000;
/// A receiver that does not answer a sync for this long is absent: it makes no demand until it reports again. Long beside any round trip of
/// a network that carries such streams, short beside TCP's own notice that a peer is gone. With very many receivers it is so many report intervals.
const ABSENT_AFTER_US: u64 = 1_000_000;
const ABSENT_AFTER_INTERVALS: u64 = 4;

/// Where a chunk's last group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    /// Passed by all listeners, or never sent.
    Landed,
    /// Some listener has not passed it.
    Waiting,
    /// The same for so long that reports are acted upon as they come.
    Overdue,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    stream: usize,
    /// Position of its last symbol.
    last: u64,
}

#[derive(Clone, Debug)]
struct Progress {
    sent: Option<Sent>,
    flight: Flight,
    /// It waits for repair in one of the queues.
    queued: bool,
    /// Next symbol to send beyond a whole pass over the source symbols: from K on, then round K + R.
    cursor: u16,
}

/// The least time between two reports of one of so many receivers.
pub(super) fn report_interval_us(receivers: usize) -> u64 {
    REPORT_INTERVAL_US.max(receivers as u64 * REPORT_INTERVAL_PER_RECEIVER_US)
}

/// See the module's text.
#[derive(Debug)]
pub struct Scheduler {
    config: ScheduleConfig,
    roster: Roster,
    progress: Vec<Progress>,
    streams: Vec<Stream>,
    rate: RateControl,
    losses: LossBook,
    proactive: Proactive,
    queues: Queues,
    /// How many receivers report in all, when they are not this stream's alone.
    report_load: Option<usize>,
    /// Greeting receivers, by when they will have been silent for too long.
    greeting_until: VecDeque<(Micros, ReceiverId)>,
    /// Greeting receivers for whom that is not set yet, since nothing was sent that they could answer.
    greeting_new: Vec<ReceiverId>,
    report_lag_us: u64,
    totals: Totals,
}

impl Scheduler {
    /// A scheduler for a pack, with nobody listed.
    pub fn new(mut config: ScheduleConfig) -> Scheduler {
        // K is at least 1 and K + R at most 256, whatever the caller says: everything below counts on it.
        config.source_symbols.resize(config.parameters.chunk_count as usize, 1);
        for source_symbols in &mut config.source_symbols {
            *source_symbols = (*source_symbols).clamp(1, wire::session::SOURCE_SYMBOLS_MAX as u16);
        }
        let progress = |&source_symbols: &u16| Progress { sent: None, flight: Flight::Landed, queued: false, cursor: source_symbols };
        Scheduler {
            roster: Roster::new(&config.source_symbols),
            progress: config.source_symbols.iter().map(progress).collect(),
            streams: config.streams.iter().map(|&id| Stream::new(id)).collect(),
            rate: RateControl::new(config.rate_cap_bits_per_second, config.rate_floor_bits_per_second),
            losses: LossBook::default(),
            proactive: Proactive::new(),
            queues: Queues::new(config.parameters.chunk_count),
            report_load: None,
            greeting_until: VecDeque::new(),
            greeting_new: Vec::new(),
            report_lag_us: REPORT_LAG_START_US,
            totals: Totals::default(),
            config,
        }
    }

    /// Takes notice of what happened.
    pub fn handle(&mut self, now: Micros, event: Event) {
        match event {
            Event::Joined { receiver, want } => self.join(now, receiver, &want),
            Event::Reported { receiver, report } => self.report(now, receiver, &report),
            Event::Prioritized { receiver, priority } => {
                self.roster.set_priority(receiver, priority);
                self.sort_queues();
            }
            Event::Left { receiver } => self.leave(receiver),
        }
    }

    /// What `stream` sends next. May be asked a few groups ahead of what is on the wire.
    pub fn next(&mut self, now: Micros, stream: StreamId) -> Next {
        let Some(stream) = self.streams.iter().position(|candidate| candidate.id == stream) else { return Next::Wait { until: None } };
        self.tick(now);
        if self.roster.wanting() == 0 {
            return Next::Wait { until: None };
        }
        if let Some(group) = self.next_group(now, stream) {
            return Next::Group(group);
        }
        let sync_due_at = self.streams[stream].sync_due_at();
        if now < sync_due_at {
            return Next::Wait { until: Some(self.deadline().map_or(sync_due_at, |deadline| deadline.min(sync_due_at))) };
        }
        self.totals.syncs_sent += 1;
        let sequence = self.streams[stream].send_sync(now);
        self.set_greeting_deadlines(self.streams[stream].on_wire_at(now));
        Next::Sync { sequence }
    }

    /// The rate at which `stream` is to be sent, in bits of frames on the wire.
    pub fn rate_bits_per_second(&self, stream: StreamId) -> u64 {
        let known = self.streams.iter().any(|candidate| candidate.id == stream);
        if known { self.rate_per_stream() } else { 0 }
    }

    /// All receivers count for the rate, also those that lose far more than the rest.
    pub(super) fn wait_for_all(&mut self, wait: bool) {
        self.rate.set_leaves_out_stragglers(!wait);
    }

    /// The receivers of other streams report too: so many in all.
    pub(super) fn set_report_load(&mut self, receivers: usize) {
        self.report_load = Some(receivers);
    }

    /// The rate's bounds from now on.
    pub(super) fn set_rate_limits(&mut self, cap_bits_per_second: u64, floor_bits_per_second: u64) {
        self.rate.set_floor(floor_bits_per_second);
        self.rate.set_cap(cap_bits_per_second);
    }

    /// In which order whole chunks go out from now on.
    pub(super) fn set_order(&mut self, order: Order) {
        self.queues.set_order(order);
    }

    /// Where the carousel stands.
    pub(super) fn carousel(&self) -> u32 {
        self.queues.position()
    }

    /// Changes the operator's cap on the rate of all streams together: downwards at once, upwards the rate climbs as it does anyway.
    pub fn set_rate_cap(&mut self, bits_per_second: u64) {
        self.rate.set_cap(bits_per_second);
    }

    /// The least time between two reports of a receiver that the sender can ask for now.
    pub fn report_interval_us(&self) -> u64 {
        report_interval_us(self.report_load.unwrap_or_else(|| self.roster.len()))
    }

    /// Chunks that `receiver` still wants; `None` when it is not listed.
    pub fn remaining(&self, receiver: ReceiverId) -> Option<u32> {
        self.roster.want(receiver).map(ChunkSet::len)
    }

    /// Counts since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Compares all running sums with what they are sums of; for tests and the simulator, as it looks at everything.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        self.roster.check()?;
        let queued = self.progress.iter().filter(|progress| progress.queued).count();
        let repairs: usize = self.queues.iter().map(|queue| queue.repairs.len()).sum();
        if queued != repairs {
            return Err(format!("{queued} chunks are marked as queued for repair and {repairs} are"));
        }
        for queue in self.queues.iter() {
            let above = |chunk: &ChunkId| self.roster.priorities().of_chunk(*chunk).is_some_and(|priority| priority > queue.priority);
            if let Some(chunk) = queue.whole.iter().chain(queue.later.iter()).chain(queue.repairs.iter().copied()).find(above) {
                return Err(format!("chunk {chunk} waits among those of priority {}, below its own", queue.priority));
            }
        }
        let never_sent = |chunk: &u32| self.progress[*chunk as usize].sent.is_none() && self.roster.demand(ChunkId(*chunk)) > 0;
        let waits = |chunk: ChunkId| self.queues.iter().any(|queue| queue.whole.contains(chunk));
        match (0..self.progress.len() as u32).filter(never_sent).find(|&chunk| !waits(ChunkId(chunk))) {
            Some(chunk) => Err(format!("chunk {chunk} is in demand, was never sent and will not be")),
            None => Ok(()),
        }
    }

    fn rate_per_stream(&self) -> u64 {
        (self.rate.bits_per_second() / self.streams.len().max(1) as u64).max(1)
    }

    // What happened.

    fn join(&mut self, now: Micros, receiver: ReceiverId, want: &[ChunkRange]) {
        self.leave(receiver);
        self.roster.join(receiver, want);
        self.sort_queues();
        self.greeting_new.push(receiver);
        self.queue_never_sent(receiver);
        // It can say nothing before it has heard one.
        self.streams.iter_mut().for_each(|stream| stream.hurry_syncs(now));
    }

    fn leave(&mut self, receiver: ReceiverId) {
        if self.roster.want(receiver).is_none() {
            return;
        }
        if self.roster.attendance(receiver) == Some(&Attendance::Greeting) {
            self.greeting_new.retain(|&greeting| greeting != receiver);
            self.greeting_until.retain(|&(_, greeting)| greeting != receiver);
        }
        self.roster.leave(receiver);
        self.rate.forget(receiver);
        self.losses.forget(receiver);
        self.unlisten(receiver);
    }

    fn report(&mut self, now: Micros, receiver: ReceiverId, report: &Report) {
        if self.roster.want(receiver).is_none() {
            return;
        }
        self.rate.note(receiver, report);
        // Not only when a group is due: at low rates that is rare.
        self.rate.tick(now, self.report_interval_us());
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

    /// Whether `chunk` went out, or was about to, before `receiver` is known to have listened.
    fn was_sent_before_it_listened(&self, receiver: ReceiverId, chunk: ChunkId) -> bool {
        match (self.roster.attendance(receiver), self.progress[chunk.index()].sent) {
            (Some(Attendance::Listening { catch_up }), Some(sent)) => {
                catch_up.as_ref().and_then(|positions| positions.get(sent.stream)).is_some_and(|&end| sent.last < end)
            }
            (attendance, _) => attendance == Some(&Attendance::Greeting),
        }
    }

    /// Whether `receiver` listens and everything that was sent of `chunk` lies behind it.
    fn has_passed(&self, receiver: ReceiverId, chunk: ChunkId) -> bool {
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

    fn unlisten(&mut self, receiver: ReceiverId) {
        for stream in 0..self.streams.len() {
            self.streams[stream].unlisten(receiver);
            self.land_passed(stream);
        }
    }

    /// Makes a receiver that was silent for too long absent.
    fn give_up_on(&mut self, receiver: ReceiverId) {
        self.roster.set_attendance(receiver, Attendance::Absent);
        self.unlisten(receiver);
    }

    fn queue_never_sent(&mut self, receiver: ReceiverId) {
        for chunk in self.wanted_by(receiver) {
            if let Some(priority) = self.priority(chunk).filter(|_| self.progress[chunk.index()].sent.is_none()) {
                self.queues.push_whole(priority, chunk);
            }
        }
    }

    /// The highest priority of those who want `chunk`; `None` when nobody does.
    fn priority(&self, chunk: ChunkId) -> Option<i16> {
        self.roster.priorities().of_chunk(chunk)
    }

    /// Priorities of chunks may have risen: what waits below a priority that is in use is looked at.
    fn sort_queues(&mut self) {
        let Scheduler { queues, roster, .. } = self;
        let highest = roster.priorities().highest();
        if queues.iter().any(|queue| highest > Some(queue.priority)) {
            queues.sort(|chunk| roster.priorities().of_chunk(chunk));
        }
    }

    fn wanted_by(&self, receiver: ReceiverId) -> Vec<ChunkId> {
        self.roster.want(receiver).map(|want| want.iter().collect()).unwrap_or_default()
    }

    // What follows from it.

    /// Judges the chunks of all groups that all listeners have passed; when the last of them had left.
    fn land_passed(&mut self, stream: usize) -> Option<Micros> {
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
        self.proactive.landed(Landed { provision, deficits, listeners: self.listeners() });
    }

    fn listeners(&self) -> usize {
        self.streams.iter().map(Stream::listener_count).max().unwrap_or(0)
    }

    /// Whether the group from `first` to `sync` is the last one that `chunk` was in.
    fn is_in(&self, chunk: ChunkId, stream: usize, first: u64, sync: u64) -> bool {
        self.progress[chunk.index()].sent.is_some_and(|sent| sent.stream == stream && (first..sync).contains(&sent.last))
    }

    /// Queues `chunk` as what is known of it asks for.
    fn judge(&mut self, chunk: ChunkId) {
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
        self.proactive.prime(&LossModel { losses: review.losses, receivers, run_packets, interleave, source_symbols });
    }

    fn tick(&mut self, now: Micros) {
        self.rate.tick(now, self.report_interval_us());
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
    fn deadline(&self) -> Option<Micros> {
        let of_stream = |stream: &Stream| {
            let overdue = stream.in_flight.get(stream.overdue).map(|group| group.on_wire_at.after(self.report_wait_us()));
            let absent = stream.in_flight.front().map(|group| group.on_wire_at.after(self.absent_after_us()));
            overdue.into_iter().chain(absent).min()
        };
        let greeting = self.greeting_until.front().map(|&(until, _)| until);
        self.streams.iter().filter_map(of_stream).chain(greeting).min()
    }

    /// From now on greeting receivers have something to answer.
    fn set_greeting_deadlines(&mut self, on_wire_at: Micros) {
        if self.greeting_new.is_empty() {
            return;
        }
        let until = on_wire_at.after(self.absent_after_us());
        self.greeting_until.extend(self.greeting_new.drain(..).map(|receiver| (until, receiver)));
    }
}

#[cfg(test)]
mod tests;
