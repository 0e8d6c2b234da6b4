//! When a plan is made and of what: who wants how much of which class, and with which priority. Plans themselves are made in [`super::super::plan`].

use super::super::chunk_set::ChunkSet;
use super::super::plan::{Class, Device, Ranked};
use super::super::straggler::Remedy;
use super::super::{Micros, ReceiverId};
use super::{Delivery, Order, PLAN_CHUNKS, PLAN_INTERVAL_US, PLAN_REFRESH_US};
use std::collections::BTreeSet;
use wire::report::ChunkRange;

/// What a plan is made of, and what its positions mean.
pub(super) struct Ranking {
    pub(super) ranked: Ranked,
    /// By position in `ranked.receivers`.
    pub(super) ids: Vec<ReceiverId>,
    /// By rank: the lowest priority that has it.
    pub(super) priorities: Vec<i16>,
    /// By rank: the chunks that it wants and no higher one does.
    pub(super) chunks: Vec<ChunkSet>,
}

impl Delivery {
    /// Plans anew when there is reason to.
    pub(super) fn mind_plan(&mut self, now: Micros) {
        let since_us = self.planned_at.map_or(u64::MAX, |at| now.since(at));
        let several = self.streams_in_use() > 1;
        let size = (self.config.schedule.source_symbols.len() as u64 / PLAN_CHUNKS).max(1);
        if (self.news && since_us >= PLAN_INTERVAL_US * size) || (several && since_us >= PLAN_REFRESH_US * size) {
            self.plan(now);
        }
    }

    /// Makes a plan of what is left and carries it out.
    pub(super) fn plan(&mut self, now: Micros) {
        self.news = false;
        self.planned_at = Some(now);
        self.part_with_stragglers(now);
        let ranking = self.ranking();
        let levels = ranking.ranked.plan();
        self.assign(now, &ranking, &levels);
        self.limit_lanes();
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

    /// What there is to plan for. Receivers that are absent from all their streams make no demand, and no stream is kept for them.
    fn ranking(&mut self) -> Ranking {
        let unlimited = self.cap_bytes_per_second();
        let lanes = &self.lanes;
        let is_absent = |id: ReceiverId| {
            let mut of_lanes = lanes.iter().filter(|lane| lane.has(id)).peekable();
            of_lanes.peek().is_some() && of_lanes.all(|lane| lane.scheduler.is_absent(id))
        };
        let (mut ids, mut receivers) = (Vec::new(), Vec::new());
        for (&id, member) in &mut self.members {
            member.is_planned = !member.unicast && !member.want.is_empty() && !is_absent(id);
            if member.is_planned {
                member.planned_rate = member.standing.restore_bytes_per_second;
                let rate = if member.planned_rate == 0 { unlimited } else { member.planned_rate.min(unlimited) };
                ids.push(id);
                receivers.push(Device::new(id, rate, member.standing.is_shown));
            }
        }
        let wants = || ids.iter().filter_map(|id| self.members.get(id));
        // With more priorities than streams the lowest of them share one in any case.
        let all: BTreeSet<i16> = wants().map(|member| member.priority).collect();
        let mut priorities: Vec<i16> = all.into_iter().rev().collect();
        if let Some(&lowest) = priorities.last().filter(|_| priorities.len() > self.lanes.len()) {
            priorities.truncate(self.lanes.len());
            priorities[self.lanes.len() - 1] = lowest;
        }
        let rank = |priority: i16| priorities.iter().position(|&lowest| priority >= lowest).unwrap_or(0);
        let ranks: Vec<usize> = wants().map(|member| rank(member.priority)).collect();
        let mut chunks = vec![ChunkSet::new(self.config.schedule.parameters.chunk_count); priorities.len()];
        wants().zip(&ranks).for_each(|(member, &rank)| chunks[rank].unite(&member.want));
        for rank in 1..chunks.len() {
            let (higher, lower) = chunks.split_at_mut(rank);
            higher.iter().for_each(|higher| lower[0].subtract(higher));
        }
        let piece = |rank: usize, range: ChunkRange| {
            let symbols = |chunk: wire::ChunkId| u64::from(self.config.schedule.source_symbols[chunk.index()]);
            let remaining_symbols: u64 = chunks[rank].iter_range(range).map(symbols).sum();
            let wanted_by =
                wants().enumerate().filter(|&(position, member)| ranks[position] >= rank && member.want.meets_in(&chunks[rank], range));
            Class {
                remaining_bytes: remaining_symbols * u64::from(self.config.schedule.parameters.symbol_bytes),
                wanted_by: wanted_by.map(|(position, _)| position).collect(),
            }
        };
        let pieces = (0..chunks.len()).map(|rank| self.config.classes.iter().map(|&range| piece(rank, range)).collect()).collect();
        let ranked = Ranked {
            receivers,
            ranks,
            pieces,
            total_bytes_per_second: unlimited,
            streams_max: self.lanes.len(),
            express: self.config.stragglers.remedy == Remedy::SlowStream,
        };
        Ranking { ranked, ids, priorities, chunks }
    }

    pub(super) fn cap_bytes_per_second(&self) -> u64 {
        let bytes = self.streams_cap_bits_per_second() as f64 / self.line_bits(1.0e6) as f64 * 1.0e6;
        (bytes as u64).max(1)
    }
}
