//! What receivers lack of chunks, as they said or left unsaid, and when that counts: not while more of the chunk is on its way.

use super::{Attendance, Member, NOT_COUNTED, Roster, Statement};
use crate::schedule::ReceiverId;
use crate::schedule::needs::{ChunkNeeds, Need};
use wire::ChunkId;
use wire::report::Deficit;

impl Roster {
    /// How many symbols `receiver` last said that it needs of `chunk`; `None` when it said nothing.
    pub(in crate::schedule) fn stated(&self, receiver: ReceiverId, chunk: ChunkId) -> Option<u16> {
        self.members.get(&receiver)?.statements.get(&chunk).map(|statement| statement.need.symbols)
    }

    /// Chunks of which `receiver` is known to lack something.
    pub(in crate::schedule) fn lacking(&self, receiver: ReceiverId) -> Vec<ChunkId> {
        let Some(member) = self.members.get(&receiver) else { return Vec::new() };
        let counted = |(chunk, statement): &(&ChunkId, &Statement)| self.chunks[chunk.index()].counts(statement);
        member.statements.iter().filter(counted).map(|(&chunk, _)| chunk).collect()
    }

    /// `receiver` lacks what `deficit` says, from now on instead of what it said before. It missed a part because it came `in_the_middle`. Whether
    /// that is of any interest: it wants the chunk.
    pub(in crate::schedule) fn lack(&mut self, receiver: ReceiverId, deficit: &Deficit, in_the_middle: bool) -> bool {
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
    pub(in crate::schedule) fn count(&mut self, receiver: ReceiverId, chunk: ChunkId) -> bool {
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
    pub(in crate::schedule) fn send(&mut self, chunk: ChunkId, in_turn: bool) {
        let demand = &mut self.chunks[chunk.index()];
        demand.turn = demand.turn.wrapping_add(u32::from(in_turn));
        demand.sending = demand.sending.checked_add(1).unwrap_or(NOT_COUNTED + 1);
        demand.needs = [None, None];
    }

    /// What the receivers that have passed all that was sent of `chunk` lack of it; stragglers not among them.
    pub(in crate::schedule) fn needs(&self, chunk: ChunkId) -> Option<&ChunkNeeds> {
        self.chunks[chunk.index()].needs[0].as_deref()
    }

    /// The same of stragglers.
    pub(in crate::schedule) fn stragglers_needs(&self, chunk: ChunkId) -> Option<&ChunkNeeds> {
        self.chunks[chunk.index()].needs[1].as_deref()
    }

    /// Who of the first `most` that are found lacks how many symbols of `chunk`, and has passed all that was sent of it. Looks at everybody.
    pub(in crate::schedule) fn needy(&self, chunk: ChunkId, most: usize) -> Vec<(ReceiverId, u16)> {
        let demand = &self.chunks[chunk.index()];
        let lacks = |(&receiver, member): (&ReceiverId, &Member)| {
            let statement = member.statements.get(&chunk).filter(|statement| demand.counts(statement))?;
            (statement.need.symbols > 0).then_some((receiver, statement.need.symbols))
        };
        self.members.iter().filter_map(lacks).take(most).collect()
    }

    /// Whether somebody who is no straggler lacks some of `chunk` or may do so: it has not said.
    pub(in crate::schedule) fn is_lacking_beside_stragglers(&self, chunk: ChunkId) -> bool {
        let needs = &self.chunks[chunk.index()].needs;
        let reporters: u32 = needs.iter().flatten().map(|needs| needs.reporters()).sum();
        needs[0].as_ref().is_some_and(|needs| needs.needy() > 0) || reporters < self.demand(chunk)
    }
}
