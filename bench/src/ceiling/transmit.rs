//! The sender's engine alone: it reads the pack, hashes, schedules, paces and transmits, and nobody takes anything.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crossbeam_channel::{Sender, bounded};
use image::Pack;
use receiver::intake::IntakeMode;
use sender::control::{ControlEvent, Priorities, Profile};
use sender::engine::{CACHE_BYTES_DEFAULT, Cores, Engine, EngineConfig, Stream};
use sender::schedule::{ReceiverId, StragglerPolicy};
use sender::transmit::{self, Choice, Mode, Packet, Transmit, TransmitConfig};
use wire::packet::{HEADER_BYTES, Kind};
use wire::report::{ChunkRange, Report};
use wire::session::SessionParameters;
use wire::{ChunkId, Sequence, StreamId};

use crate::lab::{Lab, inside};
use crate::limits::network::{self, HEADERS_BYTES, Link, SESSION, Sink, Take};

/// Above what the link can do.
const RATE_CAP_BITS_PER_SECOND: u64 = 40_000_000_000;
/// The rate has grown to what the link takes.
const RAMP: Duration = Duration::from_millis(700);
const REPORT_INTERVAL: Duration = Duration::from_millis(10);
/// Groups that end the image are on their way by fits and starts: 4 of 16 chunks.
const LAST_PACKETS: u64 = 4 * 16 * 187;
/// Of a report; the engine only looks at what is lost of them.
const REPORTED_PACKETS: u64 = 1000;

/// Gbit/s of frames that leave during `duration` or until the pack has been sent once.
pub(super) fn run(lab: &Lab, pack: &Path, symbol_bytes: u16, duration: Duration) -> Result<f64> {
    let pack = Arc::new(Pack::open(pack)?);
    let frame_bytes = HEADERS_BYTES + usize::from(symbol_bytes);
    let interface = &lab.interface;
    let link = Link { transmit_interface: interface.clone(), receive_interface: interface.clone(), group: network::default_group() };
    let take = Take::new(IntakeMode::Auto, Sink::Filter);
    let (rate, ..) =
        network::trial(lab, &link, frame_bytes, take, || inside(&lab.sender.namespace, || send(&link, &pack, symbol_bytes, duration)))?;
    Ok(rate * frame_bytes as f64 * 8e-9)
}

/// Packets a second.
fn send(link: &Link, pack: &Arc<Pack>, symbol_bytes: u16, duration: Duration) -> Result<f64> {
    let chunk_count = u32::try_from(pack.chunks().len()).context("the pack has too many chunks")?;
    let chunk_bytes_max = pack.chunk_pages() * image::PAGE_BYTES as u32;
    let interface = sender::interface::Interface::find(&link.transmit_interface)?;
    let source = (interface.source_for(link.group.ip())?, link.group.port()).into();
    let payload_bytes = HEADER_BYTES + usize::from(symbol_bytes);
    let (groups, choice) = (vec![link.group], Choice::Auto);
    let opened = transmit::open(&TransmitConfig { interface, queue: 0, source, groups, hops: 1, payload_bytes, choice })?;
    let parameters = SessionParameters { session: SESSION, symbol_bytes, chunk_count, chunk_bytes_max };
    let symbols = pack.chunks().iter().map(|chunk| u64::from(parameters.source_symbols(chunk.stored_bytes))).sum();
    let all = ChunkRange { first: ChunkId(0), count: chunk_count };
    let (events, events_out) = bounded(64);
    let sent = Arc::new(Mutex::new(Gone::default()));
    let engine = Engine::start(
        EngineConfig {
            pack: Arc::clone(pack),
            parameters,
            streams: vec![Stream { id: StreamId(0), group: link.group }],
            transmit: Box::new(Noting { inner: opened.transmit, symbols: vec![0; pack.chunks().len()], sent: Arc::clone(&sent) }),
            rate_cap_bits_per_second: RATE_CAP_BITS_PER_SECOND,
            rate_floor_bits_per_second: 1,
            priorities: Priorities::default(),
            cache_bytes: CACHE_BYTES_DEFAULT,
            classes: vec![all],
            stragglers: StragglerPolicy::default(),
            last_by_unicast: false,
            orders: Box::new(|_, _| ()),
            cores: Cores::new(None),
            once: None,
        },
        events_out,
    )?;
    let receiver = ReceiverId(1);
    events.send(ControlEvent::Joined { receiver, image: 0, want: vec![all], profile: Profile::default() })?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| report(&events, receiver, &sent, &done));
        let rate = measure(&engine, symbols, duration);
        done.store(true, Ordering::Relaxed);
        rate
    })
}

/// Packets a second once the rate has grown, until all but the last of `symbols` have left.
fn measure(engine: &Engine, symbols: u64, duration: Duration) -> Result<f64> {
    std::thread::sleep(RAMP);
    let (began, before) = (Instant::now(), engine.sent().packets);
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let (now, packets) = (began.elapsed(), engine.sent().packets - before);
        let is_over = before + packets + LAST_PACKETS > symbols;
        if now >= duration || is_over {
            ensure!(now >= duration / 4, "the image was sent within {now:?}: a larger --size lasts longer");
            return Ok(packets as f64 / now.as_secs_f64());
        }
    }
}

/// A way onto the network that tells which chunks have left whole.
struct Noting {
    inner: Box<dyn Transmit>,
    /// By chunk id.
    symbols: Vec<u16>,
    sent: Arc<Mutex<Gone>>,
}

/// What has left since the last report.
#[derive(Default)]
struct Gone {
    chunks: Vec<ChunkId>,
    sync: Option<Sequence>,
}

impl Noting {
    fn gone(&self) -> MutexGuard<'_, Gone> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transmit for Noting {
    fn send(&mut self, packets: &[Packet<'_>]) -> Result<usize, transmit::Error> {
        let count = self.inner.send(packets)?;
        for Packet { header, .. } in &packets[..count] {
            if header.kind == Kind::Sync {
                self.gone().sync = Some(header.sequence);
                continue;
            }
            let Some(symbols) = self.symbols.get_mut(header.chunk.index()) else { continue };
            *symbols += 1;
            if *symbols == header.source_symbols {
                self.gone().chunks.push(header.chunk);
            }
        }
        Ok(count)
    }

    fn flush(&mut self, limit: Duration) -> bool {
        self.inner.flush(limit)
    }

    fn mode(&self) -> Mode {
        self.inner.mode()
    }
}

/// The only receiver says that nothing is lost and all chunks that have left are there.
fn report(events: &Sender<ControlEvent>, receiver: ReceiverId, sent: &Mutex<Gone>, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let Gone { chunks, sync } = std::mem::take(&mut *sent.lock().unwrap_or_else(PoisonError::into_inner));
        let passed = sync.map(|sync| (StreamId(0), sync)).into_iter().collect();
        let completed = chunks.into_iter().map(|first| ChunkRange { first, count: 1 }).collect();
        let report = Report { passed, completed, packets_seen: REPORTED_PACKETS, packets_sent: REPORTED_PACKETS, ..Report::default() };
        // The engine has ended; who measures it will notice.
        if events.send(ControlEvent::Reported { receiver, report }).is_err() {
            return;
        }
        std::thread::sleep(REPORT_INTERVAL);
    }
}
