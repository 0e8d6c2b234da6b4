//! What this receiver fetches over the control connection: which chunks are still to come, which call is under way, and when it is no use
//! to go on. Pure: [`super::round`] moves the bytes.

use std::collections::{BTreeMap, BTreeSet};

use wire::ChunkId;
use wire::report::ChunkRange;

/// Chunks in one call: 64 MiB at 256 KiB each, so that a call's round trip does not count, and what was completed by multicast
/// meanwhile is not fetched again for long.
const CHUNKS_PER_CALL: usize = 256;
/// How often a chunk is fetched, or a call made that brings nothing, before that is given up.
const ATTEMPTS_MAX: u32 = 3;

/// When a receiver takes everything by unicast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum UnicastMode {
    /// Never; only single chunks that the sender says will not come by multicast.
    Never,
    /// When nothing comes from the streams although the sender says that they carry something for this machine.
    #[default]
    Auto,
    /// From the start: multicast is not even tried.
    Always,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Unicast {
    /// To be fetched, and not asked for.
    queue: BTreeSet<ChunkId>,
    /// Asked for in the call under way, and not here.
    asked: BTreeSet<ChunkId>,
    /// The number of the last call, and whether it is under way.
    call: u32,
    calling: bool,
    /// Something came of the call.
    brought: bool,
    /// Calls in a row that brought nothing.
    fruitless: u32,
    /// Fetched, and with the finisher.
    supplied: BTreeSet<ChunkId>,
    /// How often a chunk was not what it should be.
    damaged: BTreeMap<ChunkId, u32>,
}

impl Unicast {
    /// These are to be fetched.
    pub(super) fn fetch(&mut self, chunks: impl IntoIterator<Item = ChunkId>) {
        self.queue.extend(chunks);
    }

    /// The connection was lost and is there again: what was to be fetched will be said again.
    pub(super) fn reconnected(&mut self) {
        (self.calling, self.fruitless) = (false, 0);
        self.queue.clear();
        self.asked.clear();
    }

    /// Whether something may come.
    pub(super) fn is_calling(&self) -> bool {
        self.calling
    }

    /// The next call, when it is time for one: at most [`CHUNKS_PER_CALL`] chunks that are still wanted.
    pub(super) fn next_call(&mut self, is_wanted: impl Fn(ChunkId) -> bool) -> Option<(u32, Vec<ChunkRange>)> {
        if self.calling {
            return None;
        }
        while self.asked.len() < CHUNKS_PER_CALL
            && let Some(chunk) = self.queue.pop_first()
        {
            if is_wanted(chunk) {
                self.asked.insert(chunk);
            }
        }
        if self.asked.is_empty() {
            return None;
        }
        self.call = self.call.wrapping_add(1);
        (self.calling, self.brought) = (true, false);
        Some((self.call, ChunkRange::from_sorted(self.asked.iter().copied())))
    }

    /// A chunk came that is of no use any more.
    pub(super) fn passed_over(&mut self, chunk: ChunkId) {
        self.brought |= self.asked.remove(&chunk);
    }

    /// A chunk came and is with the finisher.
    pub(super) fn supplied(&mut self, chunk: ChunkId) {
        self.passed_over(chunk);
        self.supplied.insert(chunk);
    }

    /// The chunk is what it should be. Whether it was fetched.
    pub(super) fn verified(&mut self, chunk: ChunkId) -> bool {
        self.supplied.remove(&chunk)
    }

    /// The chunk is not what it should be, as was found when it came or by the finisher. When it was fetched it is fetched again.
    ///
    /// # Errors
    /// When that has been done often enough.
    pub(super) fn damaged(&mut self, chunk: ChunkId) -> Result<(), String> {
        if !self.asked.remove(&chunk) && !self.supplied.remove(&chunk) {
            return Ok(());
        }
        let times = self.damaged.entry(chunk).or_default();
        *times += 1;
        if *times >= ATTEMPTS_MAX {
            return Err(format!("chunk {chunk} came damaged {times} times: check the pack there with discus verify"));
        }
        self.queue.insert(chunk);
        Ok(())
    }

    /// The call of that number has ended.
    ///
    /// # Errors
    /// When calls bring nothing again and again; says why.
    pub(super) fn ended(&mut self, call: u32, outcome: Result<(), String>) -> Result<(), String> {
        if !self.calling || call != self.call {
            return Ok(());
        }
        self.calling = false;
        let why = match outcome {
            Err(why) => why,
            Ok(()) if self.asked.is_empty() => String::new(),
            Ok(()) => "it sent other chunks than it was asked for".to_owned(),
        };
        // What did not come is asked for again.
        self.queue.append(&mut self.asked);
        self.fruitless = if self.brought || why.is_empty() { 0 } else { self.fruitless + 1 };
        if self.fruitless >= ATTEMPTS_MAX { Err(why) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(ids: std::ops::Range<u32>) -> impl Iterator<Item = ChunkId> {
        ids.map(ChunkId)
    }

    fn range(first: u32, count: u32) -> ChunkRange {
        ChunkRange { first: ChunkId(first), count }
    }

    #[test]
    fn chunks_are_asked_for_in_calls_of_bounded_size_while_they_are_wanted() {
        let mut unicast = Unicast::default();
        unicast.fetch(chunks(0..300));
        let (call, asked) = unicast.next_call(|chunk| chunk.0 != 5).unwrap();
        assert_eq!(asked, [range(0, 5), range(6, 251)]);
        assert_eq!(unicast.next_call(|_| true), None, "one at a time");
        asked.iter().flat_map(|run| run.chunks()).for_each(|chunk| unicast.supplied(chunk));
        assert_eq!(unicast.ended(call, Ok(())), Ok(()));
        assert_eq!(unicast.next_call(|_| true).unwrap().1, [range(257, 43)]);
        unicast.reconnected();
        assert_eq!(unicast.next_call(|_| true), None, "the sender will say it again");
    }

    #[test]
    fn a_damaged_chunk_is_fetched_three_times_and_then_given_up() {
        let mut unicast = Unicast::default();
        unicast.fetch(chunks(7..8));
        for _ in 0..2 {
            let (call, _) = unicast.next_call(|_| true).unwrap();
            unicast.supplied(ChunkId(7));
            unicast.ended(call, Ok(())).unwrap();
            assert_eq!(unicast.damaged(ChunkId(7)), Ok(()));
        }
        assert_eq!(unicast.damaged(ChunkId(7)), Ok(()), "one that came by multicast");
        unicast.next_call(|_| true).unwrap();
        assert!(unicast.damaged(ChunkId(7)).unwrap_err().contains("chunk 7 came damaged 3 times"));
    }

    #[test]
    fn calls_that_bring_nothing_end_in_an_error_and_those_that_bring_something_do_not() {
        let mut unicast = Unicast::default();
        unicast.fetch(chunks(0..10));
        for chunk in 0..5 {
            let (call, _) = unicast.next_call(|_| true).unwrap();
            unicast.supplied(ChunkId(chunk));
            assert_eq!(unicast.ended(call, Err("disk".to_owned())), Ok(()));
        }
        let outcomes: Vec<_> = (0..3)
            .map(|_| {
                let (call, asked) = unicast.next_call(|_| true).unwrap();
                assert_eq!(asked, [range(5, 5)]);
                assert_eq!(unicast.ended(call.wrapping_sub(1), Err("an earlier one".to_owned())), Ok(()));
                unicast.ended(call, Err("disk".to_owned()))
            })
            .collect();
        assert_eq!(outcomes, [Ok(()), Ok(()), Err("disk".to_owned())]);
    }

    #[test]
    fn a_call_that_ends_without_what_was_asked_for_is_made_again() {
        let mut unicast = Unicast::default();
        unicast.fetch(chunks(0..2));
        let (call, _) = unicast.next_call(|_| true).unwrap();
        unicast.passed_over(ChunkId(9));
        assert_eq!(unicast.ended(call, Ok(())), Ok(()));
        assert_eq!(unicast.next_call(|_| true).unwrap().1, [range(0, 2)]);
    }
}
