//! In the steady state the threads that carry packets allocate nothing: an allocator counts what each thread asks for.
#![allow(unsafe_code, clippy::unwrap_used)] // A global allocator is unsafe by nature; a panic is how a test fails.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bench::lab::content::{Part, write_image};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use image::Pack;
use image::pack::{ImageSpec, PackOptions, build};
use image::restore::{Present, Target, TargetOptions};
use receiver::control::{Fetched, FromSender, StreamInfo, ToSender};
use receiver::engine::{self as receiving, Link, MemoryPlan, Setup, UnicastMode};
use receiver::intake::{Intake, Membership, Opened, PacketFilter, XdpMode};
use receiver::interface::Interface;
use sender::control::{ControlEvent, Priorities, Profile};
use sender::engine::{CACHE_BYTES_DEFAULT, Cores, Engine, EngineConfig, Stream};
use sender::schedule::{ReceiverId, StragglerPolicy};
use sender::transmit::{self, Mode, Packet, Transmit};
use wire::packet::{HEADER_BYTES, Header, Kind};
use wire::report::{ChunkRange, Report};
use wire::session::SessionParameters;
use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

/// Counts by thread.
struct Counting;

const THREADS: usize = 1 << 16;
/// By thread id; two threads that share a place would only make more of the count.
static COUNTS: [AtomicU64; THREADS] = [const { AtomicU64::new(0) }; THREADS];

fn place() -> &'static AtomicU64 {
    &COUNTS[rustix::thread::gettid().as_raw_nonzero().get() as usize % THREADS]
}

// SAFETY: everything is passed on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        place().fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        place().fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the calling thread has allocated so far.
fn allocations() -> u64 {
    place().load(Ordering::Relaxed)
}

const SYMBOL_BYTES: u16 = 1408;
const IMAGE_BYTES: u64 = 64 << 20;
/// Small chunks make many groups, jobs and verdicts of few bytes.
const CHUNK_PAGES: u32 = 8;
const GROUP: ([u8; 4], u16) = ([239, 192, 68, 1], 4700);
const DEADLINE: Duration = Duration::from_secs(60);

fn packed(directory: &Path) -> Pack {
    let source = directory.join("source");
    write_image(&source, &[Part::Noise { seed: 5, bytes: IMAGE_BYTES }]).unwrap();
    let spec = ImageSpec { name: "it".to_owned(), path: source };
    build(
        &[spec],
        &directory.join("pack"),
        &PackOptions { chunk_pages: CHUNK_PAGES, ..PackOptions::default() },
        &image::Progress::default(),
    )
    .unwrap()
}

fn parameters(pack: &Pack) -> SessionParameters {
    let (chunk_count, chunk_bytes_max) = (pack.chunks().len() as u32, pack.chunk_pages() * 4096);
    SessionParameters { session: SessionId(7), symbol_bytes: SYMBOL_BYTES, chunk_count, chunk_bytes_max }
}

/// A way onto no network that notes what its thread allocates between two batches.
struct Counted {
    packets: u64,
    steady_after: u64,
    seen: u64,
    allocated: Arc<AtomicU64>,
    /// By chunk id: symbols sent. And what a report is to say: it is emptied in time, so that it never grows.
    symbols: Vec<u16>,
    gone: Arc<Mutex<(Vec<ChunkId>, Option<Sequence>)>>,
}

impl Transmit for Counted {
    fn send(&mut self, packets: &[Packet<'_>]) -> Result<usize, transmit::Error> {
        let now = allocations();
        if self.packets > self.steady_after {
            self.allocated.fetch_add(now - self.seen, Ordering::Relaxed);
        }
        self.packets += packets.len() as u64;
        let mut gone = self.gone.lock().unwrap();
        for Packet { header, .. } in packets {
            if header.kind == Kind::Sync {
                gone.1 = Some(header.sequence);
                continue;
            }
            let symbols = &mut self.symbols[header.chunk.index()];
            *symbols += 1;
            if *symbols == header.source_symbols {
                gone.0.push(header.chunk);
            }
        }
        drop(gone);
        self.seen = allocations();
        Ok(packets.len())
    }

    fn flush(&mut self, _: Duration) -> bool {
        true
    }

    fn mode(&self) -> Mode {
        Mode::Udp
    }
}

#[test]
fn the_transmitter_allocates_nothing_once_it_sends() {
    let directory = tempfile::tempdir().unwrap();
    let pack = Arc::new(packed(directory.path()));
    let parameters = parameters(&pack);
    let chunks = pack.chunks().len();
    let symbols: u64 = pack.chunks().iter().map(|chunk| u64::from(parameters.source_symbols(chunk.stored_bytes))).sum();
    let allocated = Arc::new(AtomicU64::new(0));
    let gone = Arc::new(Mutex::new((Vec::with_capacity(chunks), None)));
    let transmit = Counted {
        packets: 0,
        steady_after: symbols / 4,
        seen: 0,
        allocated: Arc::clone(&allocated),
        symbols: vec![0; chunks],
        gone: Arc::clone(&gone),
    };
    let all = ChunkRange { first: ChunkId(0), count: chunks as u32 };
    let (events, events_out) = bounded(64);
    let config = EngineConfig {
        pack,
        parameters,
        streams: vec![Stream { id: StreamId(0), group: GROUP.into() }],
        transmitters: vec![Box::new(transmit)],
        rate_cap_bits_per_second: 4_000_000_000,
        rate_floor_bits_per_second: 4_000_000_000,
        priorities: Priorities::default(),
        cache_bytes: CACHE_BYTES_DEFAULT,
        classes: vec![all],
        stragglers: StragglerPolicy::default(),
        last_by_unicast: false,
        orders: Box::new(|_, _| ()),
        cores: Cores::new(None, 1),
        once: None,
    };
    let engine = Engine::start(config, events_out).unwrap();
    let receiver = ReceiverId(1);
    events.send(ControlEvent::Joined { receiver, image: 0, want: vec![all], profile: Profile::default() }).unwrap();
    let began = Instant::now();
    while engine.sent().packets < symbols {
        assert!(began.elapsed() < DEADLINE, "{} of {symbols} packets left", engine.sent().packets);
        std::thread::sleep(Duration::from_millis(5));
        let (chunks, sync) = {
            let mut gone = gone.lock().unwrap();
            let chunks = gone.0.clone();
            gone.0.clear();
            (chunks, gone.1.take())
        };
        let completed = chunks.into_iter().map(|first| ChunkRange { first, count: 1 }).collect();
        let passed = sync.map(|sync| (StreamId(0), sync)).into_iter().collect();
        let report = Report { passed, completed, packets_seen: 100, packets_sent: 100, ..Report::default() };
        events.send(ControlEvent::Reported { receiver, report }).unwrap();
    }
    assert_eq!(allocated.load(Ordering::Relaxed), 0, "allocations of the transmitter's thread in three quarters of {symbols} packets");
}

/// All symbols of the pack in order, in batches, and what its thread allocates while they are handled.
struct Feed {
    parameters: SessionParameters,
    pack: Vec<u8>,
    /// Where each chunk lies in it, and its K.
    records: Vec<(usize, u16)>,
    chunk: usize,
    symbol: u16,
    sequence: u32,
    packet: Vec<u8>,
    allocated: Arc<AtomicU64>,
}

/// Chunks before the count begins: buffers, lists and channels have then had their first use.
const STEADY_AFTER_CHUNKS: usize = 512;

impl Feed {
    fn packet(&mut self, header: Header, at: Option<usize>, handle: &mut dyn FnMut(&[u8])) {
        let header = Header { sequence: Sequence(self.sequence), ..header };
        self.sequence += 1;
        let symbol = at.map_or(&[][..], |at| &self.pack[at..at + usize::from(SYMBOL_BYTES)]);
        self.packet.clear();
        self.packet.resize(HEADER_BYTES, 0);
        header.write(self.packet.first_chunk_mut().unwrap(), Symbol::new(symbol));
        self.packet.extend_from_slice(symbol);
        let before = allocations();
        handle(&self.packet);
        if self.chunk >= STEADY_AFTER_CHUNKS {
            self.allocated.fetch_add(allocations() - before, Ordering::Relaxed);
        }
    }
}

impl Intake for Feed {
    fn receive(&mut self, handle: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        for packets in 0..64 {
            let Some(&(offset, source_symbols)) = self.records.get(self.chunk) else { return Ok(packets) };
            if self.symbol == source_symbols {
                (self.chunk, self.symbol) = (self.chunk + 1, 0);
                let sync = Header::sync(self.parameters.session, self.parameters.chunk_count, StreamId(0), Sequence(0));
                self.packet(sync, None, handle);
                continue;
            }
            let (session, symbol) = (self.parameters.session, SymbolIndex(self.symbol));
            let (chunk, sequence, stream) = (ChunkId(self.chunk as u32), Sequence(0), StreamId(0));
            let header = Header { kind: Kind::Symbol, session, chunk, symbol, source_symbols, sequence, stream };
            self.packet(header, Some(offset + usize::from(self.symbol) * usize::from(SYMBOL_BYTES)), handle);
            self.symbol += 1;
        }
        // The disk need not be as fast as memory.
        std::thread::sleep(Duration::from_micros(200));
        Ok(64)
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
        "from memory"
    }
}

/// A sender that lists, confirms, and is told everything.
struct Confirming {
    answers: Sender<FromSender>,
    events: Receiver<FromSender>,
}

impl Link for Confirming {
    fn send(&self, message: ToSender) {
        if matches!(message, ToSender::Complete { .. }) {
            self.answers.send(FromSender::Acknowledged).unwrap();
        }
    }

    fn fetched(&self) -> Option<Fetched> {
        None
    }

    fn events(&self) -> &Receiver<FromSender> {
        &self.events
    }
}

#[test]
fn the_intake_allocates_nothing_for_packets_and_whole_chunks() {
    let directory = tempfile::tempdir().unwrap();
    let pack = packed(directory.path());
    let (parameters, manifest) = (parameters(&pack), pack.manifest(0).unwrap());
    let mut bytes = fs::read(pack.path()).unwrap();
    // The last symbol of a chunk is read whole; what follows its data is zeros on the wire, and nobody looks at it.
    bytes.extend([0; SYMBOL_BYTES as usize]);
    let record = |record: &image::pack::ChunkRecord| (record.offset as usize, parameters.source_symbols(record.stored_bytes));
    let allocated = Arc::new(AtomicU64::new(0));
    let feed = Feed {
        parameters,
        records: pack.chunks().iter().map(record).collect(),
        pack: bytes,
        chunk: 0,
        symbol: 0,
        sequence: 0,
        packet: Vec::with_capacity(HEADER_BYTES + usize::from(SYMBOL_BYTES)),
        allocated: Arc::clone(&allocated),
    };
    let lo = Interface::find("lo").unwrap();
    let filter = PacketFilter::attach(&lo, &parameters, &[], false, XdpMode::Off).unwrap();
    let membership = Membership::join(&lo, &[]).unwrap();
    let (answers, events) = unbounded();
    answers.send(FromSender::NeedReady).unwrap();
    let (notices, _heard) = unbounded();
    let progress = Arc::new(receiving::Progress::new(receiving::total_bytes(&manifest)));
    let setup = Setup {
        parameters,
        streams: vec![StreamInfo { id: StreamId(0), group: GROUP.into(), source: [10, 0, 0, 1].into() }],
        opened: Opened { intake: Box::new(feed), filter, membership },
        target: Target::open(&directory.path().join("target"), &manifest, &TargetOptions::default()).unwrap(),
        plan: MemoryPlan::new(64 << 20, 0, &parameters, receiving::is_compressed(&manifest), 0).unwrap(),
        present: Present::none(&manifest),
        manifest: Arc::new(manifest),
        workers: 0,
        cores: Vec::new(),
        unicast: UnicastMode::Never,
        restore_bytes_per_second: 0,
        restore_rate_is_known: false,
        report_interval_us: 10_000,
        acknowledge_within: Duration::from_secs(5),
        progress: Arc::clone(&progress),
        notices,
        stop: Arc::new(AtomicBool::new(false)),
    };
    let finished = receiving::run(setup, &Confirming { answers, events }).unwrap();
    assert!(finished.acknowledged);
    assert!(fs::read(directory.path().join("source")).unwrap() == fs::read(directory.path().join("target")).unwrap());
    let chunks = pack.chunks().len() - STEADY_AFTER_CHUNKS;
    assert_eq!(allocated.load(Ordering::Relaxed), 0, "allocations of the intake's thread while it handled the packets of {chunks} chunks");
}
