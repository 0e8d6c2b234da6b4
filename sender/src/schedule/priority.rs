//! The priorities of receivers, and how many receivers of each priority want a chunk: a chunk's priority is the highest of those.

use wire::ChunkId;

/// Priorities that are told apart: a counter per chunk for each. A receiver with another one, while so many are in use, is served with the nearest.
pub(super) const PRIORITIES_MAX: usize = 16;

#[derive(Debug)]
struct Level {
    priority: i16,
    /// Listed receivers that are served with this priority.
    members: usize,
    /// How many of them want each chunk and are not absent.
    receivers: Vec<u32>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Priorities {
    chunk_count: usize,
    /// Descending, those in use.
    levels: Vec<Level>,
}

impl Priorities {
    /// Of `chunk_count` chunks, which nobody wants.
    pub(super) fn new(chunk_count: usize) -> Priorities {
        Priorities { chunk_count, levels: Vec::new() }
    }

    /// A receiver asks for `priority`. The one that it gets: the nearest, the higher of two, when all that can be told apart are in use.
    pub(super) fn enter(&mut self, priority: i16) -> i16 {
        let known = self.levels.iter().any(|level| level.priority == priority);
        if !known && self.levels.len() < PRIORITIES_MAX {
            let index = self.levels.partition_point(|level| level.priority > priority);
            self.levels.insert(index, Level { priority, members: 0, receivers: vec![0; self.chunk_count] });
        }
        match self.levels.iter_mut().min_by_key(|level| level.priority.abs_diff(priority)) {
            Some(level) => {
                level.members += 1;
                level.priority
            }
            None => priority,
        }
    }

    /// A receiver that got `priority` has it no longer, and wants nothing with it.
    pub(super) fn exit(&mut self, priority: i16) {
        if let Some(index) = self.index_of(priority) {
            self.levels[index].members -= 1;
            if self.levels[index].members == 0 {
                self.levels.remove(index);
            }
        }
    }

    /// One more receiver of `priority` wants `chunk`.
    pub(super) fn add(&mut self, priority: i16, chunk: ChunkId) {
        if let Some(index) = self.index_of(priority) {
            self.levels[index].receivers[chunk.index()] += 1;
        }
    }

    /// One less does.
    pub(super) fn remove(&mut self, priority: i16, chunk: ChunkId) {
        if let Some(index) = self.index_of(priority) {
            self.levels[index].receivers[chunk.index()] -= 1;
        }
    }

    /// How many receivers want `chunk`.
    pub(super) fn demand(&self, chunk: ChunkId) -> u32 {
        self.levels.iter().map(|level| level.receivers[chunk.index()]).sum()
    }

    /// The highest priority of those who want `chunk`; `None` when nobody does.
    pub(super) fn of_chunk(&self, chunk: ChunkId) -> Option<i16> {
        self.levels.iter().find(|level| level.receivers[chunk.index()] > 0).map(|level| level.priority)
    }

    /// The highest in use.
    pub(super) fn highest(&self) -> Option<i16> {
        self.levels.first().map(|level| level.priority)
    }

    /// Whether listed receivers have different ones.
    pub(super) fn are_several(&self) -> bool {
        self.levels.len() > 1
    }

    /// Whether a listed receiver has `priority`.
    pub(super) fn is_in_use(&self, priority: i16) -> bool {
        self.index_of(priority).is_some()
    }

    /// How many receivers of `priority` want each chunk, and how many there are; for tests.
    pub(super) fn counts(&self) -> impl Iterator<Item = (i16, usize, &[u32])> {
        self.levels.iter().map(|level| (level.priority, level.members, &level.receivers[..]))
    }

    fn index_of(&self, priority: i16) -> Option<usize> {
        self.levels.iter().position(|level| level.priority == priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_the_highest_priority_of_those_who_want_it() {
        let mut priorities = Priorities::new(2);
        for priority in [0, 5, -3] {
            assert_eq!(priorities.enter(priority), priority);
            priorities.add(priority, ChunkId(0));
        }
        assert_eq!((priorities.of_chunk(ChunkId(0)), priorities.demand(ChunkId(0))), (Some(5), 3));
        priorities.remove(5, ChunkId(0));
        assert_eq!((priorities.of_chunk(ChunkId(0)), priorities.of_chunk(ChunkId(1))), (Some(0), None));
        priorities.exit(5);
        assert_eq!((priorities.highest(), priorities.is_in_use(5)), (Some(0), false));
    }

    #[test]
    fn more_priorities_than_can_be_told_apart_share_the_nearest() {
        let mut priorities = Priorities::new(1);
        for priority in 0..PRIORITIES_MAX as i16 {
            assert_eq!(priorities.enter(priority * 10), priority * 10);
        }
        assert_eq!([-7, 14, 15, 16, i16::MAX].map(|priority| priorities.enter(priority)), [0, 10, 20, 20, 150]);
        priorities.exit(10);
        priorities.exit(10);
        assert_eq!(priorities.enter(14), 14, "one is free again");
    }
}
