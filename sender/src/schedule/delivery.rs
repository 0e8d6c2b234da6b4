//! A delivery over several streams: which stream carries what to whom, and how fast, as receivers come and go and show what they restore.
//!
//! Every stream has a [`Scheduler`] of its own, which knows of each receiver only the chunks that it is to get there; what a receiver reports goes to all
//! of them, and each takes what concerns it. So a chunk may move from one stream to another while nothing of it is under way, and two streams may
//! bring the same chunk from both ends: whichever comes first, the report of its completion ends the demand in both.
//!
//! * `lane`: one stream: its scheduler and who is in it.
//! * `fetches`: the last of chunks that receivers fetch by unicast, because to multicast it would cost more.
//! * `planning`: when a plan is made (see [`super::plan`]), and of what.
//! * `assign`: from a plan to who gets what where.
//! * `limits`: from a plan to how fast each stream may be.

mod assign;
mod fetches;
mod lane;
mod limits;
mod planning;

use super::chunk_set::ChunkSet;
use super::straggler::{Remedy, Standing, StragglerPolicy};
use super::{Event, Next, ReceiverId, ScheduleConfig, Totals};
use assign::Assignment;
use lane::Lane;
use limits::Planned;
use std::collections::BTreeMap;
use wire::report::{ChunkRange, Report};
use wire::{ChunkId, Micros, StreamId};

/// A plan is made anew at most this often, so that 1,000 receivers that join at once make a few plans and not 1,000.
const PLAN_INTERVAL_US: u64 = 200_000;
/// … and at least this often while there are several streams: rates go by what is left.
const PLAN_REFRESH_US: u64 = 2_000_000;
/// Packs of more chunks than this are planned as much more seldom: a plan takes some 75 ns a chunk, for which all streams wait.
const PLAN_CHUNKS: u64 = 1 << 18;
/// A restore rate that differs by less than an eighth from what was planned with is no news.
const RATE_NEWS_SHARE: u64 = 8;

/// What a delivery works with for as long as it lives.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// The session, its chunks, the rate, and all streams that may be used; at least one.
    pub schedule: ScheduleConfig,
    /// Runs of chunks that are wanted by the same images each, ascending: the pack's segments.
    pub classes: Vec<ChunkRange>,
    /// What to do about those who cannot keep up.
    pub stragglers: StragglerPolicy,
    /// What few receivers lack in the end is fetched by these when that costs less than multicast.
    pub last_by_unicast: bool,
}

/// What a receiver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Listen to these streams, ascending, and to no others.
    Listen(Vec<StreamId>),
    /// Fetch these chunks by unicast; multicast will not bring them.
    Fetch(Vec<ChunkRange>),
    /// Fetch what is lacking of these chunks by unicast; multicast will bring it only when that takes too long.
    FetchRest(Vec<ChunkRange>),
    /// Leave, for this reason.
    Leave(String),
}

#[derive(Debug)]
struct Member {
    want: ChunkSet,
    priority: i16,
    standing: Standing,
    /// What the plan in force counted on.
    planned_rate: u64,
    /// The plan in force counted on it.
    is_planned: bool,
    /// The streams bring it what they are to bring.
    is_settled: bool,
    /// It fetches everything itself.
    unicast: bool,
    /// What it was last told to listen to.
    told: Option<Vec<StreamId>>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Delivery {
    config: DeliveryConfig,
    lanes: Vec<Lane>,
    members: BTreeMap<ReceiverId, Member>,
    assignment: Assignment,
    /// Per level of the assignment, the chunks that it wanted when that was made and no higher one did.
    level_chunks: Vec<ChunkSet>,
    /// Per lane.
    planned: Vec<Option<Planned>>,
    orders: Vec<(ReceiverId, Order)>,
    /// What is being fetched instead of sent, and until when that may take.
    fetches: BTreeMap<(ReceiverId, ChunkId), Micros>,
    /// Somebody came, left, is absent or back, has another priority, or restores at another rate.
    news: bool,
    planned_at: Option<Micros>,
    /// Chunks that were sent on any stream, for the count of what was needed.
    sent: ChunkSet,
    symbols_needed: u64,
    rate_cap_bits_per_second: u64,
    /// What others send beside the streams, within the cap.
    reserved_bits_per_second: u64,
}

impl Delivery {
    /// A delivery of a pack, with nobody listed.
    pub fn new(config: DeliveryConfig) -> Delivery {
        let chunk_count = config.schedule.parameters.chunk_count;
        let lane = |&id: &StreamId| Lane::new(&config.schedule, id, config.stragglers.remedy == Remedy::Wait);
        Delivery {
            lanes: config.schedule.streams.iter().map(lane).collect(),
            members: BTreeMap::new(),
            assignment: Assignment::all_on_first(config.classes.len()),
            level_chunks: vec![ChunkSet::new(chunk_count)],
            planned: vec![None; config.schedule.streams.len()],
            orders: Vec::new(),
            fetches: BTreeMap::new(),
            news: false,
            planned_at: None,
            sent: ChunkSet::new(chunk_count),
            symbols_needed: 0,
            rate_cap_bits_per_second: config.schedule.rate_cap_bits_per_second,
            reserved_bits_per_second: 0,
            config,
        }
    }

    /// Lists `receiver`, or lists it anew. `restore_bytes_per_second` is 0 when it is not known.
    pub fn join(&mut self, now: Micros, receiver: ReceiverId, want: &[ChunkRange], restore_bytes_per_second: u64, unicast: bool) {
        self.leave(now, receiver);
        let mut wanted = ChunkSet::new(self.config.schedule.parameters.chunk_count);
        want.iter().for_each(|&range| wanted.insert_range(range));
        let standing = Standing { restore_bytes_per_second, ..Standing::default() };
        let member =
            Member { want: wanted, priority: 0, standing, planned_rate: 0, is_planned: false, is_settled: false, unicast, told: None };
        self.members.insert(receiver, member);
        if !unicast {
            self.news = true;
            self.settle(now, receiver);
        }
    }

    /// What happened to a listed receiver.
    pub fn handle(&mut self, now: Micros, event: Event) {
        match event {
            Event::Joined { receiver, want } => self.join(now, receiver, &want, 0, false),
            Event::Reported { receiver, report } => self.report(now, receiver, &report),
            Event::Left { receiver } => self.leave(now, receiver),
            Event::Prioritized { receiver, priority } => {
                let Some(member) = self.members.get_mut(&receiver) else { return };
                if std::mem::replace(&mut member.priority, priority) != priority {
                    (self.news, member.is_settled) = (true, false);
                }
                self.lanes.iter_mut().filter(|lane| lane.has(receiver)).for_each(|lane| lane.prioritize(now, receiver, priority));
            }
        }
    }

    /// What `stream` sends next. May be asked a few groups ahead of what is on the wire.
    pub fn next(&mut self, now: Micros, stream: StreamId) -> Next {
        self.mind_plan(now);
        self.mind_fetches(now);
        let room = self.room_for_fetches();
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == stream) else { return Next::Wait { until: None } };
        lane.scheduler.set_handover_room(room);
        let next = lane.next(now);
        let handed_over = lane.scheduler.take_handed_over();
        self.news |= lane.scheduler.take_absence();
        self.begin_fetches(now, handed_over);
        match next {
            Next::Group(group) => {
                for part in &group.chunks {
                    if self.sent.insert(part.chunk) {
                        self.symbols_needed += u64::from(part.source_symbols);
                    }
                }
                Next::Group(group)
            }
            Next::Wait { until } => Next::Wait { until: until.into_iter().chain(self.fetches_until()).min() },
            sync @ Next::Sync { .. } => sync,
        }
    }

    /// What receivers are to be told since this was last asked, in order.
    pub fn take_orders(&mut self) -> Vec<(ReceiverId, Order)> {
        std::mem::take(&mut self.orders)
    }

    /// The rate at which `stream` is to be sent, in bits of frames on the wire.
    pub fn rate_bits_per_second(&self, stream: StreamId) -> u64 {
        self.lanes.iter().find(|lane| lane.id == stream).map_or(0, |lane| lane.scheduler.rate_bits_per_second(stream))
    }

    /// What all streams that carry something may send together now.
    pub fn total_rate_bits_per_second(&self) -> u64 {
        self.lanes.iter().filter(|lane| !lane.is_empty()).map(|lane| lane.scheduler.rate_bits_per_second(lane.id)).sum()
    }

    /// Never faster than this from now on, all streams together.
    pub fn set_rate_cap(&mut self, now: Micros, bits_per_second: u64) {
        self.rate_cap_bits_per_second = bits_per_second.max(1);
        self.plan(now);
    }

    /// So much of the cap is taken by what is sent beside the streams from now on: these get the rest, but never less than half of the cap.
    pub fn set_reserved_rate(&mut self, now: Micros, bits_per_second: u64) {
        self.reserved_bits_per_second = bits_per_second;
        self.plan(now);
    }

    /// What all streams together may send.
    fn streams_cap_bits_per_second(&self) -> u64 {
        let cap = self.rate_cap_bits_per_second;
        cap.saturating_sub(self.reserved_bits_per_second).max(cap / 2).max(1)
    }

    /// The least time between two reports of a receiver that the sender can ask for now.
    pub fn report_interval_us(&self) -> u64 {
        super::scheduler::report_interval_us(self.members.len())
    }

    /// Chunks that `receiver` still wants; `None` when it is not listed.
    pub fn remaining(&self, receiver: ReceiverId) -> Option<u32> {
        self.members.get(&receiver).map(|member| member.want.len())
    }

    /// The streams that carry something at present.
    pub fn streams_in_use(&self) -> usize {
        self.lanes.iter().filter(|lane| !lane.is_empty()).count()
    }

    /// Counts since the start, all streams together.
    pub fn totals(&self) -> Totals {
        let mut totals = self.lanes.iter().map(|lane| lane.scheduler.totals()).fold(Totals::default(), |sum, of_lane| Totals {
            symbols_sent: sum.symbols_sent + of_lane.symbols_sent,
            repair_symbols_sent: sum.repair_symbols_sent + of_lane.repair_symbols_sent,
            symbols_needed: 0,
            groups_sent: sum.groups_sent + of_lane.groups_sent,
            syncs_sent: sum.syncs_sent + of_lane.syncs_sent,
            symbols_by_unicast: sum.symbols_by_unicast + of_lane.symbols_by_unicast,
        });
        // A chunk that two streams have sent is needed once.
        totals.symbols_needed = self.symbols_needed;
        totals
    }

    /// Compares all running sums with what they are sums of, and what the streams bring with what is wanted; for tests and the simulator.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        for lane in &self.lanes {
            lane.scheduler.check().map_err(|error| format!("stream {}: {error}", lane.id))?;
        }
        for (&receiver, member) in self.members.iter().filter(|(_, member)| !member.unicast) {
            for chunk in member.want.iter() {
                let fetches = self.fetches.contains_key(&(receiver, chunk));
                if !fetches && !self.lanes.iter().any(|lane| lane.scheduler.wants(receiver, chunk)) {
                    return Err(format!("receiver {} wants chunk {chunk} and no stream brings it", receiver.0));
                }
            }
            for lane in &self.lanes {
                if let Some(chunk) = lane.scheduler.want_of(receiver).find(|&chunk| !member.want.contains(chunk)) {
                    return Err(format!("stream {} brings receiver {} chunk {chunk}, which it does not want", lane.id, receiver.0));
                }
            }
        }
        self.check_limits()
    }

    fn leave(&mut self, now: Micros, receiver: ReceiverId) {
        if self.members.remove(&receiver).is_some() {
            self.lanes.iter_mut().for_each(|lane| lane.leave(now, receiver));
            self.lanes.iter_mut().for_each(|lane| lane.scheduler.forget_handed_over(receiver));
            self.forget_fetches(receiver);
            self.news = true;
        }
    }

    fn report(&mut self, now: Micros, receiver: ReceiverId, report: &Report) {
        let Some(member) = self.members.get_mut(&receiver) else { return };
        let completed = report.completed.iter().flat_map(|&range| member.want.remove_range(range));
        let symbols: u64 = completed.map(|chunk| u64::from(self.config.schedule.source_symbols[chunk.index()])).sum();
        let bytes = symbols * u64::from(self.config.schedule.parameters.symbol_bytes);
        self.news |= member.standing.completed(now, bytes);
        // It was absent, and no stream is kept for it.
        self.news |= !member.is_planned && !member.unicast && !member.want.is_empty();
        let want = &member.want;
        self.fetches.retain(|&(fetching, chunk), _| fetching != receiver || want.contains(chunk));
        let standing = &mut member.standing;
        let lost = report.packets_sent.saturating_sub(report.packets_seen);
        standing.packets_sent = standing.packets_sent.saturating_add(report.packets_sent);
        standing.packets_lost = standing.packets_lost.saturating_add(lost);
        if report.restore_bytes_per_second > 0 {
            let is_news = !std::mem::replace(&mut standing.is_shown, true);
            standing.restore_bytes_per_second = report.restore_bytes_per_second;
            let planned = member.planned_rate;
            self.news |= is_news || report.restore_bytes_per_second.abs_diff(planned) > planned / RATE_NEWS_SHARE;
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.has(receiver)) {
            lane.scheduler.handle(now, Event::Reported { receiver, report: report.clone() });
        }
        let done: Vec<usize> = (0..self.lanes.len()).filter(|&lane| self.lanes[lane].is_done(receiver)).collect();
        if !done.is_empty() && self.lanes.len() > 1 {
            done.into_iter().for_each(|lane| self.lanes[lane].leave(now, receiver));
            self.tell(now, receiver);
        }
    }

    /// Tells `receiver` which streams bring it something, when that has changed.
    fn tell(&mut self, now: Micros, receiver: ReceiverId) {
        let Some(member) = self.members.get_mut(&receiver) else { return };
        let mut streams: Vec<StreamId> = self.lanes.iter().filter(|lane| lane.has(receiver)).map(|lane| lane.id).collect();
        streams.sort_unstable();
        // A receiver that needs nothing more is about to leave, and listens until then.
        if streams.is_empty() || member.told.as_ref() == Some(&streams) {
            return;
        }
        // The first one it has joined before it came.
        let joined = member.told.replace(streams.clone()).unwrap_or_else(|| self.lanes.first().map(|lane| lane.id).into_iter().collect());
        for lane in self.lanes.iter_mut().filter(|lane| streams.contains(&lane.id) && !joined.contains(&lane.id)) {
            lane.is_joined(now);
        }
        self.orders.push((receiver, Order::Listen(streams)));
    }
}

#[cfg(test)]
mod tests;
