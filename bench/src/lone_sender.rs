//! The sender's engine alone: it reads the pack, hashes, schedules, paces and transmits, and nobody takes anything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::{Sender, bounded};
use image::Pack;
use sender::control::{ControlEvent, Priorities, Profile};
use sender::engine::{CACHE_BYTES_DEFAULT, Cores, Engine, EngineConfig, Stream};
use sender::schedule::{ReceiverId, StragglerPolicy};
use sender::transmit::{self, Choice, Mode, Packet, Transmit, TransmitConfig};
use wire::packet::{HEADER_BYTES, Kind};
use wire::report::{ChunkRange, Report};
use wire::session::SessionParameters;
use wire::{ChunkId, Sequence, StreamId};

use crate::limits::network::{Link, SESSION};

const REPORT_INTERVAL: Duration = Duration::from_millis(10);
/// Of a report; the engine only looks at what is lost of them.
const REPORTED_PACKETS: u64 = 1000;

/// A session whose only receiver wants everything and says that nothing is lost.
pub(crate) struct Session<'a> {
    pub(crate) link: &'a Link,
    pub(crate) pack: &'a Arc<Pack>,
    pub(crate) symbol_bytes: u16,
    pub(crate) rate_cap_bits_per_second: u64,
}

/// Sends the pack to nobody for as long as `measure` takes, which is told how many symbols there are. Call it in the namespace of the interface.
pub(crate) fn send<T>(session: &Session<'_>, measure: impl FnOnce(&Engine, u64) -> Result<T>) -> Result<T> {
    let &Session { link, pack, symbol_bytes, rate_cap_bits_per_second } = session;
    let chunk_count = u32::try_from(pack.chunks().len()).context("the pack has too many chunks")?;
    let chunk_bytes_max = pack.chunk_pages() * image::PAGE_BYTES as u32;
    let interface = sender::interface::Interface::find(&link.transmit_interface)?;
    let source = (interface.source_for(link.group.ip())?, link.group.port()).into();
    let payload_bytes = HEADER_BYTES + usize::from(symbol_bytes);
    let (groups, choice) = (vec![link.group], Choice::Auto);
    let opened = transmit::open(&TransmitConfig { interface, queue: 0, source, groups, hops: 1, payload_bytes, choice, busy_poll: false })?;
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
            transmitters: vec![Box::new(Noting { inner: opened.transmit, symbols: vec![0; pack.chunks().len()], sent: Arc::clone(&sent) })],
            rate_cap_bits_per_second,
            rate_floor_bits_per_second: 1,
            priorities: Priorities::default(),
            cache_bytes: CACHE_BYTES_DEFAULT,
            classes: vec![all],
            stragglers: StragglerPolicy::default(),
            last_by_unicast: false,
            orders: Box::new(|_, _| ()),
            cores: Cores::new(None, 1),
            once: None,
        },
        events_out,
    )?;
    let receiver = ReceiverId(1);
    events.send(ControlEvent::Joined { receiver, image: 0, want: vec![all], profile: Profile::default() })?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| report(&events, receiver, &sent, &done));
        let measured = measure(&engine, symbols);
        done.store(true, Ordering::Relaxed);
        measured
    })
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
