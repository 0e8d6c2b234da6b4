//! The receivers, what each of them wants and lacks, and the demand for each chunk that follows from it.
//!
//! Invariant: a chunk's demand is the number of receivers that want it and are not absent (counted in `priority`), and its needs are the sum of what those
//! receivers said that they lack. Everything that changes a receiver changes these sums in step, so that nothing ever has to be counted anew.

mod lacks;

use super::ReceiverId;
use super::chunk_set::ChunkSet;
use super::needs::{ChunkNeeds, Need};
use super::priority::Priorities;
use std::collections::BTreeMap;
use wire::ChunkId;
use wire::report::ChunkRange;

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
mod tests;
