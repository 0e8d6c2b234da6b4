//! How many packets a second leave, and arrive, on one link: each way of transmitting against each way of receiving, in trials of a fixed time.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use receiver::intake::{self, IntakeMode, IntakeOptions, XdpMode};
use sender::transmit::{self, Choice, Mode, Packet, TransmitConfig};
use wire::packet::{CHUNK_ID_OFFSET, HEADER_BYTES, Header, Kind};
use wire::session::SessionParameters;
use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

use crate::counters::{Counters, Counts};
use crate::lab::{Lab, inside};

/// Chunks of the made-up session: the receiver's want set has one bit for each.
const CHUNKS: u32 = 1024;
/// Symbols of a chunk in the made-up session.
const SYMBOLS: u16 = 187;
/// Different symbols that are sent in turn: more than a second-level cache holds, as a sender has them.
const DISTINCT_SYMBOLS: usize = SYMBOLS as usize * 16;
/// What goes before the symbol on an IPv4 link: Ethernet, IPv4, UDP and discus headers.
pub(crate) const HEADERS_BYTES: usize = 14 + 20 + 8 + HEADER_BYTES;

/// The stream that trials use.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) transmit_interface: String,
    pub(crate) receive_interface: String,
    pub(crate) group: SocketAddr,
}

/// How packets are sent in a trial.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) choice: Choice,
    /// Transmit queues, each with a thread of its own.
    pub(crate) queues: u32,
    /// Bytes of the Ethernet frame without its check sequence.
    pub(crate) frame_bytes: usize,
    /// Packets handed over at a time.
    pub(crate) batch: usize,
    /// Packets a second; none: as fast as they leave.
    pub(crate) rate: Option<f64>,
    pub(crate) duration: Duration,
    /// Which of every hundred packets belong to chunks that the receiver wants.
    pub(crate) wanted_percent: u8,
}

/// What left.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Sent {
    pub(crate) mode: &'static str,
    pub(crate) packets: u64,
    pub(crate) seconds: f64,
    /// Of the transmitting thread.
    pub(crate) counts: Option<Counts>,
}

impl Sent {
    /// What left in the same time on two queues.
    fn beside(self, other: Sent) -> Sent {
        let counts = self.counts.zip(other.counts).map(|(first, second)| first.with(&second));
        Sent { mode: self.mode, packets: self.packets + other.packets, seconds: self.seconds.max(other.seconds), counts }
    }
}

/// What arrived.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Arrived {
    /// Packets of the session that the filter saw.
    pub(crate) seen: u64,
    /// Packets that the filter dropped: unwanted.
    pub(crate) dropped: u64,
    /// Packets that were handed to this program.
    pub(crate) fetched: u64,
    /// Processor time of the fetching thread.
    pub(crate) processor_seconds: f64,
}

/// What the receiving end does with wanted packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    /// Nothing is wanted: the filter drops all of them.
    Filter,
    /// Fetched from the ring and let go.
    Ring,
    /// Fetched, checked (CRC-32) and copied, as the receiver does.
    Copy,
    /// As if there were no filter: everything is fetched, and what is wanted of it, as its header says, is checked and copied.
    Sort,
}

/// How packets are received in a trial.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Take {
    pub(crate) intake: IntakeMode,
    pub(crate) xdp: XdpMode,
    pub(crate) busy_poll: bool,
    pub(crate) sink: Sink,
}

impl Take {
    /// With the filter in the driver, where that can be.
    pub(crate) fn new(intake: IntakeMode, sink: Sink) -> Take {
        Take { intake, xdp: XdpMode::Auto, busy_poll: false, sink }
    }
}

/// The made-up session.
pub(crate) const SESSION: SessionId = SessionId(0x4C49_4D49);

fn parameters(frame_bytes: usize) -> SessionParameters {
    SessionParameters {
        session: SESSION,
        symbol_bytes: u16::try_from(frame_bytes.saturating_sub(HEADERS_BYTES)).unwrap_or(u16::MAX),
        chunk_count: CHUNKS,
        chunk_bytes_max: 1 << 18,
    }
}

/// Sends for as long as `load` says, on all its queues at once. Call it in the namespace of the interface.
pub(crate) fn send(link: &Link, load: &Load) -> Result<Sent> {
    std::thread::scope(|scope| {
        let share = Load { rate: load.rate.map(|rate| rate / f64::from(load.queues)), ..*load };
        // Threads inherit the namespace.
        let sending: Vec<_> = (0..load.queues).map(|queue| scope.spawn(move || send_on(queue, link, &share))).collect();
        let sent = sending.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a transmitting thread panicked"))?);
        sent.reduce(|first, second| Ok(first?.beside(second?))).context("no queue to send on")?
    })
}

/// The same on one queue.
fn send_on(queue: u32, link: &Link, load: &Load) -> Result<Sent> {
    let interface = sender::interface::Interface::find(&link.transmit_interface)?;
    let source = SocketAddr::new(interface.source_for(link.group.ip())?, link.group.port());
    let parameters = parameters(load.frame_bytes);
    let symbol_bytes = usize::from(parameters.symbol_bytes);
    let config = TransmitConfig {
        busy_poll: false,
        interface,
        queue,
        source,
        groups: vec![link.group],
        hops: 1,
        payload_bytes: HEADER_BYTES + symbol_bytes,
        choice: load.choice,
    };
    let mut opened = transmit::open(&config)?;
    let symbols = vec![0x5A; DISTINCT_SYMBOLS * symbol_bytes];
    let packet = |number: u64| {
        // Wanted chunks are the lower half of the ids; spread evenly among the packets.
        let wanted = number % 100 < u64::from(load.wanted_percent);
        let chunk = (number / u64::from(SYMBOLS)) as u32 % (CHUNKS / 2) + if wanted { 0 } else { CHUNKS / 2 };
        let header = Header {
            kind: Kind::Symbol,
            session: parameters.session,
            chunk: ChunkId(chunk),
            symbol: SymbolIndex((number % u64::from(SYMBOLS)) as u16),
            source_symbols: SYMBOLS,
            sequence: Sequence(number as u32),
            stream: StreamId(0),
        };
        // With its CRC, which somebody has to compute: in a session it is the thread that reads.
        Packet { header, symbol: Symbol::new(&symbols[number as usize % DISTINCT_SYMBOLS * symbol_bytes..][..symbol_bytes]) }
    };
    let mut counters = Counters::open().ok();
    let mut batch: Vec<Packet<'_>> = Vec::with_capacity(load.batch);
    let began = Instant::now();
    let mut work = || -> Result<u64> {
        let mut sent = 0;
        while began.elapsed() < load.duration {
            if let Some(rate) = load.rate {
                // Sleeping is too coarse for single batches; below 200 us the loop spins.
                let due = began + Duration::from_secs_f64(sent as f64 / rate);
                let early = due.saturating_duration_since(Instant::now());
                if early > Duration::from_micros(200) {
                    std::thread::sleep(early - Duration::from_micros(100));
                }
                while Instant::now() < due {
                    std::hint::spin_loop();
                }
            }
            batch.clear();
            batch.extend((sent..sent + load.batch as u64).map(packet));
            sent += opened.transmit.send(&batch)? as u64;
        }
        opened.transmit.flush(Duration::from_secs(1));
        Ok(sent)
    };
    let (packets, counts) = match &mut counters {
        Some(counters) => {
            let (packets, counts) = counters.count(work)?;
            (packets?, Some(counts))
        }
        None => (work()?, None),
    };
    let seconds = began.elapsed().as_secs_f64();
    let mode = opened.transmit.mode();
    Ok(Sent { mode: if load.choice == Choice::Udp && mode == Mode::Udp { "udp" } else { mode.name() }, packets, seconds, counts })
}

/// Receives until `stop` is set; sets `ready` once packets would be seen. Call it in the namespace of the interface.
pub(crate) fn receive(
    link: &Link,
    frame_bytes: usize,
    Take { intake, xdp, busy_poll, sink }: Take,
    ready: &AtomicBool,
    stop: &AtomicBool,
) -> Result<(Arrived, String)> {
    let interface = receiver::interface::Interface::find(&link.receive_interface).context(link.receive_interface.clone())?;
    let parameters = parameters(frame_bytes);
    let mut opened = intake::open(&interface, &parameters, &[link.group], &[link.group], IntakeOptions { mode: intake, xdp, busy_poll })?;
    let wants = opened.filter.want_set();
    let wanted = match sink {
        Sink::Filter => 0,
        Sink::Ring | Sink::Copy => CHUNKS / 2,
        Sink::Sort => CHUNKS,
    };
    (0..wanted).for_each(|chunk| {
        wants.set(chunk);
    });
    let description = format!("{}; filter {}", opened.intake.describe(), opened.filter.describe());
    let intake::Opened { intake, filter, .. } = &mut opened;
    ready.store(true, Ordering::Release);
    let mut fetched = 0;
    let mut cell = vec![0; frame_bytes];
    let mut broken = 0_u64;
    let before = thread_seconds();
    loop {
        let count = intake.receive(&mut |payload| {
            let is_wanted = match sink {
                Sink::Filter | Sink::Ring => false,
                Sink::Copy => filter.admits(payload),
                Sink::Sort => chunk_of(payload).is_some_and(|chunk| chunk < CHUNKS / 2),
            };
            if is_wanted {
                match Header::parse(payload) {
                    Ok((_, symbol)) => cell[..symbol.len()].copy_from_slice(symbol),
                    Err(_) => broken += 1,
                }
            }
        })?;
        fetched += count as u64;
        if count == 0 {
            if stop.load(Ordering::Acquire) {
                break;
            }
            intake.wait(Duration::from_millis(20))?;
        }
    }
    std::hint::black_box(&cell);
    anyhow::ensure!(broken == 0, "{broken} packets arrived damaged");
    let processor_seconds = thread_seconds() - before;
    let counts = filter.counts();
    Ok((Arrived { seen: counts.seen, dropped: counts.dropped, fetched, processor_seconds }, description))
}

/// Where the header says which chunk a packet belongs to.
fn chunk_of(payload: &[u8]) -> Option<u32> {
    payload.get(CHUNK_ID_OFFSET..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn thread_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// What `send` returns, and what has arrived when it does: a receiving thread, then a sending one, both on the machines of `lab`.
pub(crate) fn trial<S>(
    lab: &Lab,
    link: &Link,
    frame_bytes: usize,
    take: Take,
    send: impl FnOnce() -> Result<S>,
) -> Result<(S, Arrived, String)> {
    let machine = lab.receivers.first().context("the lab has no receiver")?;
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| inside(&machine.namespace, || receive(link, frame_bytes, take, &ready, &stop)));
        while !ready.load(Ordering::Acquire) && !receiving.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let sent = if receiving.is_finished() { Err(anyhow!("the receiver did not start")) } else { send() };
        // What is still in the queues arrives within this.
        std::thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::Release);
        let (arrived, description) = receiving.join().map_err(|_| anyhow!("the receiver panicked"))??;
        Ok((sent?, arrived, description))
    })
}

/// The group that trials use by default.
pub(crate) fn default_group() -> SocketAddr {
    SocketAddr::new(IpAddr::from([239, 192, 68, 77]), 4777)
}
