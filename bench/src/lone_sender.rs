//! The sender's engine alone: it reads the pack, computes checksums, schedules, paces and transmits, and nobody takes anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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

/// A session whose receivers say that nothing is lost. There is one for each stream: it wants as many of the chunks as the others do, which nobody else
/// wants, and restores its part of what may be sent, so that all streams are used.
pub(crate) struct Session<'a> {
    pub(crate) link: &'a Link,
    pub(crate) pack: &'a Arc<Pack>,
    pub(crate) symbol_bytes: u16,
    pub(crate) rate_cap_bits_per_second: u64,
    pub(crate) streams: u8,
    /// Of the card, from 0 on; no more than streams.
    pub(crate) queues: u32,
}

/// Sends the pack to nobody for as long as `measure` takes, which is told how many symbols there are. Call it in the namespace of the interface.
pub(crate) fn send<T>(session: &Session<'_>, measure: impl FnOnce(&Engine, u64) -> Result<T>) -> Result<T> {
    let &Session { link, pack, symbol_bytes, rate_cap_bits_per_second, streams, queues } = session;
    let chunk_count = u32::try_from(pack.chunks().len()).context("the pack has too many chunks")?;
    let chunk_bytes_max = pack.chunk_pages() * image::PAGE_BYTES as u32;
    let interface = sender::interface::Interface::find(&link.transmit_interface)?;
    let source = (interface.source_for(link.group.ip())?, link.group.port()).into();
    let payload_bytes = HEADER_BYTES + usize::from(symbol_bytes);
    let groups: Vec<SocketAddr> = (0..streams).map(|step| group_after(link.group, step)).collect();
    let config = TransmitConfig {
        interface,
        queue: 0,
        source,
        groups: groups.clone(),
        hops: 1,
        payload_bytes,
        choice: Choice::Auto,
        busy_poll: false,
    };
    let parameters = SessionParameters { session: SESSION, symbol_bytes, chunk_count, chunk_bytes_max };
    let symbols = pack.chunks().iter().map(|chunk| u64::from(parameters.source_symbols(chunk.stored_bytes))).sum();
    let classes = parts(chunk_count, streams.into());
    let (events, events_out) = bounded(64);
    let sent = Arc::new(Mutex::new(Gone { chunks: Vec::new(), syncs: vec![None; streams.into()] }));
    let noting = |queue| -> Result<Box<dyn Transmit>> {
        let inner = transmit::open(&TransmitConfig { queue, ..config.clone() })?.transmit;
        Ok(Box::new(Noting { inner, symbols: vec![0; pack.chunks().len()], sent: Arc::clone(&sent) }))
    };
    let engine = Engine::start(
        EngineConfig {
            pack: Arc::clone(pack),
            parameters,
            streams: (0..).zip(&groups).map(|(id, &group)| Stream { id: StreamId(id), group }).collect(),
            transmitters: (0..queues).map(noting).collect::<Result<_>>()?,
            rate_cap_bits_per_second,
            rate_floor_bits_per_second: 1,
            priorities: Priorities::default(),
            cache_bytes: CACHE_BYTES_DEFAULT,
            classes: classes.clone(),
            stragglers: StragglerPolicy::default(),
            last_by_unicast: false,
            orders: Box::new(|_, _| ()),
            cores: Cores::new(None, queues as usize),
            once: None,
        },
        events_out,
    )?;
    let restore_bytes_per_second = if streams > 1 { rate_cap_bits_per_second / 8 / u64::from(streams) } else { 0 };
    for (receiver, &class) in (0..).map(ReceiverId).zip(&classes) {
        let profile = Profile { restore_bytes_per_second, ..Profile::default() };
        events.send(ControlEvent::Joined { receiver, image: 0, want: vec![class], profile })?;
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| report(&events, &classes, &sent, &done));
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
struct Gone {
    chunks: Vec<ChunkId>,
    /// By stream id.
    syncs: Vec<Option<Sequence>>,
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
                if let Some(sync) = self.gone().syncs.get_mut(usize::from(header.stream.0)) {
                    *sync = Some(header.sequence);
                }
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

/// Receivers say that nothing is lost and all chunks that have left are there.
fn report(events: &Sender<ControlEvent>, classes: &[ChunkRange], sent: &Mutex<Gone>, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let (chunks, syncs) = {
            let mut gone = sent.lock().unwrap_or_else(PoisonError::into_inner);
            let syncs: Vec<Option<Sequence>> = gone.syncs.iter_mut().map(Option::take).collect();
            (std::mem::take(&mut gone.chunks), syncs)
        };
        let passed: Vec<(StreamId, Sequence)> = (0..).map(StreamId).zip(syncs).filter_map(|(stream, sync)| Some((stream, sync?))).collect();
        for (receiver, class) in (0..).map(ReceiverId).zip(classes) {
            let own = chunks.iter().filter(|chunk| (class.first.0..class.first.0 + class.count).contains(&chunk.0));
            let completed = own.map(|&first| ChunkRange { first, count: 1 }).collect();
            let passed = passed.clone();
            let report = Report { passed, completed, packets_seen: REPORTED_PACKETS, packets_sent: REPORTED_PACKETS, ..Report::default() };
            // The engine has ended; who measures it will notice.
            if events.send(ControlEvent::Reported { receiver, report }).is_err() {
                return;
            }
        }
        std::thread::sleep(REPORT_INTERVAL);
    }
}

/// All chunks in so many equal parts, the last with what remains.
fn parts(chunk_count: u32, count: u32) -> Vec<ChunkRange> {
    let each = chunk_count / count.max(1);
    let part = |at: u32| ChunkRange { first: ChunkId(at * each), count: if at + 1 < count { each } else { chunk_count - at * each } };
    (0..count).map(part).collect()
}

/// The group whose address comes `step` after that of `first`.
fn group_after(first: SocketAddr, step: u8) -> SocketAddr {
    let address = match first.ip() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() + u32::from(step)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() + u128::from(step)).into(),
    };
    SocketAddr::new(address, first.port())
}
