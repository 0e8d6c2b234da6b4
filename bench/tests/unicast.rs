//! Images over the control connection: the real control server, the real link and the real engine, and no multicast, or one that lacks something.

#![allow(clippy::unwrap_used)]

use crossbeam_channel::{Receiver, unbounded};
use image::Pack;
use image::pack::{ImageSpec, PackOptions, build};
use image::restore::{Present, Target, TargetOptions};
use receiver::control::{ConnectOptions, ServerAddress, Trust, enrol};
use receiver::engine::{self, Error, Finished, MemoryPlan, Progress, Setup, UnicastMode};
use receiver::intake::{Intake, Membership, Opened, PacketFilter, XdpMode};
use receiver::interface::Interface;
use receiver::trust::checked_manifest;
use sender::control::{
    ChunkSource, ControlConfig, ControlEvent, ControlServer, ImageInfo, Limits, OperatorAccess, OperatorToken, Outcome, Priorities,
    ServerIdentity, SessionInfo, Settings, StreamInfo,
};
use sender::schedule::Order;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wire::packet::{HEADER_BYTES, Header, Kind};
use wire::report::ChunkRange;
use wire::session::SessionParameters;
use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

/// Every wait ends in a panic after this.
const DEADLINE: Duration = Duration::from_secs(30);
const IMAGE_BYTES: usize = 20 << 20;
const STREAM: StreamId = StreamId(3);

/// A pack as a source of chunks, with what may be wrong with it.
#[derive(Debug)]
struct Source {
    pack: Pack,
    fault: Mutex<Fault>,
    /// Chunks that were asked for.
    asked: AtomicU32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Takes its time over each chunk.
    Slow,
    /// This chunk has a wrong bit.
    Flipped(u32),
    /// This chunk is too short.
    Short(u32),
    /// This chunk cannot be read.
    Unreadable(u32),
}

impl ChunkSource for Source {
    fn stored(&self, chunk: ChunkId) -> Result<Vec<u8>, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut stored = self.pack.stored(chunk)?;
        match *self.fault.lock().unwrap() {
            Fault::Slow => thread::sleep(Duration::from_millis(20)),
            Fault::Flipped(wrong) if wrong == chunk.0 => stored[7] ^= 1,
            Fault::Short(wrong) if wrong == chunk.0 => drop(stored.pop()),
            Fault::Unreadable(wrong) if wrong == chunk.0 => return Err(format!("chunk {chunk} of fleet.pack: bad sector")),
            _ => {}
        }
        Ok(stored)
    }
}

/// A pack of one image, and where it is to go.
struct Stage {
    directory: TempDir,
    source: Arc<Source>,
    info: SessionInfo,
}

struct Server {
    control: ControlServer,
    events: Receiver<ControlEvent>,
}

impl Stage {
    fn new(fault: Fault) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut bytes = vec![0; IMAGE_BYTES];
        let mut state = 1_u64;
        // Incompressible and compressible megabytes in turn.
        for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&if at >> 17 & 1 == 0 { state } else { (at as u64) << 20 | 1 }.to_le_bytes());
        }
        fs::write(at("web.raw"), bytes).unwrap();
        let spec = ImageSpec { name: "web".to_owned(), path: at("web.raw") };
        let pack = build(&[spec], &at("pack"), &PackOptions::default(), &image::Progress::default()).unwrap();
        let parameters = SessionParameters {
            session: SessionId(7),
            symbol_bytes: 1408,
            chunk_count: pack.chunks().len() as u32,
            chunk_bytes_max: pack.chunk_pages() * 4096,
        };
        let all = ChunkRange { first: ChunkId(0), count: parameters.chunk_count };
        let web = ImageInfo { name: "web".to_owned(), manifest: pack.manifest_section(0).unwrap(), chunks: vec![all] };
        let (pack_root, proof) = (pack.root(), Vec::new());
        let source = Arc::new(Source { pack, fault: Mutex::new(fault), asked: AtomicU32::new(0) });
        let info = SessionInfo {
            parameters,
            pack_root,
            proof,
            chunk_source: Some(source.clone()),
            images: vec![web],
            streams: vec![StreamInfo { id: STREAM, group: ([239, 192, 68, 1], 4700).into(), source: [127, 0, 0, 1].into() }],
            descriptive: None,
            report_interval_us: 10_000,
        };
        Stage { directory, source, info }
    }

    fn chunk_count(&self) -> u32 {
        self.info.parameters.chunk_count
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("target")
    }

    fn serve(&self, listen: SocketAddr) -> Server {
        let state = self.directory.path().join("state");
        let identity = ServerIdentity::load_or_create(&state).unwrap();
        let (sender, events) = unbounded();
        let config = ControlConfig {
            listen,
            limits: Limits::default(),
            settings: Settings { rate_cap_bits_per_second: 1_000_000_000, priorities: Priorities::default() },
            access: OperatorAccess { token: OperatorToken::load_or_create(&state).unwrap(), public_status: false },
        };
        // A server that was stopped gives its port back a moment later.
        let deadline = Instant::now() + Duration::from_secs(10);
        let control = loop {
            match ControlServer::start(config.clone(), &identity, self.info.clone(), Arc::default(), sender.clone()) {
                Ok(control) => break control,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        Server { control, events }
    }

    fn serve_anywhere(&self) -> Server {
        self.serve(([127, 0, 0, 1], 0).into())
    }

    /// The whole receiver, on the calling thread, until its end.
    fn receive(&self, server: SocketAddr, unicast: UnicastMode) -> (Result<Finished, Error>, Arc<Progress>) {
        self.receive_from(Opened::nothing(&self.info.parameters), server, unicast)
    }

    /// The same with packets.
    fn receive_from(&self, opened: Opened, server: SocketAddr, unicast: UnicastMode) -> (Result<Finished, Error>, Arc<Progress>) {
        let options = ConnectOptions {
            server: ServerAddress::from(server),
            trust: Trust::AnyServer,
            name: "node-1".to_owned(),
            group: String::new(),
            image: "web".to_owned(),
            interface_index: None,
            give_up_after: DEADLINE,
        };
        let (enrolled, link) = enrol(&options).unwrap();
        let manifest = checked_manifest(&enrolled, "web", None).unwrap();
        let progress = Arc::new(Progress::new(engine::total_bytes(&manifest)));
        let (notices, _heard) = unbounded();
        let setup = Setup {
            parameters: enrolled.parameters,
            streams: enrolled.streams,
            opened,
            target: Target::open(&self.target(), &manifest, &TargetOptions::default()).unwrap(),
            plan: MemoryPlan::new(64 << 20, 0, &enrolled.parameters, true, 0).unwrap(),
            present: Present::none(&manifest),
            manifest: Arc::new(manifest),
            workers: 0,
            cores: Vec::new(),
            unicast,
            restore_bytes_per_second: 0,
            restore_rate_is_known: false,
            report_interval_us: enrolled.report_interval_us,
            acknowledge_within: DEADLINE,
            progress: Arc::clone(&progress),
            notices,
            stop: Arc::default(),
        };
        let outcome = engine::run(setup, &link);
        link.close();
        (outcome, progress)
    }

    fn assert_whole(&self) {
        let (source, target) = (fs::read(self.directory.path().join("web.raw")).unwrap(), fs::read(self.target()).unwrap());
        assert!(source == target, "the target differs");
    }
}

/// Packets of one pass over all chunks, each without its last three symbols, and then syncs without end.
struct Clipped {
    packets: std::vec::IntoIter<Vec<u8>>,
    parameters: SessionParameters,
    sequence: u32,
}

impl Clipped {
    fn new(stage: &Stage) -> Clipped {
        let (parameters, mut sequence) = (stage.info.parameters, 0);
        let mut packets = Vec::new();
        for chunk in (0..parameters.chunk_count).map(ChunkId) {
            let mut stored = stage.source.pack.stored(chunk).unwrap();
            let source_symbols = parameters.source_symbols(stored.len() as u32);
            stored.resize(usize::from(source_symbols) * usize::from(parameters.symbol_bytes), 0);
            for (symbol, bytes) in (0..source_symbols.saturating_sub(3)).zip(stored.chunks_exact(parameters.symbol_bytes.into())) {
                let header = Header {
                    kind: Kind::Symbol,
                    session: parameters.session,
                    chunk,
                    symbol: SymbolIndex(symbol),
                    source_symbols,
                    sequence: Sequence(sequence),
                    stream: STREAM,
                };
                packets.push(packet(header, bytes));
                sequence += 1;
            }
        }
        Clipped { packets: packets.into_iter(), parameters, sequence }
    }

    fn opened(stage: &Stage) -> Opened {
        let lo = Interface::find("lo").unwrap();
        let filter = PacketFilter::attach(&lo, &stage.info.parameters, &[], false, XdpMode::Off).unwrap();
        Opened { intake: Box::new(Clipped::new(stage)), filter, membership: Membership::join(&lo, &[]).unwrap() }
    }
}

fn packet(header: Header, symbol: &[u8]) -> Vec<u8> {
    let mut start = [0; HEADER_BYTES];
    header.write(&mut start, Symbol::new(symbol));
    [&start, symbol].concat()
}

impl Intake for Clipped {
    fn receive(&mut self, handle: &mut dyn FnMut(&[u8])) -> std::io::Result<usize> {
        let packets: Vec<Vec<u8>> = self.packets.by_ref().take(64).collect();
        packets.iter().for_each(|packet| handle(packet));
        Ok(packets.len())
    }

    fn wait(&mut self, timeout: Duration) -> std::io::Result<()> {
        let sync = Header::sync(self.parameters.session, self.parameters.chunk_count, STREAM, Sequence(self.sequence));
        self.sequence += 1;
        self.packets = vec![packet(sync, &[])].into_iter();
        thread::sleep(timeout);
        Ok(())
    }

    fn overruns(&self) -> u64 {
        0
    }

    fn memory_bytes(&self) -> usize {
        0
    }

    fn describe(&self) -> &str {
        "a test"
    }
}

impl Server {
    fn next(&self) -> ControlEvent {
        self.events.recv_timeout(DEADLINE).unwrap()
    }

    /// What the engine hears until the receiver has ended: the chunks that were completed, in the order in which that was reported.
    fn completed(&self) -> (Vec<u32>, Outcome) {
        let mut chunks = Vec::new();
        loop {
            match self.next() {
                ControlEvent::Joined { .. } | ControlEvent::Settings(_) | ControlEvent::Describing { .. } => {}
                ControlEvent::Reported { report, .. } => {
                    assert_eq!(report.passed, [], "no stream was heard");
                    chunks.extend(report.completed.into_iter().flat_map(ChunkRange::chunks).map(|chunk| chunk.0));
                }
                ControlEvent::Left { outcome, .. } => return (chunks, outcome),
            }
        }
    }
}

#[test]
fn an_image_comes_wholly_by_unicast() {
    let stage = Stage::new(Fault::None);
    let server = stage.serve_anywhere();
    let (outcome, progress) = stage.receive(server.control.local_addr(), UnicastMode::Always);
    assert_eq!(outcome.unwrap(), Finished { acknowledged: true });
    stage.assert_whole();
    let ControlEvent::Joined { profile, .. } = server.next() else { panic!() };
    assert!(profile.unicast);
    let (mut chunks, outcome) = server.completed();
    chunks.sort_unstable();
    assert_eq!((chunks, outcome), ((0..stage.chunk_count()).collect(), Outcome::Completed));
    assert_eq!(progress.chunks_by_unicast.load(Ordering::Relaxed), u64::from(stage.chunk_count()));
    assert!(progress.by_unicast.load(Ordering::Relaxed));
    assert_eq!(stage.source.asked.load(Ordering::Relaxed), stage.chunk_count(), "each once");
}

#[test]
fn a_receiver_fetches_the_chunks_that_it_is_told_to_fetch() {
    let stage = Stage::new(Fault::None);
    let server = stage.serve_anywhere();
    let (count, half) = (stage.chunk_count(), stage.chunk_count() / 2);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| stage.receive(server.control.local_addr(), UnicastMode::Never));
        let ControlEvent::Joined { receiver: id, profile, .. } = server.next() else { panic!() };
        assert!(!profile.unicast);
        let take = |first, count| {
            let chunks = vec![ChunkRange { first: ChunkId(first), count }];
            assert!(server.control.director().direct(id, Order::Fetch(chunks)));
        };
        take(half, count - half);
        let mut chunks = Vec::new();
        while chunks.len() < (count - half) as usize {
            let ControlEvent::Reported { report, .. } = server.next() else { panic!() };
            chunks.extend(report.completed.into_iter().flat_map(ChunkRange::chunks).map(|chunk| chunk.0));
        }
        assert!(chunks.iter().all(|&chunk| chunk >= half), "{chunks:?}");
        // Some of them are here already, and are not fetched again.
        take(0, count);
        assert_eq!(server.completed().1, Outcome::Completed);
        receiver.join().unwrap().0.unwrap();
    });
    stage.assert_whole();
    assert_eq!(stage.source.asked.load(Ordering::Relaxed), count);
}

#[test]
fn a_chunk_that_stays_damaged_is_fetched_three_times_and_the_error_says_so() {
    let stage = Stage::new(Fault::Flipped(5));
    for (fault, said) in [
        (Fault::Flipped(5), "chunk 5 came damaged 3 times"),
        (Fault::Short(6), "chunk 6 came damaged 3 times"),
        (Fault::Unreadable(0), "chunk 0 of fleet.pack: bad sector"),
    ] {
        *stage.source.fault.lock().unwrap() = fault;
        let server = stage.serve_anywhere();
        let (outcome, _) = stage.receive(server.control.local_addr(), UnicastMode::Always);
        match outcome {
            Err(error @ Error::Unicast(_)) => assert!(error.to_string().contains(said), "{error}"),
            other => panic!("{fault:?}: {other:?}"),
        }
        let (_, outcome) = server.completed();
        assert!(matches!(&outcome, Outcome::Failed(why) if why.contains(said)), "the sender knows too: {outcome:?}");
        assert!(!stage.target().exists(), "it does not look whole");
    }
}

#[test]
fn the_rest_is_fetched_after_the_sender_came_back() {
    let stage = Stage::new(Fault::Slow);
    let server = stage.serve_anywhere();
    let address = server.control.local_addr();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| stage.receive(address, UnicastMode::Always));
        while stage.source.asked.load(Ordering::Relaxed) < 10 {
            thread::sleep(Duration::from_millis(1));
        }
        // Not stopped in good order: dropped, as when it is killed.
        drop(server);
        let server = stage.serve(address);
        let ControlEvent::Joined { want, .. } = server.next() else { panic!() };
        let wanted: u32 = want.iter().map(|run| run.count).sum();
        assert!(wanted > 0 && wanted < stage.chunk_count(), "{wanted} of {} are still wanted", stage.chunk_count());
        assert_eq!(server.completed().1, Outcome::Completed);
        receiver.join().unwrap().0.unwrap();
    });
    stage.assert_whole();
}

#[test]
fn a_receiver_that_hears_nothing_of_streams_that_carry_something_for_it_turns_to_unicast() {
    let stage = Stage::new(Fault::None);
    let server = stage.serve_anywhere();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| stage.receive(server.control.local_addr(), UnicastMode::Auto));
        let ControlEvent::Joined { receiver: id, profile, .. } = server.next() else { panic!() };
        assert!(!profile.unicast);
        assert!(server.control.director().direct(id, Order::Listen(vec![STREAM])));
        // Its attendance ends for a new one.
        assert!(matches!(server.next(), ControlEvent::Left { receiver, outcome: Outcome::Lost(_) } if receiver == id));
        let ControlEvent::Joined { receiver: again, profile, .. } = server.next() else { panic!() };
        assert!(again == id && profile.unicast);
        assert_eq!(server.completed().1, Outcome::Completed);
        receiver.join().unwrap().0.unwrap();
    });
    stage.assert_whole();
}

#[test]
fn the_last_symbols_of_chunks_are_fetched_and_nothing_else_of_them() {
    let stage = Stage::new(Fault::None);
    let server = stage.serve_anywhere();
    let symbols = |chunk| stage.info.parameters.source_symbols(stage.source.pack.stored(ChunkId(chunk)).unwrap().len() as u32);
    // Of the others nothing comes.
    let begun = (0..stage.chunk_count()).filter(|&chunk| symbols(chunk) > 3).count();
    let progress = thread::scope(|scope| {
        let receiver = scope.spawn(|| stage.receive_from(Clipped::opened(&stage), server.control.local_addr(), UnicastMode::Never));
        let ControlEvent::Joined { receiver: id, .. } = server.next() else { panic!() };
        let mut lacking = Vec::new();
        while lacking.len() < begun {
            let ControlEvent::Reported { report, .. } = server.next() else { panic!() };
            lacking.extend(report.deficits.into_iter().filter(|deficit| deficit.symbols > 0));
        }
        assert!(lacking.iter().any(|deficit| deficit.symbols == 3), "{lacking:?}");
        let all = ChunkRange { first: ChunkId(0), count: stage.chunk_count() };
        assert!(server.control.director().direct(id, Order::FetchRest(vec![all])));
        loop {
            match server.next() {
                ControlEvent::Left { outcome, .. } => break assert_eq!(outcome, Outcome::Completed),
                event => assert!(matches!(event, ControlEvent::Reported { .. }), "{event:?}"),
            }
        }
        let (outcome, progress) = receiver.join().unwrap();
        assert_eq!(outcome.unwrap(), Finished { acknowledged: true });
        progress
    });
    stage.assert_whole();
    assert_eq!(progress.chunks_by_unicast.load(Ordering::Relaxed), u64::from(stage.chunk_count()));
    assert_eq!(stage.source.asked.load(Ordering::Relaxed), stage.chunk_count(), "each once");
}
