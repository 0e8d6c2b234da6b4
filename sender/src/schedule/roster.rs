//! The receivers, what each of them wants and lacks, and the demand for each chunk that follows from it.
//!
//! Invariant: a chunk's demand is the number of receivers that want it and are not absent (counted in `priority`), and its needs are the sum of what those
//! receivers said that they lack. Everything that changes a receiver changes these sums in step, so that nothing ever has to be counted anew.

use super::ReceiverId;
use super::chunk_set::ChunkSet;
use super::needs::{ChunkNeeds, Need};
use super::priority::Priorities;
use std::collections::BTreeMap;
use wire::ChunkId;
use wire::report::{ChunkRange, Deficit};

/// What a receiver's presence is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attendance {
    /// It joined and has not reported any position yet: it makes demand, but nothing can be concluded from its silence.
    Greeting,
    /// It reports. While `catch_up` holds a position per stream, chunks that went out before these have not been judged for it.
    Listening {
        /// Where the streams were when it began to listen.
        catch_up: Option<Vec<u64>>,
    },
    /// It has not answered syncs for long. It makes no demand until it does.
    Absent,
}

/// What a receiver said of a chunk, or did not say although it should have.
#[derive(Debug)]
struct Statement {
    need: Need,
    /// It is in the chunk's sums if this is the chunk's `sending`: the receiver has passed all that was sent of it.
    sending: u32,
    /// The chunk's `turn` when it was made.
    turn: u32,
}

/// In no chunk's sums.
const NOT_COUNTED: u32 = 0;

#[derive(Debug)]
struct Member {
    want: ChunkSet,
    /// What it lacks of chunks that it wants, where it said so. Never of a chunk outside `want`.
    statements: BTreeMap<ChunkId, Statement>,
    attendance: Attendance,
    straggler: bool,
    priority: i16,
}

#[derive(Debug)]
struct Demand {
    source_symbols: u16,
    /// Counts how often it was sent. What was said of it before no longer holds: more is on its way.
    sending: u32,
    /// Counts how often it was sent because its turn had come.
    turn: u32,
    /// What receivers lack that have passed its last symbol; of stragglers apart. Only while there are such receivers: most chunks
    /// of a pack have none at any time.
    needs: [Option<Box<ChunkNeeds>>; 2],
}

impl Demand {
    fn add_need(&mut self, straggler: bool, need: &Need) {
        self.needs[usize::from(straggler)].get_or_insert_with(|| Box::new(ChunkNeeds::new(self.source_symbols))).add(need);
    }

    fn remove_need(&mut self, straggler: bool, need: &Need) {
        let slot = &mut self.needs[usize::from(straggler)];
        if let Some(needs) = slot {
            needs.remove(need);
        }
        slot.take_if(|needs| needs.reporters() == 0);
    }

    fn counts(&self, statement: &Statement) -> bool {
        statement.sending == self.sending
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Roster {
    members: BTreeMap<ReceiverId, Member>,
    chunks: Vec<Demand>,
    priorities: Priorities,
    /// Members that want at least one chunk, absent ones included.
    wanting: usize,
}

impl Roster {
    pub(super) fn new(source_symbols: &[u16]) -> Roster {
        let demand = |&source_symbols: &u16| Demand { source_symbols, sending: 1, turn: 0, needs: [None, None] };
        Roster {
            members: BTreeMap::new(),
            chunks: source_symbols.iter().map(demand).collect(),
            priorities: Priorities::new(source_symbols.len()),
            wanting: 0,
        }
    }

    /// Receivers that are listed.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Receivers that are listed and want something.
    pub(super) fn wanting(&self) -> usize {
        self.wanting
    }

    /// How many receivers want `chunk`, absent ones not counted.
    pub(super) fn demand(&self, chunk: ChunkId) -> u32 {
        self.priorities.demand(chunk)
    }

    /// What is known of priorities.
    pub(super) fn priorities(&self) -> &Priorities {
        &self.priorities
    }

    /// What `receiver` wants, or `None` when it is not listed.
    pub(super) fn want(&self, receiver: ReceiverId) -> Option<&ChunkSet> {
        self.members.get(&receiver).map(|member| &member.want)
    }

    pub(super) fn attendance(&self, receiver: ReceiverId) -> Option<&Attendance> {
        self.members.get(&receiver).map(|member| &member.attendance)
    }

    /// Lists `receiver`, which must not be listed, with priority 0.
    pub(super) fn join(&mut self, receiver: ReceiverId, ranges: &[ChunkRange]) {
        let mut want = ChunkSet::new(self.chunks.len() as u32);
        for &range in ranges {
            want.insert_range(range);
        }
        let priority = self.priorities.enter(0);
        want.iter().for_each(|chunk| self.priorities.add(priority, chunk));
        self.wanting += usize::from(!want.is_empty());
        let (statements, attendance) = (BTreeMap::new(), Attendance::Greeting);
        self.members.insert(receiver, Member { want, statements, attendance, straggler: false, priority });
    }

    /// `receiver`, which is listed, wants `ranges` too.
    pub(super) fn widen(&mut self, receiver: ReceiverId, ranges: &[ChunkRange]) {
        let Some(member) = self.members.get_mut(&receiver) else { return };
        let counted = member.attendance != Attendance::Absent;
        let wanted_nothing = member.want.is_empty();
        for chunk in ranges.iter().copied().flat_map(ChunkRange::chunks) {
            if member.want.insert(chunk) && counted {
                self.priorities.add(member.priority, chunk);
            }
        }
        self.wanting += usize::from(wanted_nothing && !member.want.is_empty());
    }

    /// How many symbols `receiver` last said that it needs of `chunk`; `None` when it said nothing.
    pub(super) fn stated(&self, receiver: ReceiverId, chunk: ChunkId) -> Option<u16> {
        self.members.get(&receiver)?.statements.get(&chunk).map(|statement| statement.need.symbols)
    }

    /// Takes `receiver` off the list with all its demand.
    pub(super) fn leave(&mut self, receiver: ReceiverId) {
        self.set_attendance(receiver, Attendance::Absent);
        if let Some(member) = self.members.remove(&receiver) {
            self.wanting -= usize::from(!member.want.is_empty());
            self.priorities.exit(member.priority);
        }
    }

    /// What `receiver` wants is of `priority` from now on.
    pub(super) fn set_priority(&mut self, receiver: ReceiverId, priority: i16) {
        let Some(member) = self.members.get_mut(&receiver).filter(|member| member.priority != priority) else { return };
        let counted = member.attendance != Attendance::Absent;
        if counted {
            member.want.iter().for_each(|chunk| self.priorities.remove(member.priority, chunk));
        }
        self.priorities.exit(member.priority);
        member.priority = self.priorities.enter(priority);
        if counted {
            member.want.iter().for_each(|chunk| self.priorities.add(member.priority, chunk));
        }
    }

    /// The priority that `receiver` is served with.
    pub(super) fn priority_of(&self, receiver: ReceiverId) -> Option<i16> {
        self.members.get(&receiver).map(|member| member.priority)
    }

    /// The highest priority of those who want something and are not absent. Looks at everybody.
    pub(super) fn leading_priority(&self) -> Option<i16> {
        let wanting = self.members.values().filter(|member| member.attendance != Attendance::Absent && !member.want.is_empty());
        wanting.map(|member| member.priority).max()
    }

    /// Changes what `receiver`'s presence is worth; its demand is taken away or put back when it begins or ends to be absent.
    pub(super) fn set_attendance(&mut self, receiver: ReceiverId, attendance: Attendance) {
        let Some(member) = self.members.get_mut(&receiver) else { return };
        let (was_absent, is_absent) = (member.attendance == Attendance::Absent, attendance == Attendance::Absent);
        member.attendance = attendance;
        if was_absent == is_absent {
            return;
        }
        for chunk in member.want.iter() {
            if is_absent { self.priorities.remove(member.priority, chunk) } else { self.priorities.add(member.priority, chunk) }
        }
        if is_absent {
            for (chunk, statement) in &mut member.statements {
                let demand = &mut self.chunks[chunk.index()];
                if demand.counts(statement) {
                    demand.remove_need(member.straggler, &statement.need);
                }
                statement.sending = NOT_COUNTED;
            }
        }
    }

    /// What `receiver` lacks is summed apart, or no longer.
    pub(super) fn set_straggler(&mut self, receiver: ReceiverId, straggler: bool) {
        let Some(member) = self.members.get_mut(&receiver).filter(|member| member.straggler != straggler) else { return };
        for (chunk, statement) in &member.statements {
            let demand = &mut self.chunks[chunk.index()];
            if demand.counts(statement) {
                demand.remove_need(member.straggler, &statement.need);
                demand.add_need(straggler, &statement.need);
            }
        }
        member.straggler = straggler;
    }

    /// Chunks of which `receiver` is known to lack something.
    pub(super) fn lacking(&self, receiver: ReceiverId) -> Vec<ChunkId> {
        let Some(member) = self.members.get(&receiver) else { return Vec::new() };
        let counted = |(chunk, statement): &(&ChunkId, &Statement)| self.chunks[chunk.index()].counts(statement);
        member.statements.iter().filter(counted).map(|(&chunk, _)| chunk).collect()
    }

    /// `receiver` needs nothing more of the chunks of `range`. Those that it did not want are none of its business.
    pub(super) fn complete(&mut self, receiver: ReceiverId, range: ChunkRange) {
        let Some(member) = self.members.get_mut(&receiver) else { return };
        let counted = member.attendance != Attendance::Absent;
        let removed = member.want.remove_range(range);
        for chunk in &removed {
            if counted {
                self.priorities.remove(member.priority, *chunk);
            }
            let demand = &mut self.chunks[chunk.index()];
            if let Some(statement) = member.statements.remove(chunk).filter(|statement| demand.counts(statement)) {
                demand.remove_need(member.straggler, &statement.need);
            }
        }
        self.wanting -= usize::from(!removed.is_empty() && member.want.is_empty());
    }

    /// `receiver` lacks what `deficit` says, from now on instead of what it said before. It missed a part because it came `in_the_middle`. Whether
    /// that is of any interest: it wants the chunk.
    pub(super) fn lack(&mut self, receiver: ReceiverId, deficit: &Deficit, in_the_middle: bool) -> bool {
        let Some(member) = self.members.get_mut(&receiver).filter(|member| member.want.contains(deficit.chunk)) else { return false };
        let demand = &mut self.chunks[deficit.chunk.index()];
        let mut need = Need::checked(deficit, demand.source_symbols);
        // It waits for one turn. What it lacks after that was lost.
        let waited = member.statements.get(&deficit.chunk).is_some_and(|statement| statement.need.waits && statement.turn == demand.turn);
        need.waits = (waited || in_the_middle) && need.is_beginning();
        let turn = demand.turn;
        let statement =
            member.statements.entry(deficit.chunk).or_insert_with(|| Statement { need: need.clone(), sending: NOT_COUNTED, turn });
        if demand.counts(statement) {
            demand.remove_need(member.straggler, &statement.need);
            demand.add_need(member.straggler, &need);
        }
        (statement.need, statement.turn) = (need, turn);
        true
    }

    /// `receiver` has passed everything that was sent of `chunk`: what it said of it holds, and if it said nothing, it lacks all of it. Whether it
    /// lacks any.
    pub(super) fn count(&mut self, receiver: ReceiverId, chunk: ChunkId) -> bool {
        let Some(member) = self.members.get_mut(&receiver) else { return false };
        if member.attendance == Attendance::Absent || !member.want.contains(chunk) {
            return false;
        }
        let demand = &mut self.chunks[chunk.index()];
        let all = || Statement {
            need: Need { symbols: demand.source_symbols, missing: Vec::new(), waits: false },
            sending: NOT_COUNTED,
            turn: demand.turn,
        };
        let statement = member.statements.entry(chunk).or_insert_with(all);
        if !demand.counts(statement) {
            statement.sending = demand.sending;
            demand.add_need(member.straggler, &statement.need);
        }
        statement.need.symbols > 0
    }

    /// Symbols of `chunk` go out, because its turn has come or before that: what is known of it no longer holds.
    pub(super) fn send(&mut self, chunk: ChunkId, in_turn: bool) {
        let demand = &mut self.chunks[chunk.index()];
        demand.turn = demand.turn.wrapping_add(u32::from(in_turn));
        demand.sending = demand.sending.checked_add(1).unwrap_or(NOT_COUNTED + 1);
        demand.needs = [None, None];
    }

    /// What the receivers that have passed all that was sent of `chunk` lack of it; stragglers not among them.
    pub(super) fn needs(&self, chunk: ChunkId) -> Option<&ChunkNeeds> {
        self.chunks[chunk.index()].needs[0].as_deref()
    }

    /// The same of stragglers.
    pub(super) fn stragglers_needs(&self, chunk: ChunkId) -> Option<&ChunkNeeds> {
        self.chunks[chunk.index()].needs[1].as_deref()
    }

    /// Who of the first `most` that are found lacks how many symbols of `chunk`, and has passed all that was sent of it. Looks at everybody.
    pub(super) fn needy(&self, chunk: ChunkId, most: usize) -> Vec<(ReceiverId, u16)> {
        let demand = &self.chunks[chunk.index()];
        let lacks = |(&receiver, member): (&ReceiverId, &Member)| {
            let statement = member.statements.get(&chunk).filter(|statement| demand.counts(statement))?;
            (statement.need.symbols > 0).then_some((receiver, statement.need.symbols))
        };
        self.members.iter().filter_map(lacks).take(most).collect()
    }

    /// Whether somebody who is no straggler lacks some of `chunk` or may do so: it has not said.
    pub(super) fn is_lacking_beside_stragglers(&self, chunk: ChunkId) -> bool {
        let needs = &self.chunks[chunk.index()].needs;
        let reporters: u32 = needs.iter().flatten().map(|needs| needs.reporters()).sum();
        needs[0].as_ref().is_some_and(|needs| needs.needy() > 0) || reporters < self.demand(chunk)
    }

    /// Counts everything anew and compares, for tests.
    ///
    /// # Errors
    /// Says which sum is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut receivers: BTreeMap<i16, (usize, Vec<u32>)> = BTreeMap::new();
        let mut reporters = vec![[0; 2]; self.chunks.len()];
        for (id, member) in &self.members {
            if let Some(chunk) = member.statements.keys().find(|&&chunk| !member.want.contains(chunk)) {
                return Err(format!("receiver {} lacks chunk {chunk} that it does not want", id.0));
            }
            let (members, receivers) = receivers.entry(member.priority).or_insert_with(|| (0, vec![0; self.chunks.len()]));
            *members += 1;
            if member.attendance == Attendance::Absent {
                continue;
            }
            member.want.iter().for_each(|chunk| receivers[chunk.index()] += 1);
            let counted = |(chunk, statement): &(&ChunkId, &Statement)| self.chunks[chunk.index()].counts(statement);
            let straggler = usize::from(member.straggler);
            member.statements.iter().filter(counted).for_each(|(chunk, _)| reporters[chunk.index()][straggler] += 1);
        }
        let counted: Vec<_> =
            receivers.iter().rev().map(|(&priority, (members, receivers))| (priority, *members, &receivers[..])).collect();
        if !self.priorities.counts().eq(counted) {
            return Err("demand by priority is not what receivers want".into());
        }
        for (chunk, demand) in self.chunks.iter().enumerate() {
            if demand.needs.each_ref().map(|needs| needs.as_ref().map_or(0, |needs| needs.reporters())) != reporters[chunk] {
                return Err(format!("chunk {chunk}: needs are counted wrongly"));
            }
        }
        let wanting = self.members.values().filter(|member| !member.want.is_empty()).count();
        if wanting == self.wanting { Ok(()) } else { Err(format!("{} receivers want something, not {wanting}", self.wanting)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::SymbolIndex;

    const A: ReceiverId = ReceiverId(1);
    const B: ReceiverId = ReceiverId(2);
    const LISTENING: Attendance = Attendance::Listening { catch_up: None };

    fn range(first: u32, count: u32) -> ChunkRange {
        ChunkRange { first: ChunkId(first), count }
    }

    fn deficit(chunk: u32, symbols: u16) -> Deficit {
        Deficit { chunk: ChunkId(chunk), symbols, missing: (0..symbols.min(2)).map(SymbolIndex).collect() }
    }

    fn demands(roster: &Roster) -> Vec<u32> {
        roster.check().unwrap();
        (0..roster.chunks.len() as u32).map(|chunk| roster.demand(ChunkId(chunk))).collect()
    }

    fn roster() -> Roster {
        let mut roster = Roster::new(&[10; 5]);
        roster.join(A, &[range(0, 3)]);
        roster.join(B, &[range(1, 100)]);
        roster
    }

    #[test]
    fn demand_follows_who_wants_what() {
        let mut roster = roster();
        assert_eq!(demands(&roster), [1, 2, 2, 1, 1]);
        roster.complete(A, range(0, 2));
        assert_eq!(demands(&roster), [0, 1, 2, 1, 1]);
        roster.complete(A, range(0, u32::MAX));
        roster.complete(A, range(0, u32::MAX));
        assert_eq!((demands(&roster), roster.wanting()), (vec![0, 1, 1, 1, 1], 1));
        roster.leave(B);
        roster.leave(B);
        assert_eq!((demands(&roster), roster.wanting()), (vec![0; 5], 0));
    }

    fn largest(roster: &Roster, chunk: u32) -> (u16, bool) {
        roster.check().unwrap();
        roster.needs(ChunkId(chunk)).map_or((0, false), |needs| (needs.partial_max(), needs.any_whole()))
    }

    #[test]
    fn what_a_receiver_lacks_goes_and_comes_back_with_its_attendance() {
        let mut roster = roster();
        assert!(roster.lack(A, &deficit(1, 2), false) && roster.lack(B, &deficit(1, 5), false));
        assert!(!roster.lack(A, &deficit(4, 2), false), "it does not want that chunk");
        assert_eq!(largest(&roster, 1), (0, false), "more of it may be on its way");
        assert!(roster.count(A, ChunkId(1)) && roster.count(B, ChunkId(1)) && roster.count(B, ChunkId(1)));
        assert_eq!(largest(&roster, 1), (5, false));
        roster.set_attendance(B, Attendance::Absent);
        assert_eq!((largest(&roster, 1), demands(&roster)), ((2, false), vec![1, 1, 1, 0, 0]));
        assert!(roster.lack(B, &deficit(1, 7), false), "an absent receiver's word is kept for its return");
        assert!(!roster.count(B, ChunkId(1)));
        roster.complete(B, range(3, 1));
        assert_eq!(largest(&roster, 1), (2, false));
        roster.set_attendance(B, LISTENING);
        roster.count(B, ChunkId(1));
        assert_eq!((largest(&roster, 1), demands(&roster)), ((7, false), vec![1, 2, 2, 0, 1]));
        roster.complete(B, range(1, 1));
        assert_eq!(largest(&roster, 1), (2, false));
    }

    #[test]
    fn silence_of_a_receiver_that_has_passed_means_that_it_lacks_all() {
        let mut roster = roster();
        assert!(roster.count(A, ChunkId(2)));
        assert_eq!(largest(&roster, 2), (0, true));
        roster.lack(A, &deficit(2, 0), false);
        assert!(!roster.count(A, ChunkId(2)), "it waits to be verified");
        assert_eq!(largest(&roster, 2), (0, false));
        assert!(!roster.count(A, ChunkId(4)), "it does not want it");
    }

    #[test]
    fn what_was_said_before_more_was_sent_does_not_count_until_that_has_been_passed() {
        let mut roster = roster();
        roster.lack(A, &deficit(2, 2), false);
        roster.count(A, ChunkId(2));
        roster.send(ChunkId(2), false);
        assert_eq!(largest(&roster, 2), (0, false));
        roster.lack(B, &deficit(2, 7), false);
        assert_eq!(largest(&roster, 2), (0, false));
        roster.count(A, ChunkId(2));
        assert_eq!(largest(&roster, 2), (2, false), "unchanged deficits are not said again");
    }

    #[test]
    fn stragglers_are_summed_apart() {
        let mut roster = roster();
        for (receiver, symbols) in [(A, 2), (B, 7)] {
            roster.lack(receiver, &deficit(2, symbols), false);
            roster.count(receiver, ChunkId(2));
        }
        roster.set_straggler(B, true);
        assert_eq!(largest(&roster, 2), (2, false));
        assert_eq!(roster.stragglers_needs(ChunkId(2)).map(ChunkNeeds::partial_max), Some(7));
        assert_eq!(roster.lacking(B), [ChunkId(2)]);
        roster.set_straggler(B, false);
        assert_eq!(largest(&roster, 2), (7, false));
        assert!(roster.stragglers_needs(ChunkId(2)).is_none());
    }
}
