//! The sending threads with a real pack and a network that is a channel: what leaves is what the pack holds, repairs mend, and what
//! breaks is said.
// Helpers outside test functions, too: what is unexpected here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;
mod transmitters;

use crossbeam_channel::unbounded;
use fixture::{Broken, Collected, Fixture, PATIENCE, RECEIVER, STREAM, Stalled, Wire, ended};
use sender::control::{ControlEvent, Outcome, Priorities, Profile, Settings};
use sender::engine::{Ended, Error};
use sender::schedule::ReceiverId;
use std::time::{Duration, Instant};
use wire::erasure::Decoder;
use wire::packet::{Header, Kind};
use wire::report::{ChunkRange, Deficit, Report};
use wire::{ChunkId, SymbolIndex};

#[test]
fn every_chunk_leaves_once_and_whole_and_the_run_ends_with_its_receiver() {
    let fixture = Fixture::new(40);
    let (wire, packets) = unbounded();
    let (engine, events) = fixture.start(Wire(wire), 10_000_000_000);
    assert!(packets.recv_timeout(Duration::from_millis(100)).is_err(), "nothing leaves before the receiver is there");
    fixture.join(&events);
    let mut collected = Collected::default();
    collected.take(&fixture, &packets, |collected| collected.is_complete(&fixture));
    for (chunk, record) in fixture.pack.chunks().iter().enumerate() {
        let sources = collected.sources(&fixture, chunk);
        let (stored, padding) = sources.split_at(record.stored_bytes as usize);
        assert_eq!(*blake3::hash(stored).as_bytes(), record.hash, "chunk {chunk}");
        assert!(padding.iter().all(|&byte| byte == 0));
    }
    events.send(ControlEvent::Left { receiver: RECEIVER, outcome: Outcome::Completed }).unwrap();
    let Ended::Served(tally) = ended(&engine) else { panic!("not served") };
    assert_eq!((tally.completed, tally.failed, tally.lost), (1, 0, 0));
    let totals = engine.progress().totals;
    assert_eq!(totals.symbols_sent, totals.symbols_needed);
    assert_eq!(totals.symbols_sent, collected.symbols.len() as u64);
    assert!(engine.sent().packets >= totals.symbols_sent);
}

#[test]
fn a_run_at_a_crawl_ends_as_soon_as_it_is_told_to() {
    let fixture = Fixture::new(3);
    let (wire, packets) = unbounded();
    let (engine, events) = fixture.start(Wire(wire), 1_000);
    fixture.join(&events);
    while packets.recv_timeout(PATIENCE).unwrap().0.kind != Kind::Symbol {}
    // The next one may leave ten seconds later.
    std::thread::sleep(Duration::from_millis(100));
    let stopping = Instant::now();
    drop(engine);
    assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
}

#[test]
fn the_operators_cap_holds_while_it_runs() {
    let fixture = Fixture::new(3);
    let (wire, packets) = unbounded();
    let (engine, events) = fixture.start(Wire(wire), 10_000_000_000);
    fixture.join(&events);
    let mut last = 10_000_000_000;
    for cap in [2_000_000, 1_000_000] {
        events.send(ControlEvent::Settings(Settings { rate_cap_bits_per_second: cap, priorities: Priorities::default() })).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while engine.progress().rate_bits_per_second != cap {
            assert!(Instant::now() < deadline, "it stays at {last}");
            // Syncs go on for as long as the receiver says nothing.
            packets.recv_deadline(deadline).unwrap();
            last = engine.progress().rate_bits_per_second;
        }
    }
    // A manifest that is multicast has its part of it.
    events.send(ControlEvent::Describing { bits_per_second: 300_000 }).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while engine.progress().rate_bits_per_second != 700_000 {
        assert!(Instant::now() < deadline, "it stays at {}", engine.progress().rate_bits_per_second);
        packets.recv_deadline(deadline).unwrap();
    }
}

fn is_sync_after(last: Option<Header>, position: wire::Sequence) -> bool {
    last.is_some_and(|last| last.kind == Kind::Sync && last.sequence.since(position) > 0)
}

#[test]
fn a_deficit_is_answered_with_symbols_that_mend_the_chunk() {
    let fixture = Fixture::new(3);
    let (wire, packets) = unbounded();
    let (engine, events) = fixture.start(Wire(wire), 10_000_000_000);
    fixture.join(&events);
    // A second receiver with other losses. Whether repair symbols mend both, or each one's source symbols are sent again because the
    // sender acts before it has heard both, is the scheduler's choice and not this test's subject.
    let other = ReceiverId(2);
    events
        .send(ControlEvent::Joined {
            receiver: other,
            image: 0,
            want: vec![ChunkRange { first: ChunkId(0), count: 3 }],
            profile: Profile::default(),
        })
        .unwrap();
    let mut collected = Collected::default();
    collected.take(&fixture, &packets, |collected| collected.is_complete(&fixture));
    let lost = |first: u16| (first..first + 4).map(SymbolIndex).collect::<Vec<_>>();
    let k = fixture.parameters.source_symbols(fixture.pack.chunks()[0].stored_bytes);
    let mut answer = Collected { last: collected.last, ..Collected::default() };
    let helps = |index: SymbolIndex, missing: &[SymbolIndex]| index.0 >= k || missing.contains(&index);
    let mends = |answer: &Collected, missing: &[SymbolIndex]| {
        answer.symbols.keys().filter(|(chunk, index)| *chunk == ChunkId(0) && helps(*index, missing)).count() >= 4
    };
    // Like real receivers they report at a sync, and again at each later one.
    let before = answer.last.unwrap().sequence;
    if answer.last.unwrap().kind != Kind::Sync {
        answer.take(&fixture, &packets, |answer| is_sync_after(answer.last, before));
    }
    while !(mends(&answer, &lost(0)) && mends(&answer, &lost(100))) {
        let position = answer.last.unwrap().sequence;
        for (receiver, missing) in [(RECEIVER, lost(0)), (other, lost(100))] {
            let report = Report {
                passed: vec![(STREAM, position)],
                completed: vec![ChunkRange { first: ChunkId(1), count: 2 }],
                deficits: vec![Deficit { chunk: ChunkId(0), symbols: 4, missing }],
                ..Report::default()
            };
            events.send(ControlEvent::Reported { receiver, report }).unwrap();
        }
        answer.take(&fixture, &packets, |answer| is_sync_after(answer.last, position));
    }

    let symbol_bytes = usize::from(fixture.parameters.symbol_bytes);
    for missing in [lost(0), lost(100)] {
        let mut sources = collected.sources(&fixture, 0);
        for index in &missing {
            let cell = &mut sources[usize::from(index.0) * symbol_bytes..][..symbol_bytes];
            match answer.symbols.get(&(ChunkId(0), *index)) {
                Some(symbol) => cell.copy_from_slice(symbol),
                None => cell.fill(0xEE),
            }
        }
        let present = |index: SymbolIndex| !missing.contains(&index) || answer.symbols.contains_key(&(ChunkId(0), index));
        let repair = answer.symbols.range((ChunkId(0), SymbolIndex(k))..(ChunkId(1), SymbolIndex(0)));
        let repair = repair.map(|((_, index), symbol)| (*index, symbol.as_slice()));
        Decoder::new(fixture.parameters.symbol_bytes).decode(k, &mut sources, present, repair).unwrap();
        assert_mended(&fixture, &sources);
    }
    drop(engine);
}

fn assert_mended(fixture: &Fixture, sources: &[u8]) {
    let record = &fixture.pack.chunks()[0];
    assert_eq!(*blake3::hash(&sources[..record.stored_bytes as usize]).as_bytes(), record.hash);
}

#[test]
fn a_chunk_that_does_not_match_its_hash_at_a_receiver_is_checked_and_a_damaged_one_ends_the_run() {
    let fixture = Fixture::new(20);
    fixture.damage(17, 5_000);
    let (wire, packets) = unbounded();
    let (engine, events) = fixture.start(Wire(wire), 10_000_000_000);
    fixture.join(&events);
    let mut collected = Collected::default();
    // As a receiver does that has got everything and found that it lacks all of one chunk after all.
    let complain = |collected: &Collected, chunk: ChunkId| {
        let position = collected.last.unwrap().sequence;
        let symbols = fixture.parameters.source_symbols(fixture.pack.chunks()[chunk.index()].stored_bytes);
        let others = (0..20).map(ChunkId).filter(|&other| other != chunk);
        let report = Report {
            passed: vec![(STREAM, position)],
            completed: ChunkRange::from_sorted(others.filter(|other| other.0 != 17)),
            deficits: vec![Deficit { chunk, symbols, missing: Vec::new() }],
            corrupt: vec![chunk],
            ..Report::default()
        };
        events.send(ControlEvent::Reported { receiver: RECEIVER, report }).unwrap();
        position
    };
    collected.take(&fixture, &packets, |collected| collected.is_complete(&fixture));
    // Chunk 3 is as it should be: it is sent again, all of it.
    let position = complain(&collected, ChunkId(3));
    let mut again = Collected::default();
    let k = usize::from(fixture.parameters.source_symbols(fixture.pack.chunks()[3].stored_bytes));
    let of_three = |again: &Collected| again.symbols.keys().filter(|(chunk, _)| *chunk == ChunkId(3)).count();
    again.take(&fixture, &packets, |again| of_three(again) == k && is_sync_after(again.last, position));
    assert!(engine.wait(Duration::ZERO).is_none());
    // Chunk 17 is not.
    complain(&again, ChunkId(17));
    let Ended::Failed(error) = ended(&engine) else { panic!("not failed") };
    assert!(matches!(error, Error::Rotten { .. }));
    let message = error.to_string();
    assert!(message.contains("chunk 17") && message.contains("discus verify"), "{message}");
    drop(engine);
}

#[test]
fn a_pack_that_was_cut_short_is_a_read_error_that_names_the_chunk() {
    let fixture = Fixture::new(20);
    let offset = fixture.pack.chunks()[3].offset;
    std::fs::OpenOptions::new().write(true).open(fixture.pack.path()).unwrap().set_len(offset + 100).unwrap();
    let (engine, events) = fixture.start(Wire(unbounded().0), 10_000_000_000);
    fixture.join(&events);
    let Ended::Failed(error) = ended(&engine) else { panic!("not failed") };
    assert!(matches!(error, Error::Read { chunk: Some(_), .. }), "{error}");
}

#[test]
fn a_network_that_breaks_ends_the_run() {
    let fixture = Fixture::new(2);
    let (engine, events) = fixture.start(Broken, 10_000_000_000);
    fixture.join(&events);
    let Ended::Failed(error) = ended(&engine) else { panic!("not failed") };
    assert!(error.to_string().contains("the test broke it"));
}

#[test]
fn a_stalled_link_is_noticed_and_does_not_keep_the_program_from_stopping() {
    let fixture = Fixture::new(2);
    let (engine, events) = fixture.start(Stalled, 10_000_000_000);
    fixture.join(&events);
    let deadline = Instant::now() + PATIENCE;
    while !engine.is_stalled() {
        assert!(Instant::now() < deadline, "the stall is noticed");
        std::thread::sleep(Duration::from_millis(10));
    }
    let stopping = Instant::now();
    engine.stop();
    assert!(matches!(ended(&engine), Ended::Stopped));
    drop(engine);
    assert!(stopping.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_rate_is_not_exceeded() {
    let fixture = Fixture::new(9);
    let (wire, packets) = unbounded();
    // 2 MiB at 20 Mbit/s take 0.9 s.
    let rate = 20_000_000;
    let (engine, events) = fixture.start(Wire(wire), rate);
    let began = Instant::now();
    fixture.join(&events);
    Collected::default().take(&fixture, &packets, |collected| collected.is_complete(&fixture));
    let sent_bits = engine.sent().frame_bytes * 8;
    // Less two batches, which may go before the pace is felt.
    let least = Duration::from_secs_f64((sent_bits - 2 * 32 * 1500 * 8) as f64 / rate as f64);
    assert!(began.elapsed() >= least, "{:?} for {sent_bits} bits", began.elapsed());
}
