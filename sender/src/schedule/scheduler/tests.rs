//! Each rule of the scheduler, one at a time; then arbitrary events in arbitrary order.

mod priorities;

use super::judge::{ABSENT_AFTER_US, REPORT_WAIT_MAX_US};
use super::*;
use crate::schedule::ChunkSymbols;
use proptest::prelude::*;
use wire::report::{Deficit, Report};
use wire::session::SessionParameters;
use wire::{Sequence, SessionId, SymbolIndex};

const STREAM: StreamId = StreamId(0);
const A: ReceiverId = ReceiverId(1);
const B: ReceiverId = ReceiverId(2);
const K: u16 = 100;
const R: u16 = 32;

/// A scheduler for chunks of K = 100, its clock, and what was sent last.
struct Run {
    scheduler: Scheduler,
    now: Micros,
    /// Sequence of the last sync.
    sync: Sequence,
}

impl Run {
    fn new(chunks: u32) -> Run {
        Run::with(chunks, 10_000_000_000)
    }

    fn with(chunks: u32, rate_cap_bits_per_second: u64) -> Run {
        let scheduler = Scheduler::new(ScheduleConfig {
            parameters: SessionParameters {
                session: SessionId(1),
                symbol_bytes: 1408,
                chunk_count: chunks,
                chunk_bytes_max: u32::from(K) * 1408,
            },
            source_symbols: vec![K; chunks as usize],
            streams: vec![STREAM],
            rate_cap_bits_per_second,
            rate_floor_bits_per_second: 1_000_000,
            frame_overhead_bytes: 42,
        });
        Run { scheduler, now: Micros(0), sync: Sequence(0) }
    }

    fn join(&mut self, receiver: ReceiverId, first: u32, count: u32) {
        let want = vec![ChunkRange { first: ChunkId(first), count }];
        self.scheduler.handle(self.now, Event::Joined { receiver, want });
        self.check();
    }

    fn leave(&mut self, receiver: ReceiverId) {
        self.scheduler.handle(self.now, Event::Left { receiver });
        self.check();
    }

    /// A report as of the last sync.
    fn report(&mut self, receiver: ReceiverId, completed: &[u32], deficits: &[(u32, u16, &[u16])]) {
        self.report_at(receiver, self.sync, completed, deficits);
    }

    fn report_at(&mut self, receiver: ReceiverId, sequence: Sequence, completed: &[u32], deficits: &[(u32, u16, &[u16])]) {
        let deficit = |&(chunk, symbols, missing): &(u32, u16, &[u16])| Deficit {
            chunk: ChunkId(chunk),
            symbols,
            missing: missing.iter().map(|&symbol| SymbolIndex(symbol)).collect(),
        };
        let report = Report {
            passed: vec![(STREAM, sequence)],
            completed: ChunkRange::from_sorted(completed.iter().map(|&chunk| ChunkId(chunk))),
            deficits: deficits.iter().map(deficit).collect(),
            ..Report::default()
        };
        self.scheduler.handle(self.now, Event::Reported { receiver, report });
        self.check();
    }

    fn next(&mut self) -> Next {
        let next = self.scheduler.next(self.now, STREAM);
        self.check();
        match &next {
            Next::Group(group) => self.sync = group.sync_sequence(),
            Next::Sync { sequence } => self.sync = *sequence,
            Next::Wait { .. } => {}
        }
        next
    }

    /// The chunks of the next group with their symbols; empty when it is not a group.
    fn group(&mut self) -> Vec<(u32, Vec<u16>)> {
        let Next::Group(group) = self.next() else { return Vec::new() };
        group.chunks.into_iter().map(|part| (part.chunk.0, part.symbols.into_iter().map(|symbol| symbol.0).collect())).collect()
    }

    /// Takes groups until there are none, and then the sync that follows.
    fn drain(&mut self) {
        while !self.group().is_empty() {}
        self.idle_sync();
    }

    /// Waits for the next sync of an idle stream.
    fn idle_sync(&mut self) {
        loop {
            match self.next() {
                Next::Wait { until: Some(until) } => self.now = until,
                Next::Sync { .. } => return,
                other => panic!("no sync but {other:?}"),
            }
        }
    }

    fn check(&self) {
        self.scheduler.check().unwrap();
    }
}

fn sources() -> Vec<u16> {
    (0..K).collect()
}

/// Both receivers want all chunks, have heard the first sync, and wait for what they lack of it.
fn two_listeners(chunks: u32) -> Run {
    let mut run = Run::new(chunks);
    run.join(A, 0, chunks);
    run.join(B, 0, chunks);
    run.drain();
    run
}

#[test]
fn nothing_is_sent_while_nobody_wants_anything() {
    let mut run = Run::new(3);
    assert_eq!(run.next(), Next::Wait { until: None });
    run.join(A, 0, 0);
    assert_eq!(run.next(), Next::Wait { until: None });
    run.join(B, 1, 1);
    assert_eq!(run.group(), [(1, sources())], "only what is wanted");
    run.leave(B);
    assert_eq!(run.next(), Next::Wait { until: None });
    assert_eq!(run.scheduler.remaining(B), None);
}

#[test]
fn new_chunks_go_in_ascending_order_sixteen_a_group_with_consecutive_sequence_numbers() {
    let mut run = Run::new(20);
    run.join(A, 0, 20);
    let Next::Group(first) = run.next() else { panic!("no group") };
    assert_eq!(first.chunks.iter().map(|part| part.chunk.0).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
    assert_eq!((first.first_sequence, first.packet_count()), (Sequence(0), 1_600));
    let Next::Group(second) = run.next() else { panic!("no group") };
    assert_eq!(second.first_sequence, Sequence(1_601), "the sync took one");
    assert_eq!(second.chunks.len(), 4);
    let totals = run.scheduler.totals();
    assert_eq!((totals.symbols_sent, totals.symbols_needed, totals.syncs_sent, totals.groups_sent), (2_000, 2_000, 2, 2));
}

#[test]
fn a_slow_stream_has_smaller_groups() {
    let mut run = Run::with(20, 50_000_000);
    run.join(A, 0, 20);
    // A chunk takes 24 ms.
    assert_eq!(run.group().len(), 4);
    assert_eq!(run.scheduler.rate_bits_per_second(STREAM), 50_000_000);
    assert_eq!(run.scheduler.rate_bits_per_second(StreamId(7)), 0);
}

#[test]
fn the_largest_deficit_is_served_once_all_listeners_have_reported() {
    let mut run = two_listeners(1);
    run.report(A, &[], &[(0, 9, &[])]);
    run.report(B, &[], &[(0, 9, &[])]);
    assert_eq!(run.group(), [(0, (K..K + 9).collect())]);
    run.report(A, &[], &[(0, 2, &[1, 2])]);
    assert_eq!(run.group(), [], "B has not reported");
    run.report(B, &[], &[(0, 3, &[7, 8, 9])]);
    assert_eq!(run.group(), [(0, (K + 9..K + 12).collect())]);
    assert_eq!(run.group(), []);
}

#[test]
fn one_receiver_in_need_gets_the_originals_that_it_lacks() {
    let mut run = two_listeners(1);
    run.report(A, &[0], &[]);
    run.report(B, &[], &[(0, 2, &[7, 9])]);
    assert_eq!(run.group(), [(0, vec![7, 9])]);
}

#[test]
fn a_receiver_with_repair_symbols_gets_no_more_originals_than_it_needs() {
    let mut run = two_listeners(1);
    run.report(A, &[0], &[]);
    run.report(B, &[], &[(0, 2, &[7, 9, 11])]);
    assert_eq!(run.group(), [(0, vec![7, 9])]);
}

#[test]
fn receivers_that_lack_the_same_get_it_as_it_is() {
    let mut run = two_listeners(1);
    run.report(A, &[], &[(0, 2, &[7, 9])]);
    run.report(B, &[], &[(0, 2, &[7, 9])]);
    assert_eq!(run.group(), [(0, vec![7, 9])]);
}

#[test]
fn repair_symbols_go_on_where_they_ended_and_originals_follow_when_all_are_used() {
    let mut run = two_listeners(1);
    run.report(A, &[], &[(0, 20, &[])]);
    run.report(B, &[], &[(0, 20, &[])]);
    assert_eq!(run.group(), [(0, (K..K + 20).collect())]);
    run.report(A, &[], &[]);
    run.report(B, &[], &[]);
    let expected: Vec<u16> = (K + 20..K + R).chain(0..8).collect();
    assert_eq!(run.group(), [(0, expected)], "unchanged deficits are not said again and hold all the same");
    run.report(A, &[], &[(0, 1, &[50])]);
    run.report(B, &[], &[(0, 2, &[60, 61])]);
    assert_eq!(run.group(), [(0, vec![50, 60, 61])], "no repair symbol is left that nobody has seen");
}

#[test]
fn who_says_nothing_of_a_chunk_that_it_has_passed_lacks_all_of_it() {
    let mut run = two_listeners(2);
    run.report(A, &[0, 1], &[]);
    run.report(B, &[1], &[]);
    assert_eq!(run.group(), [(0, sources())]);
}

#[test]
fn a_chunk_that_waits_for_its_verdict_needs_nothing_and_a_corrupt_one_everything() {
    let mut run = two_listeners(1);
    run.report(A, &[0], &[]);
    run.report(B, &[], &[(0, 0, &[])]);
    assert_eq!(run.group(), []);
    assert_eq!(run.scheduler.remaining(B), Some(1));
    run.report(B, &[], &[(0, K, &[])]);
    assert_eq!(run.group(), [(0, sources())]);
}

#[test]
fn a_receiver_that_does_not_report_delays_repair_for_a_while_and_is_then_left_out() {
    let mut run = two_listeners(1);
    run.report(A, &[], &[(0, 1, &[1])]);
    run.report(B, &[], &[(0, 1, &[2])]);
    assert_eq!(run.group(), [(0, vec![K])]);
    run.report(A, &[], &[]);
    assert_eq!(run.group(), [], "B may yet report");
    run.now = run.now.after(REPORT_WAIT_MAX_US);
    assert_eq!(run.group(), [(0, vec![1])], "what B said before no longer counts");
    assert_eq!(run.scheduler.demand_of(0), 2);
    run.now = run.now.after(2 * ABSENT_AFTER_US);
    run.next();
    assert_eq!(run.scheduler.demand_of(0), 0, "neither has answered the last group");
    run.report(B, &[], &[]);
    assert_eq!(run.scheduler.demand_of(0), 1);
    assert_eq!(run.group(), [(0, vec![2])], "its deficit is remembered");
}

impl Scheduler {
    fn demand_of(&self, chunk: u32) -> u32 {
        self.roster.demand(ChunkId(chunk))
    }
}

#[test]
fn a_receiver_that_never_reports_is_not_sent_to_for_long() {
    let mut run = Run::new(1_000);
    run.join(A, 0, 1_000);
    assert!(!run.group().is_empty());
    run.now = run.now.after(ABSENT_AFTER_US * 2);
    assert_eq!(run.group(), []);
    run.idle_sync();
    run.report(A, &[], &[]);
    assert!(!run.group().is_empty(), "it has answered a sync");
}

#[test]
fn time_before_the_first_packet_does_not_make_anybody_absent() {
    let mut run = Run::new(3);
    run.join(A, 0, 3);
    run.now = run.now.after(60_000_000);
    assert_eq!(run.group().len(), 3);
}

#[test]
fn a_late_joiner_gets_what_was_sent_before_once_it_has_said_that_it_listens() {
    let mut run = Run::new(2);
    run.join(A, 0, 2);
    run.drain();
    run.report(A, &[0, 1], &[]);
    run.join(B, 0, 2);
    assert_eq!(run.group(), []);
    run.idle_sync();
    run.report(B, &[], &[]);
    assert_eq!(run.group(), [(0, sources()), (1, sources())]);
    assert_eq!(run.scheduler.totals().symbols_needed, 200, "each chunk once");
}

#[test]
fn a_late_joiner_waits_its_turn_behind_chunks_that_are_still_new() {
    let mut run = Run::new(40);
    run.join(A, 0, 40);
    run.group();
    run.join(B, 0, 40);
    run.report(A, &[], &[]);
    run.report(B, &[], &[]);
    let order: Vec<u32> = (0..3).flat_map(|_| run.group()).map(|(chunk, _)| chunk).collect();
    assert_eq!(order[..24], (16..40).collect::<Vec<_>>());
}

#[test]
fn repairs_leave_half_of_the_stream_to_whole_chunks() {
    let mut run = Run::new(200);
    run.join(A, 0, 200);
    run.group();
    let (mut repaired, mut whole) = (0, 0);
    for _ in 0..60 {
        // A liar that lacks 90 symbols of every chunk that it was ever sent.
        let deficits: Vec<(u32, u16, &[u16])> = (0..200).map(|chunk| (chunk, 90, &[][..])).collect();
        run.report(A, &[], &deficits);
        for (_, symbols) in run.group() {
            *(if symbols == sources() { &mut whole } else { &mut repaired }) += symbols.len();
        }
    }
    assert_eq!(run.scheduler.totals().symbols_needed, 200 * u64::from(K), "all has been sent");
    assert!(repaired > 0 && whole == 184 * usize::from(K), "{repaired} {whole}");
}

#[test]
fn positions_that_were_never_sent_are_not_believed() {
    let mut run = two_listeners(1);
    run.report_at(A, Sequence(5_000), &[], &[(0, 1, &[1])]);
    run.report_at(B, Sequence(u32::MAX), &[], &[(0, 1, &[1])]);
    assert_eq!(run.group(), [], "nobody has passed the chunk");
    run.report(A, &[], &[]);
    run.report(B, &[], &[]);
    assert_eq!(run.group(), [(0, vec![1])]);
}

#[test]
fn reports_about_chunks_that_are_not_wanted_or_do_not_exist_change_nothing() {
    let mut run = Run::new(4);
    run.join(A, 0, 2);
    run.join(B, 2, 2);
    run.drain();
    run.report(A, &[2, 3, 4, 5], &[(2, 5, &[]), (9, 5, &[]), (u32::MAX, 5, &[])]);
    assert_eq!((run.scheduler.demand_of(2), run.scheduler.demand_of(3)), (1, 1));
    run.report(A, &[0, 1], &[]);
    run.report(A, &[], &[(0, 5, &[])]);
    assert_eq!(run.scheduler.remaining(A), Some(0));
    run.report(ReceiverId(99), &[0, 1, 2, 3], &[]);
    run.report(B, &[2, 3], &[]);
    assert_eq!(run.next(), Next::Wait { until: None });
}

#[test]
fn who_joins_again_starts_anew() {
    let mut run = two_listeners(2);
    run.report(A, &[0], &[(1, 3, &[])]);
    run.join(A, 0, 2);
    assert_eq!((run.scheduler.remaining(A), run.scheduler.demand_of(0)), (Some(2), 2));
    run.leave(A);
    run.leave(A);
    run.leave(B);
    assert_eq!(run.next(), Next::Wait { until: None });
}

#[test]
fn a_configuration_that_cannot_be_does_no_harm() {
    let mut run = Run::new(3);
    let mut config = run.scheduler.config.clone();
    (config.source_symbols, config.rate_cap_bits_per_second) = (vec![0, 5_000], 0);
    run.scheduler = Scheduler::new(config.clone());
    run.join(A, 0, u32::MAX);
    let symbols: Vec<usize> = run.group().into_iter().map(|(_, symbols)| symbols.len()).collect();
    assert_eq!(symbols, [1, 200, 1]);
    config.streams.clear();
    let mut scheduler = Scheduler::new(config);
    assert_eq!(scheduler.next(Micros(0), STREAM), Next::Wait { until: None });
}

#[derive(Clone, Debug)]
enum Step {
    Join(u64, u32, u32),
    Leave(u64),
    Prioritize(u64, i16),
    Report(u64, u32, Vec<(u32, u32)>, Vec<(u32, u16, Vec<u16>)>),
    Next,
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let receiver = 0u64..5;
    let ranges = proptest::collection::vec((0u32..45, prop_oneof![1u32..50, Just(u32::MAX)]), 0..3);
    let missing = proptest::collection::vec(0u16..140, 0..20);
    let deficits = proptest::collection::vec((0u32..45, prop_oneof![0u16..110, Just(u16::MAX)], missing), 0..8);
    // Mostly positions near what has been sent.
    let sequence = prop_oneof![0u32..20_000, any::<u32>()];
    prop_oneof![
        1 => (receiver.clone(), 0u32..45, 0u32..50).prop_map(|(receiver, first, count)| Step::Join(receiver, first, count)),
        1 => receiver.clone().prop_map(Step::Leave),
        1 => (receiver.clone(), -2i16..3).prop_map(|(receiver, priority)| Step::Prioritize(receiver, priority)),
        6 => (receiver, sequence, ranges, deficits).prop_map(|(receiver, at, done, lack)| Step::Report(receiver, at, done, lack)),
        6 => Just(Step::Next),
        2 => (0u64..2_000_000).prop_map(Step::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_is_reported_the_sums_stay_right_and_an_honest_receiver_finishes(steps in proptest::collection::vec(step(), 0..120)) {
        let mut run = Run::new(40);
        for step in steps {
            match step {
                Step::Join(receiver, first, count) => run.join(ReceiverId(receiver), first, count),
                Step::Leave(receiver) => run.leave(ReceiverId(receiver)),
                Step::Prioritize(receiver, priority) => {
                    run.scheduler.handle(run.now, Event::Prioritized { receiver: ReceiverId(receiver), priority });
                    run.check();
                }
                Step::Report(receiver, at, done, lack) => {
                    let report = Report {
                        passed: vec![(STREAM, Sequence(at)), (StreamId(9), Sequence(at))],
                        completed: done.into_iter().map(|(first, count)| ChunkRange { first: ChunkId(first), count }).collect(),
                        deficits: lack.into_iter().map(|(chunk, symbols, missing)| Deficit {
                            chunk: ChunkId(chunk), symbols, missing: missing.into_iter().map(SymbolIndex).collect(),
                        }).collect(),
                        packets_seen: u64::from(at), packets_sent: u64::from(at) / 2, loss_runs: u64::from(at) / 9, backlog_permille: at as u16, restore_bytes_per_second: u64::from(at), corrupt: vec![ChunkId(at % 7)],
                    };
                    run.scheduler.handle(run.now, Event::Reported { receiver: ReceiverId(receiver), report });
                    run.check();
                }
                Step::Next => { run.next(); }
                Step::Time(us) => run.now = run.now.after(us),
            }
        }
        // Whoever else is there and whatever they said: an honest newcomer gets every chunk whole within a few rounds.
        let honest = ReceiverId(100);
        run.join(honest, 0, 40);
        for _ in 0..400 {
            match run.next() {
                Next::Group(group) => {
                    let whole = |part: &&ChunkSymbols| part.symbols.len() == usize::from(K);
                    let done: Vec<u32> = group.chunks.iter().filter(whole).map(|part| part.chunk.0).collect();
                    let part_of: Vec<(u32, u16, &[u16])> =
                        group.chunks.iter().filter(|part| !whole(part)).map(|part| (part.chunk.0, K, &[][..])).collect();
                    run.report(honest, &done, &part_of);
                }
                Next::Sync { .. } => run.report(honest, &[], &[]),
                Next::Wait { until } => run.now = until.unwrap_or(run.now.after(20_000)).max(run.now.after(1)),
            }
        }
        prop_assert_eq!(run.scheduler.remaining(honest), Some(0));
    }
}
