//! The receivers, what each of them wants and lacks, and the demand for each chunk that follows from it.
//!
//! Invariant: a chunk's demand is the number of receivers that want it and are not absent, and its needs are the sum of what those
//! receivers said that they lack. Everything that changes a receiver changes these sums in step, so that nothing ever has to be counted anew.

use super::ReceiverId;
use super::chunk_set::ChunkSet;
use super::needs::{ChunkNeeds, Need};
use std::collections::{BTreeMap, BTreeSet};
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

#[derive(Debug)]
struct Member {
    want: ChunkSet,
    /// What it lacks of chunks that it wants, where it said so. Never of a chunk outside `want`.
    needs: BTreeMap<ChunkId, Need>,
    attendance: Attendance,
}

#[derive(Debug)]
struct Demand {
    source_symbols: u16,
    receivers: u32,
    /// Only while somebody said that it lacks something: most chunks of a pack have none at any time.
    needs: Option<Box<ChunkNeeds>>,
}

impl Demand {
    fn add_need(&mut self, need: &Need) {
        self.needs.get_or_insert_with(|| Box::new(ChunkNeeds::new(self.source_symbols))).add(need);
    }

    fn remove_need(&mut self, need: &Need) {
        if let Some(needs) = &mut self.needs {
            needs.remove(need);
        }
        self.needs.take_if(|needs| needs.reporters() == 0);
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Roster {
    members: BTreeMap<ReceiverId, Member>,
    chunks: Vec<Demand>,
    greeting: BTreeSet<ReceiverId>,
    /// Members that want at least one chunk, absent ones included.
    wanting: usize,
}

/// What is known of the need for one chunk.
pub(super) struct Known<'a> {
    /// What receivers said.
    pub(super) needs: Option<&'a ChunkNeeds>,
    /// Somebody wants the chunk, has passed it and said nothing of it: it lacks all of it.
    pub(super) silent: bool,
}

impl Roster {
    pub(super) fn new(source_symbols: &[u16]) -> Roster {
        let demand = |&source_symbols: &u16| Demand { source_symbols, receivers: 0, needs: None };
        Roster { members: BTreeMap::new(), chunks: source_symbols.iter().map(demand).collect(), greeting: BTreeSet::new(), wanting: 0 }
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
        self.chunks[chunk.index()].receivers
    }

    /// What `receiver` wants, or `None` when it is not listed.
    pub(super) fn want(&self, receiver: ReceiverId) -> Option<&ChunkSet> {
        self.members.get(&receiver).map(|member| &member.want)
    }

    pub(super) fn attendance(&self, receiver: ReceiverId) -> Option<&Attendance> {
        self.members.get(&receiver).map(|member| &member.attendance)
    }

    /// Who has joined and not reported yet.
    pub(super) fn greeting(&self) -> impl Iterator<Item = ReceiverId> + '_ {
        self.greeting.iter().copied()
    }

    /// Lists `receiver`, which must not be listed.
    pub(super) fn join(&mut self, receiver: ReceiverId, ranges: &[ChunkRange]) {
        let mut want = ChunkSet::new(self.chunks.len() as u32);
        for &range in ranges {
            want.insert_range(range);
        }
        for chunk in want.iter() {
            self.chunks[chunk.index()].receivers += 1;
        }
        self.wanting += usize::from(!want.is_empty());
        self.greeting.insert(receiver);
        self.members.insert(receiver, Member { want, needs: BTreeMap::new(), attendance: Attendance::Greeting });
    }

    /// Takes `receiver` off the list with all its demand.
    pub(super) fn leave(&mut self, receiver: ReceiverId) {
        self.set_attendance(receiver, Attendance::Absent);
        if let Some(member) = self.members.remove(&receiver) {
            self.wanting -= usize::from(!member.want.is_empty());
        }
    }

    /// Changes what `receiver`'s presence is worth; its demand is taken away or put back when it begins or ends to be absent.
    pub(super) fn set_attendance(&mut self, receiver: ReceiverId, attendance: Attendance) {
        let Some(member) = self.members.get_mut(&receiver) else { return };
        let (was_absent, is_absent) = (member.attendance == Attendance::Absent, attendance == Attendance::Absent);
        if attendance == Attendance::Greeting {
            self.greeting.insert(receiver);
        } else {
            self.greeting.remove(&receiver);
        }
        member.attendance = attendance;
        if was_absent == is_absent {
            return;
        }
        for chunk in member.want.iter() {
            let receivers = &mut self.chunks[chunk.index()].receivers;
            *receivers = if is_absent { *receivers - 1 } else { *receivers + 1 };
        }
        for (chunk, need) in &member.needs {
            let demand = &mut self.chunks[chunk.index()];
            if is_absent { demand.remove_need(need) } else { demand.add_need(need) }
        }
    }

    /// `receiver` needs nothing more of the chunks of `range`. Those that it did not want are none of its business.
    pub(super) fn complete(&mut self, receiver: ReceiverId, range: ChunkRange) {
        let Some(member) = self.members.get_mut(&receiver) else { return };
        let counted = member.attendance != Attendance::Absent;
        let removed = member.want.remove_range(range);
        for chunk in &removed {
            let demand = &mut self.chunks[chunk.index()];
            let need = member.needs.remove(chunk);
            if counted {
                demand.receivers -= 1;
                if let Some(need) = need {
                    demand.remove_need(&need);
                }
            }
        }
        self.wanting -= usize::from(!removed.is_empty() && member.want.is_empty());
    }

    /// `receiver` lacks what `deficit` says, from now on instead of what it said before. Whether that is of any interest: it wants the chunk.
    pub(super) fn lack(&mut self, receiver: ReceiverId, deficit: &Deficit) -> bool {
        let Some(member) = self.members.get_mut(&receiver).filter(|member| member.want.contains(deficit.chunk)) else { return false };
        let demand = &mut self.chunks[deficit.chunk.index()];
        let need = Need::checked(deficit, demand.source_symbols);
        let counted = member.attendance != Attendance::Absent;
        if counted {
            demand.add_need(&need);
        }
        if let Some(before) = member.needs.insert(deficit.chunk, need).filter(|_| counted) {
            demand.remove_need(&before);
        }
        true
    }

    /// Looks at what is known of `chunk` when nothing is known of the receivers `unknown`: what they said before no longer holds.
    pub(super) fn known<T>(&mut self, chunk: ChunkId, unknown: impl Iterator<Item = ReceiverId>, look: impl FnOnce(Known<'_>) -> T) -> T {
        let demand = &mut self.chunks[chunk.index()];
        let mut known_receivers = demand.receivers;
        let mut set_aside = Vec::new();
        for receiver in unknown {
            let Some(member) = self.members.get(&receiver).filter(|member| member.want.contains(chunk)) else { continue };
            known_receivers -= 1;
            if let Some(need) = member.needs.get(&chunk) {
                demand.remove_need(need);
                set_aside.push(need);
            }
        }
        let reporters = demand.needs.as_ref().map_or(0, |needs| needs.reporters());
        let outcome = look(Known { needs: demand.needs.as_deref(), silent: known_receivers > reporters });
        for need in set_aside {
            demand.add_need(need);
        }
        outcome
    }

    /// Counts everything anew and compares, for tests.
    ///
    /// # Errors
    /// Says which sum is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut receivers = vec![0; self.chunks.len()];
        let mut reporters = vec![0; self.chunks.len()];
        for (id, member) in &self.members {
            if self.greeting.contains(id) != (member.attendance == Attendance::Greeting) {
                return Err(format!("receiver {}: the greeting set is wrong", id.0));
            }
            if let Some(chunk) = member.needs.keys().find(|&&chunk| !member.want.contains(chunk)) {
                return Err(format!("receiver {} lacks chunk {chunk} that it does not want", id.0));
            }
            if member.attendance == Attendance::Absent {
                continue;
            }
            member.want.iter().for_each(|chunk| receivers[chunk.index()] += 1);
            member.needs.keys().for_each(|chunk| reporters[chunk.index()] += 1);
        }
        for (chunk, demand) in self.chunks.iter().enumerate() {
            if demand.receivers != receivers[chunk] {
                return Err(format!("chunk {chunk}: demand {} where {} receivers want it", demand.receivers, receivers[chunk]));
            }
            if demand.needs.as_ref().map_or(0, |needs| needs.reporters()) != reporters[chunk] {
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
        roster.chunks.iter().map(|demand| demand.receivers).collect()
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

    #[test]
    fn what_a_receiver_lacks_goes_and_comes_back_with_its_attendance() {
        let mut roster = roster();
        assert!(roster.lack(A, &deficit(1, 2)) && roster.lack(B, &deficit(1, 5)));
        assert!(!roster.lack(A, &deficit(4, 2)), "it does not want that chunk");
        let partial_max = |roster: &mut Roster| {
            roster.check().unwrap();
            roster.known(ChunkId(1), std::iter::empty(), |known| known.needs.map_or(0, ChunkNeeds::partial_max))
        };
        assert_eq!(partial_max(&mut roster), 5);
        roster.set_attendance(B, Attendance::Absent);
        assert_eq!((partial_max(&mut roster), demands(&roster)), (2, vec![1, 1, 1, 0, 0]));
        assert!(roster.lack(B, &deficit(1, 7)), "an absent receiver's word is kept for its return");
        roster.complete(B, range(3, 1));
        assert_eq!(partial_max(&mut roster), 2);
        roster.set_attendance(B, LISTENING);
        assert_eq!((partial_max(&mut roster), demands(&roster)), (7, vec![1, 2, 2, 0, 1]));
        roster.complete(B, range(1, 1));
        assert_eq!(partial_max(&mut roster), 2);
    }

    #[test]
    fn silence_of_a_receiver_that_has_passed_means_that_it_lacks_all() {
        let mut roster = roster();
        let silent = |roster: &mut Roster, unknown: &[ReceiverId]| {
            let silent = roster.known(ChunkId(2), unknown.iter().copied(), |known| known.silent);
            roster.check().unwrap();
            silent
        };
        assert!(silent(&mut roster, &[]));
        assert!(!silent(&mut roster, &[A, B]));
        roster.lack(A, &deficit(2, 0));
        assert!(silent(&mut roster, &[]) && !silent(&mut roster, &[B]));
        assert!(silent(&mut roster, &[A]));
        roster.lack(B, &deficit(2, 4));
        assert!(!silent(&mut roster, &[]));
    }

    #[test]
    fn what_an_unknown_receiver_said_does_not_count() {
        let mut roster = roster();
        roster.lack(A, &deficit(2, 2));
        roster.lack(B, &deficit(2, 7));
        let partial_max = roster.known(ChunkId(2), [B].into_iter(), |known| known.needs.map_or(0, ChunkNeeds::partial_max));
        assert_eq!(partial_max, 2);
        roster.check().unwrap();
    }
}
