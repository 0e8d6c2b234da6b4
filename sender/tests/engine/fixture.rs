//! A pack, networks that are channels or broken, and what a receiver collects.

use crossbeam_channel::{Receiver, Sender, unbounded};
use image::Pack;
use image::pack::{ImageSpec, PackOptions, build};
use sender::control::{ControlEvent, Profile};
use sender::engine::{Cores, Ended, Engine, EngineConfig, Stream};
use sender::schedule::ReceiverId;
use sender::transmit::{self, Mode, Packet, Transmit};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::packet::{HEADER_BYTES, Header, Kind};
use wire::report::ChunkRange;
use wire::session::{SessionParameters, symbol_bytes_for_mtu};
use wire::{ChunkId, SessionId, StreamId, SymbolIndex};

pub(crate) const RECEIVER: ReceiverId = ReceiverId(1);
pub(crate) const STREAM: StreamId = StreamId(0);
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Hands every packet to the test.
pub(crate) struct Wire(pub(crate) Sender<(Header, Vec<u8>)>);

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
pub(crate) struct Stalled;

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
pub(crate) struct Broken;

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
pub(crate) struct Fixture {
    pub(crate) pack: Arc<Pack>,
    pub(crate) parameters: SessionParameters,
    _directory: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new(chunks: usize) -> Fixture {
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

    pub(crate) fn start(&self, transmit: impl Transmit + 'static, rate_bits_per_second: u64) -> (Engine, Sender<ControlEvent>) {
        self.start_on(vec![Box::new(transmit)], rate_bits_per_second)
    }

    /// With a stream, a part of the chunks and a receiver for each of these transmitters.
    pub(crate) fn start_on(&self, transmitters: Vec<Box<dyn Transmit>>, rate_bits_per_second: u64) -> (Engine, Sender<ControlEvent>) {
        let (events, events_out) = unbounded();
        let count = transmitters.len();
        let group = |id: u16| ([239, 0, 0, 1 + id as u8], 4700).into();
        let config = EngineConfig {
            pack: Arc::clone(&self.pack),
            parameters: self.parameters,
            streams: (0..count as u16).map(|id| Stream { id: StreamId(id), group: group(id) }).collect(),
            transmitters,
            classes: self.parts(count as u32),
            stragglers: sender::schedule::StragglerPolicy::default(),
            last_by_unicast: false,
            orders: Box::new(|_, _| ()),
            rate_cap_bits_per_second: rate_bits_per_second,
            rate_floor_bits_per_second: rate_bits_per_second,
            priorities: Default::default(),
            cache_bytes: 16 * 1024 * 1024,
            cores: Cores::default(),
            once: Some(count),
        };
        (Engine::start(config, events_out).unwrap(), events)
    }

    /// The chunks in so many parts, of which the last is the smallest.
    pub(crate) fn parts(&self, count: u32) -> Vec<ChunkRange> {
        let chunks = self.parameters.chunk_count;
        let each = chunks.div_ceil(count);
        (0..count).map(|at| ChunkRange { first: ChunkId(at * each), count: each.min(chunks - at * each) }).collect()
    }

    pub(crate) fn join(&self, events: &Sender<ControlEvent>) {
        let want = vec![ChunkRange { first: ChunkId(0), count: self.parameters.chunk_count }];
        events.send(ControlEvent::Joined { receiver: RECEIVER, image: 0, want, profile: Profile::default() }).unwrap();
    }

    pub(crate) fn damage(&self, chunk: usize, at: u64) {
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
pub(crate) struct Collected {
    pub(crate) symbols: BTreeMap<(ChunkId, SymbolIndex), Vec<u8>>,
    pub(crate) last: Option<Header>,
}

impl Collected {
    /// Takes packets until `enough`, checking each against the session.
    pub(crate) fn take(&mut self, fixture: &Fixture, packets: &Receiver<(Header, Vec<u8>)>, enough: impl Fn(&Collected) -> bool) {
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

    pub(crate) fn sources(&self, fixture: &Fixture, chunk: usize) -> Vec<u8> {
        let k = fixture.parameters.source_symbols(fixture.pack.chunks()[chunk].stored_bytes);
        let symbol = |index| self.symbols.get(&(ChunkId(chunk as u32), SymbolIndex(index))).cloned();
        (0..k).flat_map(|index| symbol(index).unwrap_or_else(|| vec![0; fixture.parameters.symbol_bytes.into()])).collect()
    }

    pub(crate) fn is_complete(&self, fixture: &Fixture) -> bool {
        let symbols = fixture.pack.chunks().iter().map(|chunk| usize::from(fixture.parameters.source_symbols(chunk.stored_bytes)));
        self.symbols.len() == symbols.sum::<usize>() && self.last.is_some_and(|last| last.kind == Kind::Sync)
    }
}

pub(crate) fn ended(engine: &Engine) -> Ended {
    engine.wait(PATIENCE).expect("the run ends")
}
