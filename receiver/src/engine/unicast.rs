//! What this receiver fetches over the control connection: which chunks are still to come, which call is under way, and when it is no use
//! to go on. Pure: [`super::round`] moves the bytes.

use std::collections::{BTreeMap, BTreeSet};

use wire::ChunkId;
use wire::report::ChunkRange;

/// Chunks in one call: 64 MiB at 256 KiB each, so that a call's round trip does not count, and what was completed by multicast
/// meanwhile is not fetched again for long.
const CHUNKS_PER_CALL: usize = 256;
/// Chunks in one call for the rest of chunks: the sender names no more at a time.
const REST_PER_CALL: usize = 64;
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

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Chunks that multicast does not bring.
    Whole,
    /// What is lacking of chunks that multicast has almost brought.
    Rest,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Unicast {
    /// To be fetched, and not asked for.
    queue: BTreeSet<ChunkId>,
    /// Of which the rest is to be fetched, and was not asked for: the sender has multicast almost all of them, and will do so again if that fails.
    rest: BTreeSet<ChunkId>,
    /// Of these it was asked for in the call under way, and did not come.
    asked_rest: BTreeSet<ChunkId>,
    /// Asked for in the call under way, and not here.
    asked: BTreeSet<ChunkId>,
    /// The number of the last call, and what it is for while it is under way.
    call: u32,
    calling: Option<Kind>,
    /// Something came of the call.
    brought: bool,
    /// Calls in a row that brought nothing.
    fruitless: u32,
    /// Fetched, and with the finisher.
    supplied: BTreeSet<ChunkId>,
    /// The same of those of which the rest was fetched.
    supplied_rest: BTreeSet<ChunkId>,
    /// How often a chunk was not what it should be.
    damaged: BTreeMap<ChunkId, u32>,
}

impl Unicast {
    /// These are to be fetched.
    pub(super) fn fetch(&mut self, chunks: impl IntoIterator<Item = ChunkId>) {
        self.queue.extend(chunks);
    }

    /// Of these the rest is to be fetched.
    pub(super) fn fetch_rest(&mut self, chunks: impl IntoIterator<Item = ChunkId>) {
        self.rest.extend(chunks);
    }

    /// The next call for the rest of chunks that are still wanted, when it is time for one: its number, and which chunks.
    pub(super) fn next_rest(&mut self, is_wanted: impl Fn(ChunkId) -> bool) -> Option<(u32, Vec<ChunkId>)> {
        if self.calling.is_some() || !self.queue.is_empty() || !self.asked.is_empty() {
            return None;
        }
        while self.asked_rest.len() < REST_PER_CALL
            && let Some(chunk) = self.rest.pop_first()
        {
            if is_wanted(chunk) {
                self.asked_rest.insert(chunk);
            }
        }
        if self.asked_rest.is_empty() {
            return None;
        }
        self.call = self.call.wrapping_add(1);
        (self.calling, self.brought) = (Some(Kind::Rest), false);
        Some((self.call, self.asked_rest.iter().copied().collect()))
    }

    /// The connection was lost and is there again: what was to be fetched will be said again.
    pub(super) fn reconnected(&mut self) {
        (self.calling, self.fruitless) = (None, 0);
        self.queue.clear();
        self.asked.clear();
        self.rest.clear();
        self.asked_rest.clear();
    }

    /// Whether something may come.
    pub(super) fn is_calling(&self) -> bool {
        self.calling.is_some()
    }

    /// The next call, when it is time for one: at most [`CHUNKS_PER_CALL`] chunks that are still wanted.
    pub(super) fn next_call(&mut self, is_wanted: impl Fn(ChunkId) -> bool) -> Option<(u32, Vec<ChunkRange>)> {
        if self.calling.is_some() {
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
        (self.calling, self.brought) = (Some(Kind::Whole), false);
        Some((self.call, ChunkRange::from_sorted(self.asked.iter().copied())))
    }

    /// A chunk, or some of it, came that is of no use any more.
    pub(super) fn passed_over(&mut self, chunk: ChunkId) {
        self.asked_rest.remove(&chunk);
        self.brought |= self.asked.remove(&chunk);
    }

    /// A chunk, or the rest of one, came, and the chunk is with the finisher.
    pub(super) fn supplied(&mut self, chunk: ChunkId) {
        let by = if self.asked_rest.contains(&chunk) { &mut self.supplied_rest } else { &mut self.supplied };
        by.insert(chunk);
        self.passed_over(chunk);
    }

    /// The chunk is what it should be. Whether it was fetched, or the rest of it.
    pub(super) fn verified(&mut self, chunk: ChunkId) -> bool {
        self.supplied.remove(&chunk) | self.supplied_rest.remove(&chunk)
    }

    /// The chunk is not what it should be, as was found when it came or by the finisher. When it was fetched it is fetched again.
    ///
    /// # Errors
    /// When that has been done often enough.
    pub(super) fn damaged(&mut self, chunk: ChunkId) -> Result<(), String> {
        if self.supplied_rest.remove(&chunk) || self.asked_rest.remove(&chunk) {
            // Multicast brings it.
            return Ok(());
        }
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
        let Some(kind) = self.calling.take_if(|_| call == self.call) else { return Ok(()) };
        if kind == Kind::Rest {
            // What did not come multicast brings.
            self.asked_rest.clear();
            return Ok(());
        }
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

    #[test]
    fn the_rest_of_chunks_is_asked_for_once_and_left_to_multicast_when_that_fails() {
        let mut unicast = Unicast::default();
        unicast.fetch_rest(chunks(3..6));
        unicast.fetch(chunks(9..10));
        assert_eq!(unicast.next_rest(|_| true), None, "what multicast does not bring goes first");
        let (call, _) = unicast.next_call(|_| true).unwrap();
        unicast.supplied(ChunkId(9));
        unicast.ended(call, Ok(())).unwrap();
        let (call, asked) = unicast.next_rest(|chunk| chunk.0 != 4).unwrap();
        assert_eq!(asked, [ChunkId(3), ChunkId(5)]);
        assert_eq!((unicast.next_rest(|_| true), unicast.next_call(|_| true)), (None, None), "one at a time");
        unicast.supplied(ChunkId(3));
        for _ in 0..5 {
            assert_eq!(unicast.ended(call, Err("disk".to_owned())), Ok(()), "no reason to give up");
        }
        assert!(unicast.verified(ChunkId(3)) && !unicast.verified(ChunkId(5)));
        unicast.fetch_rest(chunks(5..6));
        unicast.next_rest(|_| true).unwrap();
        unicast.supplied(ChunkId(5));
        assert_eq!(unicast.damaged(ChunkId(5)), Ok(()));
        assert!(!unicast.verified(ChunkId(5)));
        assert_eq!(unicast.next_call(|_| true), None);
    }
}
