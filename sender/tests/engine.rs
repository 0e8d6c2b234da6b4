//! The sending threads with a real pack and a network that is a channel: what leaves is what the pack holds, repairs mend, and what
//! breaks is said.
// Helpers outside test functions, too: what is unexpected here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crossbeam_channel::{Receiver, Sender, unbounded};
use image::Pack;
use image::pack::{ImageSpec, PackOptions, build};
use sender::control::{ControlEvent, Outcome, Priorities, Profile, Settings};
use sender::engine::{Cores, Ended, Engine, EngineConfig, Error, Stream};
use sender::schedule::ReceiverId;
use sender::transmit::{self, Mode, Packet, Transmit};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::erasure::Decoder;
use wire::packet::{HEADER_BYTES, Header, Kind};
use wire::report::{ChunkRange, Deficit, Report};
use wire::session::{SessionParameters, symbol_bytes_for_mtu};
use wire::{ChunkId, SessionId, StreamId, SymbolIndex};

const RECEIVER: ReceiverId = ReceiverId(1);
const STREAM: StreamId = StreamId(0);
const PATIENCE: Duration = Duration::from_secs(30);

/// Hands every packet to the test.
struct Wire(Sender<(Header, Vec<u8>)>);

impl Transmit for Wire {
    fn send(&mut self, packets: &[Packet<'_>]) -> Result<usize, transmit::Error> {
        for packet in packets {
            let mut payload = vec![0; HEADER_BYTES];
            packet.header.write(payload.first_chunk_mut().unwrap(), packet.symbol);
            payload.extend_from_slice(packet.symbol.bytes());
            let (header, symbol) = Header::parse(&payload).expect("the checksums are those of the symbol");
            // A test that has seen enough no longer listens.
            let _ = self.0.send((header, symbol.to_vec()));
        }
        Ok(packets.len())
    }

    fn flush(&mut self, _limit: Duration) -> bool {
        true
    }

    fn mode(&self) -> Mode {
        Mode::Udp
    }
}

/// Takes nothing.
struct Stalled;

impl Transmit for Stalled {
    fn send(&mut self, _packets: &[Packet<'_>]) -> Result<usize, transmit::Error> {
        std::thread::sleep(Duration::from_millis(10));
        Ok(0)
    }

    fn flush(&mut self, _limit: Duration) -> bool {
        false
    }

    fn mode(&self) -> Mode {
        Mode::Udp
    }
}

/// Fails for good.
struct Broken;

impl Transmit for Broken {
    fn send(&mut self, _packets: &[Packet<'_>]) -> Result<usize, transmit::Error> {
        Err(transmit::Error::Unsuitable("the test broke it".to_owned()))
    }

    fn flush(&mut self, _limit: Duration) -> bool {
        false
    }

    fn mode(&self) -> Mode {
        Mode::Udp
    }
}

/// A pack of one image of `chunks` chunks that do not compress, in a directory that goes away with it.
struct Fixture {
    pack: Arc<Pack>,
    parameters: SessionParameters,
    _directory: tempfile::TempDir,
}

impl Fixture {
    fn new(chunks: usize) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("image.raw");
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        // The last chunk is a page and not a multiple of a symbol.
        let bytes = (chunks - 1) * 256 * 1024 + 4096;
        std::fs::write(&source, (0..bytes / 8).flat_map(|_| next()).collect::<Vec<u8>>()).unwrap();
        let output = directory.path().join("test.pack");
        let spec = ImageSpec { name: "image".to_owned(), path: source };
        let pack = build(&[spec], &output, &PackOptions::default(), &image::Progress::default()).unwrap();
        assert_eq!(pack.chunks().len(), chunks);
        let chunk_bytes_max = pack.chunk_pages() * image::PAGE_BYTES as u32;
        let parameters = SessionParameters {
            session: SessionId(5),
            symbol_bytes: symbol_bytes_for_mtu(1500, chunk_bytes_max).unwrap(),
            chunk_count: chunks as u32,
            chunk_bytes_max,
        };
        Fixture { pack: Arc::new(pack), parameters, _directory: directory }
    }

    fn start(&self, transmit: impl Transmit + 'static, rate_bits_per_second: u64) -> (Engine, Sender<ControlEvent>) {
        let (events, events_out) = unbounded();
        let config = EngineConfig {
            pack: Arc::clone(&self.pack),
            parameters: self.parameters,
            streams: vec![Stream { id: STREAM, group: "239.0.0.1:4700".parse().unwrap() }],
            transmitters: vec![Box::new(transmit)],
            classes: vec![ChunkRange { first: ChunkId(0), count: self.parameters.chunk_count }],
            stragglers: sender::schedule::StragglerPolicy::default(),
            last_by_unicast: false,
            orders: Box::new(|_, _| ()),
            rate_cap_bits_per_second: rate_bits_per_second,
            rate_floor_bits_per_second: rate_bits_per_second,
            priorities: Default::default(),
            cache_bytes: 16 * 1024 * 1024,
            cores: Cores::default(),
            once: Some(1),
        };
        (Engine::start(config, events_out).unwrap(), events)
    }

    fn join(&self, events: &Sender<ControlEvent>) {
        let want = vec![ChunkRange { first: ChunkId(0), count: self.parameters.chunk_count }];
        events.send(ControlEvent::Joined { receiver: RECEIVER, image: 0, want, profile: Profile::default() }).unwrap();
    }

    fn damage(&self, chunk: usize, at: u64) {
        let mut file = std::fs::OpenOptions::new().read(true).write(true).open(self.pack.path()).unwrap();
        let offset = self.pack.chunks()[chunk].offset + at;
        let mut byte = [0];
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.read_exact(&mut byte).unwrap();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(&[byte[0] ^ 1]).unwrap();
        file.sync_all().unwrap();
    }
}

/// What a receiver without loss has: the symbols of every chunk, by index.
#[derive(Default)]
struct Collected {
    symbols: BTreeMap<(ChunkId, SymbolIndex), Vec<u8>>,
    last: Option<Header>,
}

impl Collected {
    /// Takes packets until `enough`, checking each against the session.
    fn take(&mut self, fixture: &Fixture, packets: &Receiver<(Header, Vec<u8>)>, enough: impl Fn(&Collected) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(self) {
            let (header, symbol) = packets.recv_deadline(deadline).expect("more packets");
            let stored_bytes = |id: u32| fixture.pack.chunks().get(id as usize).map(|chunk| chunk.stored_bytes);
            assert!(fixture.parameters.admits(&header, &symbol, stored_bytes), "{header:?}");
            if let Some(last) = self.last {
                assert_eq!(header.sequence.since(last.sequence), 1, "sequence numbers have no gaps");
            }
            self.last = Some(header);
            if header.kind == Kind::Symbol {
                self.symbols.insert((header.chunk, header.symbol), symbol);
            }
        }
    }

    fn sources(&self, fixture: &Fixture, chunk: usize) -> Vec<u8> {
        let k = fixture.parameters.source_symbols(fixture.pack.chunks()[chunk].stored_bytes);
        let symbol = |index| self.symbols.get(&(ChunkId(chunk as u32), SymbolIndex(index))).cloned();
        (0..k).flat_map(|index| symbol(index).unwrap_or_else(|| vec![0; fixture.parameters.symbol_bytes.into()])).collect()
    }

    fn is_complete(&self, fixture: &Fixture) -> bool {
        let symbols = fixture.pack.chunks().iter().map(|chunk| usize::from(fixture.parameters.source_symbols(chunk.stored_bytes)));
        self.symbols.len() == symbols.sum::<usize>() && self.last.is_some_and(|last| last.kind == Kind::Sync)
    }
}

fn ended(engine: &Engine) -> Ended {
    engine.wait(PATIENCE).expect("the run ends")
}

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
