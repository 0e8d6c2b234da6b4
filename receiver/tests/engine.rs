//! The whole engine, from packets to files, with a scripted sender in place of the network: no root, no namespaces.
#![allow(clippy::unwrap_used)] // Helpers of tests too: a panic is how they fail.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use image::pack::{ImageSpec, PackOptions, build};
use image::restore::{Present, Target, TargetOptions};
use image::{Manifest, Pack};
use receiver::control::{Fetched, FromSender, StreamInfo, ToSender};
use receiver::engine::{self, Error, Finished, Link, MemoryPlan, Progress, Setup, UnicastMode};
use receiver::intake::{Intake, Membership, Opened, PacketFilter, XdpMode};
use receiver::interface::Interface;
use tempfile::TempDir;
use wire::erasure::{Encoder, repair_symbols};
use wire::packet::{HEADER_BYTES, Header, Kind};
use wire::report::ChunkRange;
use wire::session::SessionParameters;
use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

const SYMBOL_BYTES: u16 = 1408;

/// SplitMix64: enough randomness for tests.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A pack with one image, and what it was made of.
struct Served {
    directory: TempDir,
    source: PathBuf,
    pack: Pack,
}

impl Served {
    fn new(make_source: impl FnOnce(&Path)) -> Served {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        make_source(&source);
        let spec = ImageSpec { name: "it".to_owned(), path: source.clone() };
        let pack = build(&[spec], &directory.path().join("pack"), &PackOptions::default(), &image::Progress::default()).unwrap();
        Served { directory, source, pack }
    }

    /// A disk of `pages`: incompressible ones, compressible ones, zeros and a hole.
    fn disk(pages: u64) -> Served {
        Served::new(|path| {
            let mut random = Random(pages);
            let file = File::create(path).unwrap();
            for page in (0..pages).filter(|page| page % 7 != 3) {
                let mut bytes = [0; 4096];
                let period = if page / 100 % 2 == 0 { 8 } else { 1024 };
                let words: Vec<u64> = (0..512).map(|_| random.next()).collect();
                for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
                    word.copy_from_slice(&words[if period == 8 { at } else { at % 16 }].to_le_bytes());
                }
                file.write_all_at(&bytes, page * 4096).unwrap();
            }
            file.set_len(pages * 4096 + 1000).unwrap();
        })
    }

    fn manifest(&self) -> Manifest {
        Manifest::decode(&self.pack.manifest_section(0).unwrap()).unwrap()
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("target")
    }

    fn parameters(&self) -> SessionParameters {
        SessionParameters {
            session: SessionId(7),
            symbol_bytes: SYMBOL_BYTES,
            chunk_count: self.pack.chunks().len() as u32,
            chunk_bytes_max: self.pack.chunk_pages() * 4096,
        }
    }
}

/// Sends every symbol of every chunk, sources and repairs, over and over, and loses some.
struct Carousel {
    parameters: SessionParameters,
    /// Per chunk: K and all K + R cells.
    chunks: Vec<(u16, Vec<u8>)>,
    chunk: usize,
    random: Random,
    lost_percent: u64,
    /// In the first pass, symbol 0 of this chunk has wrong bytes and a sound CRC.
    forged: Option<usize>,
    /// In so many passes to come, the last three source symbols and all repair symbols are missing.
    clipped_passes: u32,
    sequence: u32,
}

impl Carousel {
    fn new(served: &Served, lost_percent: u64) -> Carousel {
        let parameters = served.parameters();
        let file = File::open(served.pack.path()).unwrap();
        let mut encoder = Encoder::new(SYMBOL_BYTES);
        let chunks = served.pack.chunks().iter().map(|record| {
            let k = parameters.source_symbols(record.stored_bytes);
            let source_bytes = usize::from(k) * usize::from(SYMBOL_BYTES);
            let mut cells = vec![0; source_bytes + usize::from(repair_symbols(k)) * usize::from(SYMBOL_BYTES)];
            file.read_exact_at(&mut cells[..record.stored_bytes as usize], record.offset).unwrap();
            let (source, repair) = cells.split_at_mut(source_bytes);
            encoder.encode(k, source, repair).unwrap();
            (k, cells)
        });
        Carousel {
            parameters,
            chunks: chunks.collect(),
            chunk: 0,
            random: Random(1),
            lost_percent,
            forged: None,
            clipped_passes: 0,
            sequence: 0,
        }
    }

    fn send(&mut self, header: Header, symbol: &[u8], handle: &mut dyn FnMut(&[u8])) {
        let header = Header { sequence: Sequence(self.sequence), ..header };
        self.sequence += 1;
        let mut packet = vec![0; HEADER_BYTES];
        packet.extend_from_slice(symbol);
        let (front, _) = packet.split_first_chunk_mut::<HEADER_BYTES>().unwrap();
        header.write(front, Symbol::new(symbol));
        if self.random.next() % 100 >= self.lost_percent {
            handle(&packet);
        }
    }
}

impl Intake for Carousel {
    fn receive(&mut self, handle: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let chunk_count = self.chunks.len();
        let chunk = self.chunk;
        self.chunk += 1;
        if chunk >= chunk_count {
            self.chunk = 0;
            self.clipped_passes = self.clipped_passes.saturating_sub(1);
            let sync = Header::sync(self.parameters.session, self.parameters.chunk_count, StreamId(0), Sequence(0));
            self.send(sync, &[], handle);
            return Ok(usize::from(chunk_count > 0));
        }
        let (k, cells) = std::mem::take(&mut self.chunks[chunk]);
        let kept = if self.clipped_passes > 0 { usize::from(k).saturating_sub(3) } else { usize::MAX };
        for (index, symbol) in cells.chunks_exact(SYMBOL_BYTES.into()).enumerate().take(kept) {
            let header = Header {
                kind: Kind::Symbol,
                session: self.parameters.session,
                chunk: ChunkId(chunk as u32),
                symbol: SymbolIndex(index as u16),
                source_symbols: k,
                sequence: Sequence(0),
                stream: StreamId(0),
            };
            if index == 0 && self.forged.take_if(|forged| *forged == chunk).is_some() {
                self.send(header, &vec![0x55; symbol.len()], handle);
            } else {
                self.send(header, symbol, handle);
            }
        }
        self.chunks[chunk] = (k, cells);
        Ok(1)
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        std::thread::sleep(timeout);
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

/// An intake where nothing ever comes.
struct Silence;

impl Intake for Silence {
    fn receive(&mut self, _: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        Ok(0)
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        std::thread::sleep(timeout);
        Ok(())
    }

    fn overruns(&self) -> u64 {
        0
    }

    fn memory_bytes(&self) -> usize {
        0
    }

    fn describe(&self) -> &str {
        "silence"
    }
}

/// The sender's side of the control plane: notes what it is told, and confirms a completion.
struct Script {
    said: Mutex<Vec<ToSender>>,
    events: Receiver<FromSender>,
    answers: Sender<FromSender>,
    acknowledges: bool,
    /// Where chunks that are fetched come from, and what of them has not been taken.
    pack: Option<Pack>,
    fetched: Mutex<VecDeque<Fetched>>,
    /// Once something is known to be lacking, the receiver is to fetch it …
    rest: Mutex<Option<Vec<ChunkRange>>>,
    /// … which comes to nothing.
    rest_fails: bool,
}

impl Script {
    fn new(events: impl IntoIterator<Item = FromSender>, acknowledges: bool) -> Script {
        let (answers, queue) = unbounded();
        events.into_iter().for_each(|event| answers.send(event).unwrap());
        Script {
            said: Mutex::default(),
            events: queue,
            answers,
            acknowledges,
            pack: None,
            fetched: Mutex::default(),
            rest: Mutex::default(),
            rest_fails: false,
        }
    }

    fn said(&self, wanted: impl Fn(&ToSender) -> bool) -> usize {
        self.said.lock().unwrap().iter().filter(|message| wanted(message)).count()
    }
}

impl Link for Script {
    fn send(&self, message: ToSender) {
        if self.acknowledges && matches!(message, ToSender::Complete { .. }) {
            self.answers.send(FromSender::Acknowledged).unwrap();
        }
        if matches!(&message, ToSender::Report(report) if !report.deficits.is_empty())
            && let Some(chunks) = self.rest.lock().unwrap().take()
        {
            self.answers.send(FromSender::TakeRest(chunks)).unwrap();
        }
        if let (ToSender::Fetch { call, chunks, symbols }, Some(pack)) = (&message, &self.pack) {
            let stored = |chunk: ChunkId| pack.stored_chunk(image::ChunkId(chunk.0)).unwrap();
            let chunks = chunks.iter().flat_map(|run| run.chunks()).map(|chunk| Fetched::Chunk { chunk, stored: stored(chunk) });
            let parts = symbols.iter().map(|(chunk, symbols)| {
                let mut cells = stored(*chunk);
                cells.resize(cells.len().next_multiple_of(SYMBOL_BYTES.into()), 0);
                let cell = |symbol: &SymbolIndex| &cells[usize::from(symbol.0) * usize::from(SYMBOL_BYTES)..][..SYMBOL_BYTES.into()];
                Fetched::Symbols { chunk: *chunk, symbols: symbols.clone(), bytes: symbols.iter().flat_map(cell).copied().collect() }
            });
            let outcome = if self.rest_fails { Err("bad sector".to_owned()) } else { Ok(()) };
            let parts = chunks.chain(parts).filter(|_| !self.rest_fails);
            self.fetched.lock().unwrap().extend(parts.chain([Fetched::Ended { call: *call, outcome }]));
        }
        self.said.lock().unwrap().push(message);
    }

    fn fetched(&self) -> Option<Fetched> {
        self.fetched.lock().unwrap().pop_front()
    }

    fn events(&self) -> &Receiver<FromSender> {
        &self.events
    }
}

struct Run {
    workers: usize,
    memory_bytes: usize,
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
}

impl Default for Run {
    fn default() -> Run {
        Run { workers: 0, memory_bytes: 64 << 20, stop: Arc::default(), progress: Arc::new(Progress::new(0)) }
    }
}

impl Run {
    fn run(&self, served: &Served, intake: impl Intake + 'static, link: &Script) -> Result<Finished, Error> {
        let (manifest, parameters) = (served.manifest(), served.parameters());
        let lo = Interface::find("lo").unwrap();
        let filter = PacketFilter::attach(&lo, &parameters, &[], false, XdpMode::Off).unwrap();
        let membership = Membership::join(&lo, &[]).unwrap();
        self.progress.total_bytes.store(engine::total_bytes(&manifest), Ordering::Relaxed);
        let (notices, _heard) = unbounded();
        let setup = Setup {
            parameters,
            streams: vec![StreamInfo { id: StreamId(0), group: ([239, 192, 68, 1], 4700).into(), source: [10, 0, 0, 1].into() }],
            opened: Opened { intake: Box::new(intake), filter, membership },
            target: Target::open(&served.target(), &manifest, &TargetOptions::default()).unwrap(),
            plan: MemoryPlan::new(self.memory_bytes, 0, &parameters, engine::is_compressed(&manifest), self.workers).unwrap(),
            present: Present::none(&manifest),
            manifest: Arc::new(manifest),
            workers: self.workers,
            cores: Vec::new(),
            unicast: UnicastMode::Never,
            restore_bytes_per_second: 0,
            restore_rate_is_known: false,
            report_interval_us: 1000,
            acknowledge_within: Duration::from_millis(300),
            progress: Arc::clone(&self.progress),
            notices,
            stop: Arc::clone(&self.stop),
        };
        engine::run(setup, link)
    }
}

fn assert_equal(served: &Served) {
    assert!(fs::read(&served.source).unwrap() == fs::read(served.target()).unwrap(), "the target differs");
}

#[test]
fn an_image_arrives_byte_exact_through_heavy_loss() {
    for workers in [0, 2] {
        let served = Served::disk(2000);
        let link = Script::new([FromSender::NeedReady], true);
        let run = Run { workers, ..Run::default() };
        let finished = run.run(&served, Carousel::new(&served, 10), &link).unwrap();
        assert_eq!(finished, Finished { acknowledged: true });
        assert_equal(&served);
        assert_eq!(link.said(|message| matches!(message, ToSender::Ready { want, .. } if !want.is_empty())), 1);
        assert_eq!(link.said(|message| matches!(message, ToSender::Complete { .. })), 1);
        assert!(link.said(|message| matches!(message, ToSender::Report(_))) > 0);
        let progress = &run.progress;
        assert!(progress.chunks_decoded.load(Ordering::Relaxed) > 0, "10 % loss and nothing decoded");
        assert_eq!(progress.written_bytes.load(Ordering::Relaxed), progress.total_bytes.load(Ordering::Relaxed));
        assert_eq!(progress.chunks_verified.load(Ordering::Relaxed), served.pack.chunks().len() as u64);
    }
}

#[test]
fn a_forged_symbol_spoils_its_chunk_once_and_nothing_wrong_is_written() {
    let served = Served::disk(500);
    let mut carousel = Carousel::new(&served, 0);
    carousel.forged = Some(1);
    let run = Run::default();
    run.run(&served, carousel, &Script::new([FromSender::NeedReady], true)).unwrap();
    assert_equal(&served);
    assert_eq!(run.progress.chunks_corrupt.load(Ordering::Relaxed), 1);
}

#[test]
fn the_least_memory_is_enough() {
    let served = Served::disk(6000);
    let needed = MemoryPlan::new(0, 0, &served.parameters(), engine::is_compressed(&served.manifest()), 0).unwrap_err();
    let run = Run { memory_bytes: needed.needed_bytes(), ..Run::default() };
    run.run(&served, Carousel::new(&served, 25), &Script::new([FromSender::NeedReady], true)).unwrap();
    assert_equal(&served);
}

#[test]
fn an_image_without_data_is_whole_at_once() {
    let served = Served::new(|path| File::create(path).unwrap().set_len(1 << 20).unwrap());
    let link = Script::new([FromSender::NeedReady], true);
    let finished = Run::default().run(&served, Silence, &link).unwrap();
    assert!(finished.acknowledged);
    assert_equal(&served);
    assert_eq!(link.said(|message| matches!(message, ToSender::Ready { want, .. } if want.is_empty())), 1);
}

#[test]
fn chunks_that_come_by_unicast_and_multicast_are_written_once() {
    let served = Served::disk(6000);
    let all = ChunkRange { first: ChunkId(0), count: served.parameters().chunk_count };
    let events = [FromSender::NeedReady, FromSender::Listed, FromSender::TakeByUnicast(vec![all])];
    let pack = Some(Pack::open(served.pack.path()).unwrap());
    let link = Script { pack, ..Script::new(events, true) };
    // The least memory: chunks in assembly have to make room for those that are here whole.
    let needed = MemoryPlan::new(0, 0, &served.parameters(), engine::is_compressed(&served.manifest()), 0).unwrap_err();
    let run = Run { memory_bytes: needed.needed_bytes(), ..Run::default() };
    run.run(&served, Carousel::new(&served, 25), &link).unwrap();
    assert_equal(&served);
    let chunks = served.pack.chunks().len() as u64;
    let by_unicast = run.progress.chunks_by_unicast.load(Ordering::Relaxed);
    assert!(by_unicast > 0 && by_unicast <= chunks, "{by_unicast} of {chunks}");
    assert_eq!(run.progress.chunks_verified.load(Ordering::Relaxed), chunks);
}

/// Runs where the end of every chunk is lacking, and its rest is to be fetched; what was said, and how many chunks came by unicast.
fn end_by_unicast(clipped_passes: u32, rest_fails: bool) -> (Vec<ToSender>, u64) {
    let served = Served::disk(3000);
    let all = ChunkRange { first: ChunkId(0), count: served.parameters().chunk_count };
    let pack = Some(Pack::open(served.pack.path()).unwrap());
    let rest = Mutex::new(Some(vec![all]));
    let link = Script { pack, rest, rest_fails, ..Script::new([FromSender::NeedReady, FromSender::Listed], true) };
    let run = Run::default();
    run.run(&served, Carousel { clipped_passes, ..Carousel::new(&served, 0) }, &link).unwrap();
    assert_equal(&served);
    assert_eq!(run.progress.chunks_verified.load(Ordering::Relaxed), served.pack.chunks().len() as u64);
    let said = std::mem::take(&mut *link.said.lock().unwrap());
    (said, run.progress.chunks_by_unicast.load(Ordering::Relaxed))
}

#[test]
fn of_chunks_that_lack_their_last_symbols_only_these_are_fetched() {
    let (said, by_unicast) = end_by_unicast(u32::MAX, false);
    let asked = said.iter().filter_map(|message| match message {
        ToSender::Fetch { symbols, .. } => Some(symbols),
        _ => None,
    });
    let asked: Vec<_> = asked.flatten().collect();
    assert!(by_unicast > 0 && asked.iter().all(|(_, symbols)| (1..=3).contains(&symbols.len())), "{asked:?}");
}

#[test]
fn what_cannot_be_fetched_of_them_comes_by_multicast() {
    let (said, by_unicast) = end_by_unicast(20, true);
    assert!(said.iter().any(|message| matches!(message, ToSender::Fetch { .. })));
    assert_eq!(by_unicast, 0);
}

#[test]
fn a_tree_arrives() {
    let served = Served::new(|path| {
        fs::create_dir(path).unwrap();
        fs::create_dir(path.join("model")).unwrap();
        fs::write(path.join("model/weights"), (0..300_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
        fs::write(path.join("empty"), "").unwrap();
        std::os::unix::fs::symlink("model/weights", path.join("link")).unwrap();
    });
    Run { workers: 1, ..Run::default() }.run(&served, Carousel::new(&served, 5), &Script::new([FromSender::NeedReady], true)).unwrap();
    let read = |root: &Path, name: &str| fs::read(root.join(name)).unwrap();
    for name in ["model/weights", "empty", "link"] {
        assert!(read(&served.source, name) == read(&served.target(), name), "{name}");
    }
}

#[test]
fn when_stopped_the_sender_hears_it_and_the_target_does_not_look_whole() {
    let served = Served::disk(500);
    let link = Script::new([FromSender::NeedReady], true);
    let run = Run::default();
    run.stop.store(true, Ordering::Relaxed);
    let error = run.run(&served, Silence, &link).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
    assert_eq!(link.said(|message| matches!(message, ToSender::Failed(_))), 1);
    assert!(!served.target().exists());
}

#[test]
fn a_sender_that_is_gone_or_dismisses_ends_the_run() {
    let served = Served::disk(500);
    let gone = Run::default().run(&served, Silence, &Script::new([FromSender::GaveUp("60 s".to_owned())], true));
    assert!(matches!(gone, Err(Error::SenderLost(why)) if why == "60 s"));
    let dismissed = Run::default().run(&served, Silence, &Script::new([FromSender::Dismissed("not you".to_owned())], true));
    assert!(matches!(dismissed, Err(Error::Dismissed(why)) if why == "not you"));
    assert!(!served.target().exists());
}

#[test]
fn an_image_is_whole_even_if_nobody_confirms_it() {
    let served = Served::disk(100);
    let link = Script::new([FromSender::NeedReady], false);
    let finished = Run::default().run(&served, Carousel::new(&served, 0), &link).unwrap();
    assert!(!finished.acknowledged);
    assert_equal(&served);
}

#[test]
fn a_sender_that_comes_back_at_the_end_is_told_again() {
    let served = Served::new(|path| File::create(path).unwrap().set_len(1 << 20).unwrap());
    let link = Script::new([FromSender::NeedReady], false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while link.said(|message| matches!(message, ToSender::Complete { .. })) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            link.answers.send(FromSender::Lost("reset".to_owned())).unwrap();
            link.answers.send(FromSender::NeedReady).unwrap();
            while link.said(|message| matches!(message, ToSender::Complete { .. })) == 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
            link.answers.send(FromSender::Acknowledged).unwrap();
        });
        let finished = Run::default().run(&served, Silence, &link).unwrap();
        assert!(finished.acknowledged);
    });
    assert_eq!(link.said(|message| matches!(message, ToSender::Ready { want, .. } if want.is_empty())), 2);
}
