//! Each rule of the assembler, one at a time.

use super::room::REPAIR_US;
use super::*;
use wire::report::Report;
use wire::{Micros, Sequence, SessionId, StreamId};

const K: u16 = 20;
const STORED_BYTES: u32 = 20 * 64;
const STREAM: StreamId = StreamId(0);

fn parameters() -> SessionParameters {
    SessionParameters { session: SessionId(1), symbol_bytes: 64, chunk_count: 10, chunk_bytes_max: STORED_BYTES }
}

/// Chunks 2 to 5 belong to the image; 2, 3 and 4 are wanted.
fn assembler(entries: usize) -> Assembler {
    let chunks = (2..=5).map(|id| (ChunkId(id), STORED_BYTES)).collect();
    let wanted = vec![ChunkRange { first: ChunkId(2), count: 3 }];
    Assembler::new(AssembleConfig { parameters: parameters(), chunks, wanted, entries })
}

fn symbol_at(chunk: u32, symbol: u16, sequence: u32) -> Header {
    Header {
        kind: Kind::Symbol,
        session: SessionId(1),
        chunk: ChunkId(chunk),
        symbol: SymbolIndex(symbol),
        source_symbols: K,
        sequence: Sequence(sequence),
        stream: STREAM,
    }
}

fn give(assembler: &mut Assembler, chunk: u32, symbols: impl IntoIterator<Item = u16>, sequence: u32) -> Vec<Placement> {
    symbols.into_iter().map(|symbol| assembler.on_symbol(&symbol_at(chunk, symbol, sequence), 64)).collect()
}

fn sync(assembler: &mut Assembler, sequence: u32) {
    assembler.on_sync(&Header::sync(SessionId(1), 10, STREAM, Sequence(sequence)));
}

fn report(assembler: &mut Assembler) -> Report {
    let due_at = assembler.report_due_at().expect("a report is due");
    assembler.report(due_at).expect("it was due")
}

fn deficits(report: &Report) -> Vec<(u32, u16, usize)> {
    report.deficits.iter().map(|deficit| (deficit.chunk.0, deficit.symbols, deficit.missing.len())).collect()
}

#[test]
fn a_chunk_is_assembled_verified_and_reported() {
    let mut assembler = assembler(4);
    assert_eq!(assembler.wanted(), [ChunkRange { first: ChunkId(2), count: 3 }]);
    let placements = give(&mut assembler, 3, 0..K, 1);
    let entry = EntryIndex(0);
    assert_eq!(placements[0], Placement::Store { entry, cell: 0, opens: true, evicted: None, completes: false });
    assert_eq!(placements[19], Placement::Store { entry, cell: 19, opens: false, evicted: None, completes: true });
    let completed = assembler.complete(entry).unwrap();
    assert_eq!((completed.chunk, completed.stored_bytes), (ChunkId(3), STORED_BYTES));
    assert!(completed.has_all_sources());
    assert_eq!(assembler.complete(entry), None);
    assert_eq!(give(&mut assembler, 3, [0], 2), [Placement::Ignore(Ignored::Unwanted)]);
    assembler.verified(ChunkId(3));
    assert_eq!(report(&mut assembler).completed, [ChunkRange { first: ChunkId(3), count: 1 }]);
    assert_eq!(assembler.remaining(), 2);
    assert_eq!(assembler.report_due_at(), None);
}

#[test]
fn repair_symbols_stand_in_for_sources_and_twice_the_same_is_refused() {
    let mut assembler = assembler(4);
    give(&mut assembler, 2, 2..K, 1);
    assert_eq!(give(&mut assembler, 2, [5], 1), [Placement::Ignore(Ignored::Duplicate)]);
    let placements = give(&mut assembler, 2, [K + 3, K + 3, K + 1], 1);
    assert!(matches!(placements[0], Placement::Store { cell: 20, completes: false, .. }));
    assert_eq!(placements[1], Placement::Ignore(Ignored::Duplicate));
    assert!(matches!(placements[2], Placement::Store { cell: 21, completes: true, .. }));
    assert_eq!(give(&mut assembler, 2, [0], 1), [Placement::Ignore(Ignored::Duplicate)], "enough is enough");
    let completed = assembler.complete(EntryIndex(0)).unwrap();
    assert_eq!(completed.repairs, [(SymbolIndex(K + 3), 20), (SymbolIndex(K + 1), 21)]);
    assert!(!completed.source_present.contains(SymbolIndex(0)) && completed.source_present.contains(SymbolIndex(2)));
}

#[test]
fn what_does_not_fit_the_session_or_is_not_wanted_goes_nowhere() {
    let mut assembler = assembler(4);
    let good = symbol_at(2, 0, 1);
    let ignored = |assembler: &mut Assembler, header: Header, bytes| match assembler.on_symbol(&header, bytes) {
        Placement::Ignore(why) => why,
        store @ Placement::Store { .. } => panic!("{store:?}"),
    };
    for foreign in [
        Header { session: SessionId(2), ..good },
        Header { chunk: ChunkId(10), ..good },
        Header { chunk: ChunkId(u32::MAX), ..good },
        Header { source_symbols: 19, ..good },
        Header { symbol: SymbolIndex(28), ..good },
        Header { kind: Kind::Sync, ..good },
    ] {
        assert_eq!(ignored(&mut assembler, foreign, 64), Ignored::Foreign, "{foreign:?}");
    }
    assert_eq!(ignored(&mut assembler, good, 63), Ignored::Foreign);
    assert_eq!(ignored(&mut assembler, Header { chunk: ChunkId(5), ..good }, 64), Ignored::Unwanted);
    assert_eq!(ignored(&mut assembler, Header { chunk: ChunkId(9), ..good }, 64), Ignored::Unwanted, "of another image");
    assembler.on_sync(&Header { session: SessionId(2), ..Header::sync(SessionId(1), 10, STREAM, Sequence(1)) });
    assembler.on_sync(&Header::sync(SessionId(1), 9, STREAM, Sequence(1)));
    assert_eq!(assembler.report_due_at(), None);
}

#[test]
fn a_deficit_is_reported_once_its_symbols_have_passed_and_again_only_when_it_changes() {
    let mut assembler = assembler(4);
    give(&mut assembler, 2, 2..K, 10);
    give(&mut assembler, 3, 0..1, 40);
    sync(&mut assembler, 30);
    let first = report(&mut assembler);
    assert_eq!(first.passed, [(STREAM, Sequence(30))]);
    assert_eq!(deficits(&first), [(2, 2, 2)], "chunk 3 is still on its way, chunk 4 was not touched");
    sync(&mut assembler, 50);
    assert_eq!(deficits(&report(&mut assembler)), [(3, 19, 0)], "too many to name");
    sync(&mut assembler, 60);
    assert_eq!(deficits(&report(&mut assembler)), []);
    give(&mut assembler, 2, [K], 65);
    sync(&mut assembler, 70);
    assert_eq!(deficits(&report(&mut assembler)), [(2, 1, 2)]);
}

#[test]
fn a_chunk_that_waits_for_its_verdict_is_said_to_need_nothing_and_a_corrupt_one_everything() {
    let mut assembler = assembler(4);
    give(&mut assembler, 2, 0..K, 1);
    assembler.complete(EntryIndex(0)).unwrap();
    sync(&mut assembler, 2);
    let first = report(&mut assembler);
    assert_eq!((deficits(&first), first.passed), (vec![], vec![]), "the verdict may come before the next report");
    sync(&mut assembler, 3);
    let second = report(&mut assembler);
    assert_eq!((deficits(&second), second.passed), (vec![(2, 0, 0)], vec![(STREAM, Sequence(3))]), "it has not");
    assembler.corrupt(ChunkId(2));
    assembler.corrupt(ChunkId(2));
    let third = report(&mut assembler);
    assert_eq!((deficits(&third), third.corrupt), (vec![(2, K, 0)], vec![ChunkId(2)]));
    assert_eq!(assembler.remaining(), 3);
    assert!(matches!(give(&mut assembler, 2, [0], 3)[0], Placement::Store { opens: true, .. }));
}

#[test]
fn a_report_stops_short_of_chunks_whose_verdict_is_due_and_says_nothing_of_what_lies_behind() {
    let mut assembler = assembler(4);
    give(&mut assembler, 2, 0..K, 1);
    assembler.complete(EntryIndex(0)).unwrap();
    assembler.verified(ChunkId(2));
    sync(&mut assembler, 2);
    give(&mut assembler, 3, 0..K, 5);
    give(&mut assembler, 4, 1..K, 6);
    assembler.complete(EntryIndex(0)).unwrap();
    sync(&mut assembler, 7);
    let first = report(&mut assembler);
    assert_eq!((first.passed.as_slice(), deficits(&first)), (&[(STREAM, Sequence(2))][..], vec![]));
    assert_eq!(first.completed, [ChunkRange { first: ChunkId(2), count: 1 }]);
    assembler.verified(ChunkId(3));
    let second = report(&mut assembler);
    assert_eq!((second.passed.as_slice(), deficits(&second)), (&[(STREAM, Sequence(7))][..], vec![(4, 1, 1)]));
    assert_eq!(second.completed, [ChunkRange { first: ChunkId(3), count: 1 }]);
}

#[test]
fn reports_of_receivers_with_different_seeds_come_at_different_times() {
    let first_at = |seed| {
        let mut assembler = assembler(4);
        assembler.set_report_interval(1_000_000);
        assembler.spread_reports(seed);
        sync(&mut assembler, 2);
        let now = Micros(5_000_000);
        match assembler.report(now) {
            Some(_) => now.0,
            None => assembler.report_due_at().unwrap().0,
        }
    };
    let times: Vec<u64> = (0..100).map(first_at).collect();
    assert!(times.iter().all(|at| (5_000_000..=6_000_000).contains(at)), "{times:?}");
    assert!((30..70).contains(&times.iter().filter(|&&at| at < 5_500_000).count()), "{times:?}");
}

#[test]
fn a_verdict_about_a_chunk_that_was_not_assembled_is_ignored() {
    let mut assembler = assembler(4);
    assembler.verified(ChunkId(2));
    assembler.verified(ChunkId(99));
    assembler.corrupt(ChunkId(5));
    assert_eq!((assembler.remaining(), assembler.report_due_at()), (3, None));
}

#[test]
fn without_room_the_least_complete_chunk_that_has_passed_is_given_up_and_said_so() {
    let mut assembler = assembler(2);
    give(&mut assembler, 2, 0..5, 1);
    give(&mut assembler, 3, 0..3, 1);
    assert_eq!(give(&mut assembler, 4, [0], 1), [Placement::Ignore(Ignored::NoRoom)], "both are still arriving");
    sync(&mut assembler, 5);
    assert_eq!(deficits(&report(&mut assembler)), [(2, 15, 15), (3, 17, 0)]);
    let placement = give(&mut assembler, 4, [1], 6);
    let entry = EntryIndex(1);
    assert_eq!(placement, [Placement::Store { entry, cell: 1, opens: false, evicted: Some(ChunkId(3)), completes: false }]);
    sync(&mut assembler, 9);
    assert_eq!(deficits(&report(&mut assembler)), [(3, K, 0), (4, 19, 0)]);
}

#[test]
fn a_chunk_that_is_more_than_half_there_is_kept() {
    let mut assembler = assembler(1);
    give(&mut assembler, 2, 0..11, 1);
    sync(&mut assembler, 5);
    assert_eq!(give(&mut assembler, 3, [0, 1], 6), [Placement::Ignore(Ignored::NoRoom); 2]);
    give(&mut assembler, 2, 11..K, 7);
    assembler.complete(EntryIndex(0)).unwrap();
    assert!(matches!(give(&mut assembler, 3, [2], 8)[0], Placement::Store { opens: true, .. }));
}

#[test]
fn a_chunk_that_was_not_repaired_for_long_makes_room_however_much_there_is_of_it() {
    let mut assembler = assembler(2);
    let report_at = |assembler: &mut Assembler, us: u64, sequence: u32| {
        sync(assembler, sequence);
        assert!(assembler.report(Micros(us)).is_some());
    };
    report_at(&mut assembler, 5_000_000, 1);
    give(&mut assembler, 2, 0..K - 1, 2);
    report_at(&mut assembler, 5_500_000, 5);
    give(&mut assembler, 3, 0..11, 6);
    report_at(&mut assembler, 5_000_000 + REPAIR_US, 9);
    assert_eq!(give(&mut assembler, 4, [0], 10), [Placement::Ignore(Ignored::NoRoom)], "repair may come yet");
    report_at(&mut assembler, 5_020_000 + REPAIR_US, 11);
    let placement = give(&mut assembler, 4, [0], 12);
    assert!(matches!(placement[..], [Placement::Store { evicted: Some(ChunkId(2)), .. }]), "{placement:?}");
    // Where reports are far apart, so is repair.
    give(&mut assembler, 4, 1..11, 12);
    assembler.set_report_interval(1_000_000);
    report_at(&mut assembler, 10_000_000, 20);
    assert_eq!(give(&mut assembler, 2, [0], 21), [Placement::Ignore(Ignored::NoRoom)], "3 waits since 4.5 s, 4 since 4 s");
}

#[test]
fn a_refused_chunk_stays_wanted_and_may_open_again() {
    let mut assembler = assembler(1);
    for symbol in 0..3 {
        assert!(matches!(give(&mut assembler, 2, [symbol], 1)[0], Placement::Store { opens: true, .. }));
        assembler.refuse(EntryIndex(0));
        assembler.refuse(EntryIndex(0));
    }
    assert!(assembler.unsettled.len() <= 1);
    sync(&mut assembler, 5);
    assert_eq!(deficits(&report(&mut assembler)), [], "the sender believes that it lacks everything anyway");
    assert_eq!(assembler.remaining(), 3);
}

#[test]
fn reports_keep_their_distance() {
    let mut assembler = assembler(1);
    sync(&mut assembler, 1);
    assert_eq!(assembler.report_due_at(), Some(Micros(0)));
    assert!(assembler.report(Micros(5_000)).is_some());
    sync(&mut assembler, 2);
    assert_eq!(assembler.report_due_at(), Some(Micros(15_000)));
    assert_eq!(assembler.report(Micros(14_999)), None);
    assembler.set_report_interval(2_000);
    assert!(assembler.report(Micros(7_000)).is_some());
    assert_eq!(assembler.report(Micros(1_000_000)), None, "nothing to say");
}

#[test]
fn first_reports_are_spread_even_when_the_clock_has_just_begun() {
    let first_report_ms = |seed| {
        let mut assembler = assembler(1);
        assembler.set_report_interval(1_000_000);
        assembler.spread_reports(seed);
        sync(&mut assembler, 1);
        (5..1_005).find(|&ms| assembler.report(Micros(ms * 1_000)).is_some()).unwrap()
    };
    let early = (0..100).filter(|&seed| first_report_ms(seed) < 505).count();
    assert!((35..65).contains(&early), "{early} of 100 in the first half");
}

#[test]
fn loss_is_what_the_positions_say_was_sent_less_what_was_seen() {
    let mut assembler = assembler(1);
    assembler.set_backlog(2_000);
    assembler.note_traffic(500);
    sync(&mut assembler, 100);
    assembler.note_traffic(1_000);
    let first = report(&mut assembler);
    assert_eq!((first.packets_sent, first.packets_seen, first.backlog_permille), (0, 0, 1000), "the first is the start");
    sync(&mut assembler, 150);
    assembler.note_traffic(1_045);
    assembler.note_traffic(1_060);
    let second = report(&mut assembler);
    assert_eq!((second.packets_sent, second.packets_seen), (50, 45));
}

#[test]
fn a_new_attendance_is_told_everything_anew() {
    let mut assembler = assembler(4);
    give(&mut assembler, 2, 0..K, 1_000);
    assembler.complete(EntryIndex(0)).unwrap();
    give(&mut assembler, 3, 5..K, 1_000);
    sync(&mut assembler, 1_001);
    report(&mut assembler);
    assembler.reconnected();
    assert_eq!(assembler.wanted(), [ChunkRange { first: ChunkId(2), count: 3 }]);
    assert_eq!(assembler.report_due_at(), None);
    sync(&mut assembler, 3);
    let report = report(&mut assembler);
    assert_eq!(report.passed, [(STREAM, Sequence(3))], "the restarted sender's own numbers");
    assert_eq!(deficits(&report), [(2, 0, 0), (3, 5, 5)]);
}

#[test]
fn a_restarted_stream_is_followed_even_when_nobody_said_so() {
    let mut assembler = assembler(4);
    give(&mut assembler, 3, 5..K, 1_000);
    for sequence in [900, 1, 2, 3] {
        sync(&mut assembler, sequence);
    }
    let report = report(&mut assembler);
    assert_eq!((report.passed.as_slice(), deficits(&report)), (&[(STREAM, Sequence(3))][..], vec![(3, 5, 5)]));
}

const OTHER: StreamId = StreamId(1);

fn on(stream: StreamId, header: Header) -> Header {
    Header { stream, ..header }
}

fn sync_on(assembler: &mut Assembler, stream: StreamId, sequence: u32) {
    assembler.on_sync(&on(stream, Header::sync(SessionId(1), 10, stream, Sequence(sequence))));
}

#[test]
fn only_positions_of_streams_that_are_listened_to_are_reported() {
    let mut assembler = assembler(4);
    assembler.listen_to(&[STREAM, OTHER]);
    sync(&mut assembler, 100);
    sync_on(&mut assembler, OTHER, 7);
    assert_eq!(report(&mut assembler).passed, [(STREAM, Sequence(100)), (OTHER, Sequence(7))]);
    assembler.listen_to(&[OTHER]);
    sync(&mut assembler, 110);
    assert_eq!(assembler.report_due_at(), None, "a sync of a stream that was left is no news");
    sync_on(&mut assembler, OTHER, 9);
    assert_eq!(report(&mut assembler).passed, [(OTHER, Sequence(9))]);
    assembler.listen_to(&[]);
    sync_on(&mut assembler, OTHER, 12);
    assert_eq!(assembler.report_due_at(), None);
}

#[test]
fn what_was_seen_of_a_chunk_on_a_stream_that_was_left_holds_no_report_up() {
    let mut assembler = assembler(4);
    assembler.listen_to(&[STREAM]);
    give(&mut assembler, 2, 3..K, 50);
    give(&mut assembler, 3, 0..K, 51);
    assembler.complete(EntryIndex(1)).unwrap();
    assembler.listen_to(&[OTHER]);
    sync_on(&mut assembler, OTHER, 1_000);
    let first = report(&mut assembler);
    assert_eq!((first.passed.as_slice(), deficits(&first)), (&[(OTHER, Sequence(1_000))][..], vec![(3, 0, 0), (2, 3, 3)]));
    // The rest comes with the other stream, a straggler of the one that was left with it.
    assembler.on_symbol(&on(OTHER, symbol_at(2, 0, 1_001)), 64);
    assembler.on_symbol(&symbol_at(2, 1, 60), 64);
    sync_on(&mut assembler, OTHER, 1_010);
    assert_eq!(deficits(&report(&mut assembler)), [(2, 1, 1)], "symbols of both streams count");
    let last = assembler.on_symbol(&on(OTHER, symbol_at(2, 2, 1_011)), 64);
    assert!(matches!(last, Placement::Store { completes: true, .. }));
}

#[test]
fn a_stream_is_counted_from_where_it_was_joined_and_again_when_it_is_joined_anew() {
    let mut assembler = assembler(4);
    assembler.listen_to(&[STREAM]);
    sync(&mut assembler, 100);
    assembler.note_traffic(1_000);
    sync(&mut assembler, 150);
    assembler.note_traffic(1_050);
    assembler.listen_to(&[STREAM, OTHER]);
    sync_on(&mut assembler, OTHER, 5_000);
    assembler.note_traffic(1_200);
    sync(&mut assembler, 250);
    sync_on(&mut assembler, OTHER, 5_100);
    assembler.note_traffic(1_390);
    let first = report(&mut assembler);
    assert_eq!((first.packets_sent, first.packets_seen), (50 + 100 + 100, 50 + 190));
    assembler.listen_to(&[STREAM]);
    assembler.listen_to(&[STREAM, OTHER]);
    sync_on(&mut assembler, OTHER, 900_000);
    assembler.note_traffic(2_000);
    sync_on(&mut assembler, OTHER, 900_010);
    assembler.note_traffic(2_010);
    let second = report(&mut assembler);
    assert_eq!((second.packets_sent, second.packets_seen), (10, 10), "not what passed while it was left");
}

#[test]
fn packets_of_a_stream_that_comes_although_it_was_left_hide_no_loss() {
    let mut assembler = assembler(4);
    assembler.listen_to(&[STREAM]);
    sync(&mut assembler, 100);
    sync_on(&mut assembler, OTHER, 100);
    assembler.note_traffic(1_000);
    sync(&mut assembler, 200);
    sync_on(&mut assembler, OTHER, 200);
    // Of two hundred packets ten were lost.
    assembler.note_traffic(1_190);
    let report = report(&mut assembler);
    assert_eq!((report.packets_sent, report.packets_seen), (200, 190));
    assert_eq!(report.passed, [(STREAM, Sequence(200))]);
}

#[test]
fn a_chunk_that_came_otherwise_is_pending_and_its_entry_free() {
    let mut assembler = assembler(4);
    give(&mut assembler, 2, 0..5, 1);
    assert_eq!((assembler.wants(ChunkId(2)), assembler.wants(ChunkId(5))), (Some(STORED_BYTES), None));
    let (completed, entry) = assembler.supply(ChunkId(2)).unwrap();
    assert!(completed.has_all_sources() && completed.source_present.contains(SymbolIndex(K - 1)));
    assert_eq!((completed.chunk, entry), (ChunkId(2), Some(EntryIndex(0))));
    assert_eq!(assembler.supply(ChunkId(2)), None, "it is here");
    assert_eq!(give(&mut assembler, 2, [7], 2), [Placement::Ignore(Ignored::Unwanted)]);
    assert_eq!(assembler.supply(ChunkId(3)).unwrap().1, None);
    assembler.corrupt(ChunkId(3));
    assembler.verified(ChunkId(2));
    let report = report(&mut assembler);
    assert_eq!((report.completed.as_slice(), report.passed.as_slice()), (&[ChunkRange { first: ChunkId(2), count: 1 }][..], &[][..]));
    assert_eq!(assembler.wants(ChunkId(3)), Some(STORED_BYTES), "wanted again");
}

#[test]
fn room_is_made_where_least_is_lost() {
    let mut assembler = assembler(4);
    assert_eq!(assembler.make_room(), None);
    give(&mut assembler, 2, 0..15, 1);
    give(&mut assembler, 3, 0..11, 1);
    assert_eq!(assembler.make_room(), Some(EntryIndex(1)));
    assert_eq!(assembler.wants(ChunkId(3)), Some(STORED_BYTES));
    assert_eq!(assembler.remaining(), 3);
}

#[test]
fn a_finished_receiver_has_nothing_more_to_say() {
    let mut assembler = assembler(4);
    for chunk in 2..=4 {
        give(&mut assembler, chunk, 0..K, 1);
        assembler.complete(EntryIndex(0)).unwrap();
        assembler.verified(ChunkId(chunk));
    }
    assert!(assembler.is_done() && assembler.wanted().is_empty());
    assert_eq!(report(&mut assembler).completed, [ChunkRange { first: ChunkId(2), count: 3 }]);
    sync(&mut assembler, 5);
    assert_eq!(assembler.report_due_at(), None);
}

#[test]
fn a_configuration_that_contradicts_itself_does_no_harm() {
    let chunks = vec![(ChunkId(3), STORED_BYTES), (ChunkId(3), 1), (ChunkId(10), 5), (ChunkId(u32::MAX), 5)];
    let wanted = vec![ChunkRange { first: ChunkId(0), count: u32::MAX }, ChunkRange { first: ChunkId(u32::MAX), count: u32::MAX }];
    let assembler = Assembler::new(AssembleConfig { parameters: parameters(), chunks, wanted, entries: 0 });
    assert_eq!(assembler.wanted(), [ChunkRange { first: ChunkId(3), count: 1 }]);
    assert_eq!(assembler.remaining(), 1);
}
