//! Who gets what on which stream: plans are made here of what is left, and carried out by moving demand between streams.

use super::super::plan::{Class, Pace, Situation, StreamPlan};
use super::super::scheduler::Order as Sequence;
use super::super::straggler::Remedy;
use super::super::{Micros, ReceiverId};
use super::{Delivery, Order, PLAN_INTERVAL_US, PLAN_REFRESH_US};
use std::collections::BTreeSet;
use wire::report::ChunkRange;

/// One stream does when it takes no longer than this many times what several would.
const ONE_STREAM_ENOUGH: f64 = 1.03;
/// Fast receivers get streams of their own when that saves them this share of their time.
const EXPRESS_GAIN: f64 = 0.2;
/// A stream may be this much faster than planned, as far as the cap allows: receivers may restore more than they said, and push back when they do not.
const MARGIN: f64 = 1.1;
/// … while some have not shown what they restore: a test that others disturbed must not hold a stream down.
const MARGIN_UNSHOWN: f64 = 4.0;
/// What is sent beyond source symbols, as far as it can be planned for: syncs and repair.
const OVERHEAD: f64 = 1.02;

/// Which streams carry which classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    /// Per class the position of the stream that brings it to all who want it.
    base: Vec<usize>,
    /// Streams that bring a class to some from its other end: class, stream, who.
    express: Vec<(usize, usize, BTreeSet<ReceiverId>)>,
}

impl Assignment {
    /// Everything on the first stream.
    pub(super) fn all_on_first(classes: usize) -> Assignment {
        Assignment { base: vec![0; classes], express: Vec::new() }
    }

    /// The streams that are to bring `class` to `receiver`.
    fn carriers(&self, class: usize, receiver: ReceiverId) -> impl Iterator<Item = usize> + '_ {
        let express = self.express.iter().filter(move |(of, _, who)| *of == class && who.contains(&receiver)).map(|&(_, stream, _)| stream);
        self.base.get(class).copied().into_iter().chain(express)
    }
}

impl Delivery {
    /// Plans anew when there is reason to.
    pub(super) fn mind_plan(&mut self, now: Micros) {
        let since_us = self.planned_at.map_or(u64::MAX, |at| now.since(at));
        let several = self.streams_in_use() > 1;
        if (self.news && since_us >= PLAN_INTERVAL_US) || (several && since_us >= PLAN_REFRESH_US) {
            self.plan(now);
        }
    }

    /// Makes a plan of what is left and carries it out.
    pub(super) fn plan(&mut self, now: Micros) {
        self.news = false;
        self.planned_at = Some(now);
        self.part_with_stragglers(now);
        let streams = self.plan_streams();
        let (assignment, rates) = self.assigned(&streams);
        if assignment != self.assignment {
            self.set_orders(&assignment, !streams.0.is_empty());
            self.assignment = assignment;
            let receivers: Vec<ReceiverId> = self.members.iter().filter(|(_, member)| !member.unicast).map(|(&id, _)| id).collect();
            receivers.into_iter().for_each(|receiver| self.settle(now, receiver));
        }
        // Each stream has its share of the floor.
        let floor_share =
            self.config.schedule.rate_floor_bits_per_second as f64 / self.config.schedule.rate_cap_bits_per_second.max(1) as f64;
        let receivers = self.members.len();
        // What is left on a stream without a plan drains at a tenth of the cap, for which the others make room.
        let drains = self.lanes.iter().zip(&rates).filter(|(lane, rate)| **rate == 0 && !lane.is_empty()).count() as u64;
        // It is no less on a stream that is empty: somebody who joins before the next plan may be brought something there.
        let rest = self.streams_cap_bits_per_second() / 10 / drains.max(1);
        let planned: u64 = rates.iter().sum();
        let room = (self.streams_cap_bits_per_second() - rest * drains) as f64 / planned.max(1) as f64;
        for (lane, planned) in self.lanes.iter_mut().zip(rates) {
            let rate = if planned == 0 { rest } else { (planned as f64 * room.min(1.0)) as u64 };
            lane.scheduler.set_report_load(receivers);
            lane.set_rate_limits(rate, (rate as f64 * floor_share) as u64);
        }
    }

    /// Makes the streams' demand for `receiver` what the assignment says.
    pub(super) fn settle(&mut self, now: Micros, receiver: ReceiverId) {
        let Some(member) = self.members.get(&receiver) else { return };
        for (class, &range) in self.config.classes.iter().enumerate() {
            if member.want.iter_range(range).next().is_none() {
                continue;
            }
            let carriers: Vec<usize> = self.assignment.carriers(class, receiver).collect();
            for (lane, state) in self.lanes.iter_mut().enumerate() {
                if !carriers.contains(&lane) {
                    state.release(now, receiver, range);
                }
            }
            // What stays where it was, because it is on its way, need not be brought by another base stream.
            for &carrier in &carriers {
                let kept = |chunk: &wire::ChunkId| {
                    let fetches = self.fetches.contains_key(&(receiver, *chunk));
                    fetches
                        || self
                            .lanes
                            .iter()
                            .enumerate()
                            .any(|(lane, state)| !carriers.contains(&lane) && state.scheduler.wants(receiver, *chunk))
                };
                let missing = self.lanes[carrier].lacking(receiver, &member.want, range);
                let missing = ChunkRange::from_sorted(missing.into_iter().flat_map(ChunkRange::chunks).filter(|chunk| !kept(chunk)));
                self.lanes[carrier].bring(now, receiver, member.priority, &missing);
            }
        }
        self.tell(now, receiver);
    }

    /// The operator's policy on those who cannot keep up, as far as it takes them off the streams.
    fn part_with_stragglers(&mut self, now: Micros) {
        let policy = self.config.stragglers;
        if !matches!(policy.remedy, Remedy::Unicast | Remedy::Drop) {
            return;
        }
        let multicast = || self.members.iter().filter(|(_, member)| !member.unicast && !member.want.is_empty());
        let mut rates: Vec<u64> =
            multicast().map(|(_, member)| member.standing.restore_bytes_per_second).filter(|&rate| rate > 0).collect();
        rates.sort_unstable();
        let median = rates.get(rates.len() / 2).copied().unwrap_or(0);
        let meant = multicast().filter(|(_, member)| policy.applies(&member.standing, median)).map(|(&id, _)| id);
        let stragglers: Vec<ReceiverId> = meant.collect();
        for receiver in stragglers {
            self.lanes.iter_mut().for_each(|lane| lane.leave(now, receiver));
            self.forget_fetches(receiver);
            let Some(member) = self.members.get_mut(&receiver) else { continue };
            member.unicast = true;
            let standing = member.standing;
            let order = match policy.remedy {
                Remedy::Unicast => Order::Fetch(ChunkRange::from_sorted(member.want.iter())),
                _ => Order::Leave(format!(
                    "it cannot keep up ({} Mbit/s restored, {:.1} % lost), and the sender was told to drop such receivers (--straggler {policy})",
                    standing.restore_bytes_per_second * 8 / 1_000_000,
                    standing.packets_lost as f64 * 100.0 / standing.packets_sent.max(1) as f64,
                )),
            };
            self.orders.push((receiver, order));
        }
    }

    /// The streams that there should be: none when one stream for everything does.
    fn plan_streams(&mut self) -> (Vec<StreamPlan>, Vec<ReceiverId>) {
        let unlimited = self.cap_bytes_per_second();
        let mut receivers = Vec::new();
        for (&id, member) in self.members.iter_mut().filter(|(_, member)| !member.unicast && !member.want.is_empty()) {
            member.planned_rate = member.standing.restore_bytes_per_second;
            let rate = if member.planned_rate == 0 { unlimited } else { member.planned_rate.min(unlimited) };
            receivers.push((id, rate));
        }
        let ids: Vec<ReceiverId> = receivers.iter().map(|&(id, _)| id).collect();
        // Of several priorities the highest goes first, and on one stream nothing else can.
        let mut priorities = ids.iter().filter_map(|id| self.members.get(id)).map(|member| member.priority);
        let first = priorities.next();
        let several_priorities = priorities.any(|priority| Some(priority) != first);
        if self.lanes.len() < 2 || receivers.is_empty() || several_priorities {
            return (Vec::new(), ids);
        }
        let classes: Vec<Class> = (0..self.config.classes.len()).map(|class| self.class(class, &ids)).collect();
        let mut situation =
            Situation { receivers, classes, total_bytes_per_second: unlimited, streams_max: self.lanes.len(), express: false };
        let bound = situation.fluid_bound_seconds();
        let slowest = situation.receivers.iter().map(|&(_, rate)| rate).min().unwrap_or(unlimited);
        let remaining: u64 = situation.classes.iter().map(|class| class.remaining_bytes).sum();
        let one_stream = remaining as f64 / slowest as f64;
        // What express streams carry crosses the link twice: not before it is certain who is slow.
        let standings = || self.members.values().filter(|member| !member.unicast && !member.want.is_empty()).map(|member| member.standing);
        let is_certain =
            standings().filter(|standing| standing.restore_bytes_per_second > 0).min_by_key(|standing| standing.restore_bytes_per_second);
        let is_certain = is_certain.is_some_and(|slowest| slowest.is_shown);
        situation.express = self.config.stragglers.remedy == Remedy::SlowStream && is_certain && situation.gain() > EXPRESS_GAIN;
        if !situation.express && one_stream <= bound * ONE_STREAM_ENOUGH {
            return (Vec::new(), ids);
        }
        (situation.plan(), ids)
    }

    /// What is left of a class, for `receivers`.
    fn class(&self, class: usize, receivers: &[ReceiverId]) -> Class {
        let range = self.config.classes[class];
        let mut union = super::ChunkSet::new(self.config.schedule.parameters.chunk_count);
        let mut wanted_by = Vec::new();
        for (position, receiver) in receivers.iter().enumerate() {
            let before = wanted_by.len();
            for chunk in self.members.get(receiver).into_iter().flat_map(|member| member.want.iter_range(range)) {
                union.insert(chunk);
                if wanted_by.len() == before {
                    wanted_by.push(position);
                }
            }
        }
        let symbols: u64 = union.iter().map(|chunk| u64::from(self.config.schedule.source_symbols[chunk.index()])).sum();
        Class { remaining_bytes: symbols * u64::from(self.config.schedule.parameters.symbol_bytes), wanted_by }
    }

    /// Streams of a plan on the streams that there are, and the cap of each.
    fn assigned(&self, (streams, ids): &(Vec<StreamPlan>, Vec<ReceiverId>)) -> (Assignment, Vec<u64>) {
        let count = self.lanes.len();
        let mut rates = vec![0; count];
        if streams.is_empty() {
            let first = self.assignment.base.first().copied().unwrap_or(0);
            rates[first] = self.streams_cap_bits_per_second();
            return (Assignment { base: vec![first; self.config.classes.len()], express: Vec::new() }, rates);
        }
        let mut assignment = Assignment { base: self.assignment.base.clone(), express: Vec::new() };
        let mut taken = vec![false; count];
        let total: f64 = streams.iter().map(|stream| stream.bytes_per_second as f64).sum();
        let all_shown = ids.iter().filter_map(|id| self.members.get(id)).all(|member| member.standing.is_shown);
        let margin_max = if all_shown { MARGIN } else { MARGIN_UNSHOWN };
        let margin = (self.cap_bytes_per_second() as f64 / total.max(1.0)).clamp(1.0, margin_max);
        // A class stays on its stream where it can, so that little has to move; the largest choose first.
        let mut order: Vec<&StreamPlan> = streams.iter().collect();
        order.sort_by_key(|stream| (stream.pace == Pace::Express, std::cmp::Reverse(stream.bytes_per_second)));
        for stream in order {
            let present = stream.classes.iter().filter_map(|&class| match stream.pace {
                Pace::Base => self.assignment.base.get(class).copied(),
                Pace::Express => self.assignment.express.iter().find(|(of, ..)| *of == class).map(|&(_, lane, _)| lane),
            });
            let free = (0..count).find(|&lane| !taken[lane]);
            let Some(lane) = present.into_iter().find(|&lane| !taken[lane]).or(free) else { continue };
            taken[lane] = true;
            rates[lane] = self.line_bits(stream.bytes_per_second as f64 * margin);
            for &class in &stream.classes {
                match stream.pace {
                    Pace::Base => assignment.base[class] = lane,
                    Pace::Express => {
                        let who = stream.members.iter().filter_map(|&member| ids.get(member).copied()).collect();
                        assignment.express.push((class, lane, who));
                    }
                }
            }
        }
        (assignment, rates)
    }

    /// In which order streams send: an express stream begins where the base stream of its class is and goes the other way; a stream of several classes
    /// sends them side by side.
    fn set_orders(&mut self, assignment: &Assignment, side_by_side: bool) {
        for lane in 0..self.lanes.len() {
            let express = assignment.express.iter().find(|&&(_, on, _)| on == lane);
            let classes = (0..self.config.classes.len()).filter(|&class| assignment.base[class] == lane && self.is_wanted(class));
            let order = match express {
                Some(&(class, ..)) => Sequence::Down(self.lanes[assignment.base[class]].scheduler.carousel()),
                None if side_by_side => Sequence::mixed(classes.map(|class| self.config.classes[class])),
                None => Sequence::ascending(),
            };
            self.lanes[lane].set_order(order);
        }
    }

    /// Whether somebody wants some of a class.
    fn is_wanted(&self, class: usize) -> bool {
        let range = self.config.classes[class];
        self.members.values().any(|member| member.want.iter_range(range).next().is_some())
    }

    fn cap_bytes_per_second(&self) -> u64 {
        let bytes = self.streams_cap_bits_per_second() as f64 / self.line_bits(1.0e6) as f64 * 1.0e6;
        (bytes as u64).max(1)
    }

    /// Bits on the wire that so many bytes of chunks take.
    fn line_bits(&self, bytes: f64) -> u64 {
        let schedule = &self.config.schedule;
        let frame_bytes = schedule.parameters.payload_bytes() as f64 + f64::from(schedule.frame_overhead_bytes);
        ((bytes / f64::from(schedule.parameters.symbol_bytes) * frame_bytes * 8.0 * OVERHEAD) as u64).max(1)
    }
}
