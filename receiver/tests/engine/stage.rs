//! A pack, senders that are scripts, and a receiver that is run against them.

use std::collections::VecDeque;
use std::fs::File;
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

pub(crate) const SYMBOL_BYTES: u16 = 1408;

/// SplitMix64: enough randomness for tests.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A pack with one image, and what it was made of.
pub(crate) struct Served {
    pub(crate) directory: TempDir,
    pub(crate) source: PathBuf,
    pub(crate) pack: Pack,
}

impl Served {
    pub(crate) fn new(make_source: impl FnOnce(&Path)) -> Served {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        make_source(&source);
        let spec = ImageSpec { name: "it".to_owned(), path: source.clone() };
        let pack = build(&[spec], &directory.path().join("pack"), &PackOptions::default(), &image::Progress::default()).unwrap();
        Served { directory, source, pack }
    }

    /// A disk of `pages`: incompressible ones, compressible ones, zeros and a hole.
    pub(crate) fn disk(pages: u64) -> Served {
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

    pub(crate) fn manifest(&self) -> Manifest {
        Manifest::decode(&self.pack.manifest_section(0).unwrap()).unwrap()
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.directory.path().join("target")
    }

    pub(crate) fn parameters(&self) -> SessionParameters {
        SessionParameters {
            session: SessionId(7),
            symbol_bytes: SYMBOL_BYTES,
            chunk_count: self.pack.chunks().len() as u32,
            chunk_bytes_max: self.pack.chunk_pages() * 4096,
        }
    }
}

/// Sends every symbol of every chunk, sources and repairs, over and over, and loses some.
pub(crate) struct Carousel {
    pub(crate) parameters: SessionParameters,
    /// Per chunk: K and all K + R cells.
    pub(crate) chunks: Vec<(u16, Vec<u8>)>,
    pub(crate) chunk: usize,
    pub(crate) random: Random,
    pub(crate) lost_percent: u64,
    /// In the first pass, symbol 0 of this chunk has wrong bytes and a sound CRC.
    pub(crate) forged: Option<usize>,
    /// In so many passes to come, the last three source symbols and all repair symbols are missing.
    pub(crate) clipped_passes: u32,
    pub(crate) sequence: u32,
}

impl Carousel {
    pub(crate) fn new(served: &Served, lost_percent: u64) -> Carousel {
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

    pub(crate) fn send(&mut self, header: Header, symbol: &[u8], handle: &mut dyn FnMut(&[u8])) {
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
pub(crate) struct Silence;

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
pub(crate) struct Script {
    pub(crate) said: Mutex<Vec<ToSender>>,
    pub(crate) events: Receiver<FromSender>,
    pub(crate) answers: Sender<FromSender>,
    pub(crate) acknowledges: bool,
    /// Where chunks that are fetched come from, and what of them has not been taken.
    pub(crate) pack: Option<Pack>,
    pub(crate) fetched: Mutex<VecDeque<Fetched>>,
    /// Once something is known to be lacking, the receiver is to fetch it …
    pub(crate) rest: Mutex<Option<Vec<ChunkRange>>>,
    /// … which comes to nothing.
    pub(crate) rest_fails: bool,
}

impl Script {
    pub(crate) fn new(events: impl IntoIterator<Item = FromSender>, acknowledges: bool) -> Script {
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

    pub(crate) fn said(&self, wanted: impl Fn(&ToSender) -> bool) -> usize {
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

pub(crate) struct Run {
    pub(crate) workers: usize,
    pub(crate) memory_bytes: usize,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) progress: Arc<Progress>,
}

impl Default for Run {
    fn default() -> Run {
        Run { workers: 0, memory_bytes: 64 << 20, stop: Arc::default(), progress: Arc::new(Progress::new(0)) }
    }
}

impl Run {
    pub(crate) fn run(&self, served: &Served, intake: impl Intake + 'static, link: &Script) -> Result<Finished, Error> {
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
