//! Who gets what on which stream: plans are carried out here, by moving demand between streams.

use super::super::chunk_set::ChunkSet;
use super::super::plan::{Level, Pace, StreamPlan};
use super::super::scheduler::Order as Sequence;
use super::super::{Micros, ReceiverId};
use super::Delivery;
use super::limits::Planned;
use super::planning::Ranking;
use std::collections::BTreeSet;
use wire::report::ChunkRange;

/// Which streams carry what, for each level of priorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    /// Descending; at least one.
    levels: Vec<Carriers>,
}

/// The streams of one level.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Carriers {
    /// The lowest priority of this level.
    lowest: i16,
    /// Per class the position of the stream that brings it to all who want it.
    base: Vec<usize>,
    /// Streams that bring a class to some from its other end: class, stream, who.
    express: Vec<(usize, usize, BTreeSet<ReceiverId>)>,
    /// Streams send their classes side by side, not one after the other.
    side_by_side: bool,
    /// Receivers of lower levels that are better off without these streams, although they want what these carry.
    refused: BTreeSet<ReceiverId>,
}

impl Carriers {
    /// Everything on one stream.
    fn all_on(lane: usize, classes: usize) -> Carriers {
        Carriers { lowest: i16::MIN, base: vec![lane; classes], express: Vec::new(), side_by_side: false, refused: BTreeSet::new() }
    }
}

impl Assignment {
    /// Everything on the first stream.
    pub(super) fn all_on_first(classes: usize) -> Assignment {
        Assignment { levels: vec![Carriers::all_on(0, classes)] }
    }

    /// How many levels there are.
    pub(super) fn levels(&self) -> usize {
        self.levels.len()
    }

    /// The stream that brings `class` from its other end.
    fn express_of(&self, class: usize) -> Option<usize> {
        self.levels.iter().flat_map(|level| &level.express).find(|(of, ..)| *of == class).map(|&(_, lane, _)| lane)
    }

    /// The level of receivers of `priority`.
    pub(super) fn level_of(&self, priority: i16) -> usize {
        self.levels.iter().position(|level| priority >= level.lowest).unwrap_or(self.levels.len() - 1)
    }
}

impl Delivery {
    /// Carries a plan out: streams get their classes and rates, and demand moves to where it belongs.
    pub(super) fn assign(&mut self, now: Micros, ranking: &Ranking, levels: &[Level]) {
        let (assignment, planned) = self.assigned(ranking, levels);
        self.planned = planned;
        let bound = self.config.schedule.parameters.chunk_count;
        let mut chunks = vec![ChunkSet::new(bound); assignment.levels()];
        for (of_level, level) in chunks.iter_mut().zip(levels) {
            ranking.chunks[level.ranks.0..=level.ranks.1].iter().for_each(|of_rank| of_level.unite(of_rank));
        }
        let before = std::mem::replace(&mut self.level_chunks, chunks);
        let mut moved = ChunkSet::new(bound);
        let is_other = assignment != self.assignment;
        if is_other {
            self.set_orders(&assignment);
            self.assignment = assignment;
        } else if before.len() > 1 {
            // What a higher level wants no more moves to the streams of a lower one.
            for (now, before) in self.level_chunks.iter().zip(&before) {
                let mut new = now.clone();
                new.subtract(before);
                moved.unite(&new);
            }
        }
        let mut concerned = Vec::new();
        for (&receiver, member) in self.members.iter_mut().filter(|(_, member)| !member.unicast) {
            member.is_settled &= !is_other && !member.want.meets(&moved);
            // Who is absent would be greeted, and waited for, wherever it came to.
            if !member.is_settled && member.is_planned {
                concerned.push(receiver);
            }
        }
        concerned.into_iter().for_each(|receiver| self.settle(now, receiver));
    }

    /// Makes the streams' demand for `receiver` what the assignment says.
    pub(super) fn settle(&mut self, now: Micros, receiver: ReceiverId) {
        let Some(member) = self.members.get_mut(&receiver) else { return };
        member.is_settled = true;
        let (priority, want) = (member.priority, member.want.clone());
        let goals = self.goals(receiver, priority, want);
        // What stays where it was, because it is on its way, need not be brought by another base stream.
        let mut stays = ChunkSet::new(self.config.schedule.parameters.chunk_count);
        for (lane, goal) in self.lanes.iter_mut().zip(&goals) {
            lane.release(now, receiver, goal);
            lane.scheduler.want_of(receiver).filter(|&chunk| !goal.contains(chunk)).for_each(|chunk| _ = stays.insert(chunk));
        }
        let fetched = self.fetches.range((receiver, wire::ChunkId(0))..=(receiver, wire::ChunkId(u32::MAX)));
        fetched.for_each(|(&(_, chunk), _)| _ = stays.insert(chunk));
        for (lane, mut goal) in self.lanes.iter_mut().zip(goals) {
            goal.subtract(&stays);
            lane.scheduler.want_of(receiver).for_each(|chunk| _ = goal.remove(chunk));
            lane.bring(now, receiver, priority, &ChunkRange::from_sorted(goal.iter()));
        }
        self.tell(now, receiver);
    }

    /// What of `rest`, which `receiver` wants, each stream is to bring to it: what a higher level wants comes by that level's streams, unless the receiver is
    /// better off without them.
    fn goals(&self, receiver: ReceiverId, priority: i16, mut rest: ChunkSet) -> Vec<ChunkSet> {
        let mut goals = vec![ChunkSet::new(self.config.schedule.parameters.chunk_count); self.lanes.len()];
        let own = self.assignment.level_of(priority);
        for (level, chunks) in self.assignment.levels[..own].iter().zip(&self.level_chunks) {
            if !level.refused.contains(&receiver) {
                let mut guest = rest.clone();
                guest.intersect(chunks);
                rest.subtract(&guest);
                for (&lane, &range) in level.base.iter().zip(&self.config.classes) {
                    guest.iter_range(range).for_each(|chunk| _ = goals[lane].insert(chunk));
                }
            }
        }
        let level = &self.assignment.levels[own];
        for (class, (&lane, &range)) in level.base.iter().zip(&self.config.classes).enumerate() {
            let express = level.express.iter().filter(|(of, _, who)| *of == class && who.contains(&receiver)).map(|&(_, lane, _)| lane);
            for lane in express.chain([lane]) {
                rest.iter_range(range).for_each(|chunk| _ = goals[lane].insert(chunk));
            }
        }
        goals
    }

    /// Streams of a plan on the streams that there are, and what is planned for each.
    fn assigned(&self, ranking: &Ranking, levels: &[Level]) -> (Assignment, Vec<Option<Planned>>) {
        let mut planned: Vec<Option<Planned>> = vec![None; self.lanes.len()];
        let classes = self.config.classes.len();
        if levels.iter().all(|level| level.streams.is_empty()) {
            let first = self.assignment.levels[0].base.first().copied().unwrap_or(0);
            planned[first] = Some(Planned { level: 0, bits_per_second: self.streams_cap_bits_per_second() });
            return (Assignment { levels: vec![Carriers::all_on(first, classes)] }, planned);
        }
        let mut all: Vec<Carriers> = Vec::new();
        for (index, level) in levels.iter().enumerate() {
            let lowest = if index + 1 == levels.len() { i16::MIN } else { ranking.priorities[level.ranks.1] };
            let refused = level.refused.iter().map(|&position| ranking.ids[position]).collect();
            let mut carriers = Carriers { lowest, side_by_side: level.side_by_side, refused, ..Carriers::all_on(usize::MAX, classes) };
            // A class stays on its stream where it can, so that little has to move; the largest choose first.
            let mut order: Vec<&StreamPlan> = level.streams.iter().collect();
            order.sort_by_key(|stream| (stream.pace == Pace::Express, std::cmp::Reverse(stream.bytes_per_second)));
            let mut last = 0;
            for stream in order {
                let present = stream.classes.iter().filter_map(|&class| match stream.pace {
                    Pace::Base => self.home(ranking, level, class),
                    Pace::Express => self.assignment.express_of(class),
                });
                let free = (0..planned.len()).find(|&lane| planned[lane].is_none());
                let Some(lane) = present.into_iter().find(|&lane| planned[lane].is_none()).or(free) else { continue };
                planned[lane] = Some(Planned { level: index, bits_per_second: self.line_bits(stream.bytes_per_second_max as f64) });
                last = if stream.pace == Pace::Base { lane } else { last };
                for &class in &stream.classes {
                    match stream.pace {
                        Pace::Base => carriers.base[class] = lane,
                        Pace::Express => {
                            let who = stream.members.iter().filter_map(|&member| ranking.ids.get(member).copied()).collect();
                            carriers.express.push((class, lane, who));
                        }
                    }
                }
            }
            // What only those want who share the level's streams, or nobody yet, stays too, or comes by the last stream.
            let bases: BTreeSet<usize> = carriers.base.iter().copied().filter(|&lane| lane != usize::MAX).collect();
            for (class, lane) in carriers.base.iter_mut().enumerate().filter(|(_, lane)| **lane == usize::MAX) {
                *lane = self.home(ranking, level, class).filter(|home| bases.contains(home)).unwrap_or(last);
            }
            all.push(carriers);
        }
        // Alone on the link it has all of it, to the bit.
        if let [only] = &mut planned.iter_mut().flatten().collect::<Vec<_>>()[..] {
            only.bits_per_second = self.streams_cap_bits_per_second();
        }
        (Assignment { levels: all }, planned)
    }

    /// The stream that brings most of `class` to the first receiver of `level` that gets some of it at present.
    fn home(&self, ranking: &Ranking, level: &Level, class: usize) -> Option<usize> {
        let range = self.config.classes[class];
        let pieces = ranking.ranked.pieces.iter().filter_map(|classes| classes.get(class));
        let wanting = pieces.flat_map(|piece| piece.wanted_by.iter().copied());
        let mut of_level = wanting.filter(|&position| (level.ranks.0..=level.ranks.1).contains(&ranking.ranked.ranks[position]));
        of_level.find_map(|position| {
            let brings = |lane: usize| self.lanes[lane].scheduler.want_in(ranking.ids[position], range);
            (0..self.lanes.len()).filter(|&lane| brings(lane) > 0).max_by_key(|&lane| brings(lane))
        })
    }

    /// In which order streams send: an express stream begins where the base stream of its class is and goes the other way; a stream of several classes
    /// may send them side by side.
    fn set_orders(&mut self, assignment: &Assignment) {
        let wanted: Vec<Vec<bool>> = (0..assignment.levels()).map(|level| self.wanted(assignment, level)).collect();
        for lane in 0..self.lanes.len() {
            let mut levels = assignment.levels.iter();
            let express = levels.find_map(|level| Some((level, level.express.iter().find(|&&(_, on, _)| on == lane)?.0)));
            let brings = |level: usize, class: usize| assignment.levels[level].base[class] == lane && wanted[level][class];
            let levels = 0..assignment.levels();
            let classes = || (0..self.config.classes.len()).filter(|&class| levels.clone().any(|level| brings(level, class)));
            let side_by_side =
                levels.clone().any(|level| assignment.levels[level].side_by_side && classes().any(|class| brings(level, class)));
            let order = match express {
                Some((level, class)) => Sequence::Down(self.lanes[level.base[class]].scheduler.carousel()),
                None if side_by_side => Sequence::mixed(classes().map(|class| self.config.classes[class])),
                None => Sequence::ascending(),
            };
            self.lanes[lane].set_order(order);
        }
    }

    /// Per class, whether somebody of `level` wants some of it.
    fn wanted(&self, assignment: &Assignment, level: usize) -> Vec<bool> {
        let members = || self.members.values().filter(|member| assignment.level_of(member.priority) == level);
        let is_wanted = |range: &ChunkRange| members().any(|member| member.want.iter_range(*range).next().is_some());
        self.config.classes.iter().map(is_wanted).collect()
    }
}
