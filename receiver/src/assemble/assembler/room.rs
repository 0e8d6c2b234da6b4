//! Which chunks are in assembly: entries for them, and which are given up when memory is short.

use super::{Assembler, State};
use crate::assemble::entry::Entry;
use crate::assemble::placement::EntryIndex;
use wire::ChunkId;

/// The sender waits for reports 500 ms at most, or with many receivers four report intervals, and then repairs. What has waited for twice that is kept for
/// something of which nobody knows when it comes: a higher priority, or those who lose less, go first …
pub(super) const REPAIR_US: u64 = 1_000_000;
/// … in report intervals.
const REPAIR_INTERVALS: u64 = 8;

impl Assembler {
    /// The shell has no buffer for an entry that has just been opened: its chunk is given up and stays wanted.
    pub fn refuse(&mut self, entry: EntryIndex) {
        if let Some(assembly) = self.entries.get_mut(entry.0).and_then(Option::take) {
            self.free.push(entry.0);
            self.no_victim = false;
            self.give_up(assembly.chunk);
        }
    }

    /// The shell needs a buffer for something that is worth more: the least complete chunk in assembly is given up and stays wanted.
    pub fn make_room(&mut self) -> Option<EntryIndex> {
        let progress = |(slot, entry): (usize, &Option<Entry>)| entry.as_ref().map(|assembly| (assembly.have(), slot));
        let (_, slot) = self.entries.iter().enumerate().filter_map(progress).min()?;
        self.refuse(EntryIndex(slot));
        Some(EntryIndex(slot))
    }

    /// An entry for a wanted chunk, and the chunk that had to go for it.
    pub(super) fn open(&mut self, index: usize) -> Option<(EntryIndex, Option<ChunkId>)> {
        let (slot, evicted) = match self.free.pop() {
            Some(slot) => (slot, None),
            None if self.entries.len() < self.entries_max => {
                self.entries.push(None);
                (self.entries.len() - 1, None)
            }
            None => {
                let slot = self.victim()?;
                let evicted = self.entries[slot].take().map(|assembly| {
                    self.give_up(assembly.chunk);
                    self.chunks[assembly.chunk].id
                });
                (slot, evicted)
            }
        };
        self.entries[slot] = Some(Entry::new(index, self.chunks[index].source_symbols));
        self.chunks[index].state = State::Open(EntryIndex(slot));
        Some((EntryIndex(slot), evicted))
    }

    /// The entry to give up: the least complete one whose group has passed, if it has less than half of its chunk, or has waited for long. What has more will
    /// else soon be repaired, and what is arriving now is worth as much as the newcomer.
    fn victim(&mut self) -> Option<usize> {
        if self.no_victim {
            return None;
        }
        let patience_us = REPAIR_US.max(REPAIR_INTERVALS * self.report_interval_us);
        let weak = |(slot, entry): (usize, &Option<Entry>)| {
            let assembly = entry.as_ref()?;
            let past = assembly.last_seen.is_none_or(|seen| self.positions.is_past(seen));
            let waits_us = self.asked_at.since(assembly.touched_at);
            (past && (assembly.have() < assembly.deficit() || waits_us > patience_us)).then_some((assembly.have(), slot))
        };
        let victim = self.entries.iter().enumerate().filter_map(weak).min();
        self.no_victim = victim.is_none();
        victim.map(|(_, slot)| slot)
    }

    /// The chunk has nothing any more and stays wanted.
    pub(super) fn give_up(&mut self, index: usize) {
        self.chunks[index].state = State::Wanted;
        self.unsettle(index);
    }
}
