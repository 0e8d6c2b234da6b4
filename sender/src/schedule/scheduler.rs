//! The scheduler itself. What it makes of reports is in `reports`, what that and time make of each chunk in `judge`, how that becomes groups in
//! `compose`, what waits for that in `queue`, and what is left to unicast in `handover`.

mod compose;
mod handover;
mod judge;
mod order;
mod queue;
mod reports;
mod transfer;

use super::loss::LossBook;
use super::proactive::Proactive;
use super::rate::RateControl;
use super::roster::{Attendance, Roster};
use super::stream::Stream;
use super::{Event, Next, ReceiverId, ScheduleConfig, Totals, chunk_set::ChunkSet};
pub(super) use order::Order;
use queue::Queues;
use std::collections::{BTreeSet, VecDeque};
use wire::report::ChunkRange;
use wire::{ChunkId, Micros, StreamId};

/// The shortest report interval: at 5 Gbit/s a group takes 7 ms, so that there is about one report a group.
const REPORT_INTERVAL_US: u64 = 10_000;
/// … and what each listed receiver adds: 10,000 reports a second altogether, whatever the number of receivers.
const REPORT_INTERVAL_PER_RECEIVER_US: u64 = 100;
/// Assumed until a report came: one report interval and a busy machine.
const REPORT_LAG_START_US: u64 = 25_000;

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
    /// Somebody has become absent since that was last asked.
    somebody_is_absent: bool,
    /// So many chunks may be handed over to unicast.
    handover_room: usize,
    handed_over: Vec<(ReceiverId, ChunkId)>,
    /// All that was ever handed over to those who are members of the delivery.
    handed_before: BTreeSet<(ReceiverId, ChunkId)>,
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
            somebody_is_absent: false,
            handover_room: 0,
            handed_over: Vec::new(),
            handed_before: BTreeSet::new(),
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
        match self.next_group(now, stream) {
            Some(group) => Next::Group(group),
            None => self.next_sync(now, stream),
        }
    }

    /// Nothing but a sync, at intervals as short as they get: those who join `stream` are waited for, and say by it that they have.
    pub(super) fn next_while_joining(&mut self, now: Micros, stream: StreamId) -> Next {
        let Some(stream) = self.streams.iter().position(|candidate| candidate.id == stream) else { return Next::Wait { until: None } };
        self.tick(now);
        self.streams[stream].hurry_syncs(now);
        self.next_sync(now, stream)
    }

    /// How many have said that they hear `stream`.
    pub(super) fn listeners_of(&self, stream: StreamId) -> usize {
        self.streams.iter().find(|candidate| candidate.id == stream).map_or(0, Stream::listener_count)
    }

    /// The sync that is due.
    fn next_sync(&mut self, now: Micros, stream: usize) -> Next {
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

    /// Decides on the rate when that is due. It is the rate of those of the highest priority: what others lose, or have waiting, does not slow them.
    fn tick_rate(&mut self, now: Micros) {
        // It takes a look at everybody, for which there mostly is no reason.
        let concerns_some = self.roster.priorities().are_several() || self.rate.has_unheeded();
        if concerns_some && self.rate.is_due(now) {
            let Scheduler { rate, roster, .. } = self;
            let leading = roster.leading_priority();
            rate.heed(|receiver| leading.is_none() || roster.priority_of(receiver) >= leading);
        }
        self.rate.tick(now, self.report_interval_us());
    }

    fn rate_per_stream(&self) -> u64 {
        (self.rate.bits_per_second() / self.streams.len().max(1) as u64).max(1)
    }

    // What happened.

    fn join(&mut self, now: Micros, receiver: ReceiverId, want: &[ChunkRange]) {
        self.leave(receiver);
        self.roster.join(receiver, want);
        self.rate.expect(receiver);
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
}

#[cfg(test)]
mod tests;
