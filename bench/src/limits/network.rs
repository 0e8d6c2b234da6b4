//! How many packets a second leave, and arrive, on one link: each way of transmitting against each way of receiving, in trials of a fixed time.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use receiver::intake::{self, IntakeMode, XdpMode};
use sender::transmit::{self, Choice, Mode, Packet, TransmitConfig};
use wire::packet::{HEADER_BYTES, Header, Kind};
use wire::session::SessionParameters;
use wire::{ChunkId, Sequence, SessionId, StreamId, SymbolIndex};

use crate::counters::{Counters, Counts};

/// Chunks of the made-up session: the receiver's want set has one bit for each.
const CHUNKS: u32 = 1024;
/// Symbols of a chunk in the made-up session.
const SYMBOLS: u16 = 187;
/// Different symbols that are sent in turn: more than a second-level cache holds, as a sender has them.
const DISTINCT_SYMBOLS: usize = SYMBOLS as usize * 16;
/// What goes before the symbol on an IPv4 link: Ethernet, IPv4, UDP and discus headers.
pub(super) const HEADERS_BYTES: usize = 14 + 20 + 8 + HEADER_BYTES;

/// The stream that trials use.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) transmit_interface: String,
    pub(super) receive_interface: String,
    pub(super) group: SocketAddr,
}

/// How packets are sent in a trial.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) choice: Choice,
    /// Bytes of the Ethernet frame without its check sequence.
    pub(super) frame_bytes: usize,
    /// Packets handed over at a time.
    pub(super) batch: usize,
    /// Packets a second; none: as fast as they leave.
    pub(super) rate: Option<f64>,
    pub(super) duration: Duration,
    /// Which of every hundred packets belong to chunks that the receiver wants.
    pub(super) wanted_percent: u8,
}

/// What left.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Sent {
    pub(super) mode: &'static str,
    pub(super) packets: u64,
    pub(super) seconds: f64,
    /// Of the transmitting thread.
    pub(super) counts: Option<Counts>,
}

/// What arrived.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(super) struct Arrived {
    /// Packets of the session that the filter saw.
    pub(super) seen: u64,
    /// Packets that the filter dropped: unwanted.
    pub(super) dropped: u64,
    /// Packets that were handed to this program.
    pub(super) fetched: u64,
    /// Processor time of the fetching thread.
    pub(super) processor_seconds: f64,
}

/// What the receiving end does with wanted packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sink {
    /// Nothing is wanted: the filter drops all of them.
    Filter,
    /// Fetched from the ring and let go.
    Ring,
    /// Fetched, checked (CRC-32) and copied, as the receiver does.
    Copy,
}

fn parameters(frame_bytes: usize) -> SessionParameters {
    SessionParameters {
        session: SessionId(0x4C49_4D49),
        symbol_bytes: u16::try_from(frame_bytes.saturating_sub(HEADERS_BYTES)).unwrap_or(u16::MAX),
        chunk_count: CHUNKS,
        chunk_bytes_max: 1 << 18,
    }
}

/// Sends for as long as `load` says. Call it in the namespace of the interface.
pub(super) fn send(link: &Link, load: &Load) -> Result<Sent> {
    let interface = sender::interface::Interface::find(&link.transmit_interface)?;
    let source = SocketAddr::new(interface.source_for(link.group.ip())?, link.group.port());
    let parameters = parameters(load.frame_bytes);
    let symbol_bytes = usize::from(parameters.symbol_bytes);
    let config = TransmitConfig {
        interface,
        queue: 0,
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
        Packet { header, symbol: &symbols[number as usize % DISTINCT_SYMBOLS * symbol_bytes..][..symbol_bytes] }
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
pub(super) fn receive(
    link: &Link,
    frame_bytes: usize,
    mode: IntakeMode,
    sink: Sink,
    ready: &AtomicBool,
    stop: &AtomicBool,
) -> Result<(Arrived, String)> {
    let interface = receiver::interface::Interface::find(&link.receive_interface).context(link.receive_interface.clone())?;
    let parameters = parameters(frame_bytes);
    let mut opened = intake::open(&interface, &parameters, &[link.group], &[link.group], mode, XdpMode::Auto)?;
    let wants = opened.filter.want_set();
    if sink != Sink::Filter {
        (0..CHUNKS / 2).for_each(|chunk| {
            wants.set(chunk);
        });
    }
    let description = format!("{}; filter {}", opened.intake.describe(), opened.filter.describe());
    ready.store(true, Ordering::Release);
    let mut fetched = 0;
    let mut cell = vec![0; frame_bytes];
    let mut broken = 0_u64;
    let before = thread_seconds();
    loop {
        let count = opened.intake.receive(&mut |payload| {
            if sink == Sink::Copy {
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
            opened.intake.wait(Duration::from_millis(20))?;
        }
    }
    std::hint::black_box(&cell);
    anyhow::ensure!(broken == 0, "{broken} packets arrived damaged");
    let processor_seconds = thread_seconds() - before;
    let counts = opened.filter.counts();
    Ok((Arrived { seen: counts.seen, dropped: counts.dropped, fetched, processor_seconds }, description))
}

fn thread_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// One trial within this machine: a receiving thread, then a transmitting one, each entered into its place by `enter_*`.
pub(super) fn trial(
    link: &Link,
    load: &Load,
    mode: IntakeMode,
    sink: Sink,
    at_sender: impl FnOnce(&mut (dyn FnMut() -> Result<Sent> + Send)) -> Result<Sent>,
    at_receiver: impl FnOnce(&mut (dyn FnMut() -> Result<(Arrived, String)> + Send)) -> Result<(Arrived, String)> + Send,
) -> Result<(Sent, Arrived, String)> {
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| at_receiver(&mut || receive(link, load.frame_bytes, mode, sink, &ready, &stop)));
        while !ready.load(Ordering::Acquire) && !receiving.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let sent = if receiving.is_finished() { Err(anyhow!("the receiver did not start")) } else { at_sender(&mut || send(link, load)) };
        // What is still in the queues arrives within this.
        std::thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::Release);
        let (arrived, description) = receiving.join().map_err(|_| anyhow!("the receiver panicked"))??;
        Ok((sent?, arrived, description))
    })
}

/// The group that trials use by default.
pub(super) fn default_group() -> SocketAddr {
    SocketAddr::new(IpAddr::from([239, 192, 68, 77]), 4777)
}
