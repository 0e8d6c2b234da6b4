//! The threads of a serving sender.
//!
//! ```text
//! control events → dispatcher (delivery) → reader (pack, cache, repair symbols) → transmitters → network
//!                        ↑                                                                │
//!                        └─────────────────────── a job is done ──────────────────────────┘
//! ```
//!
//! There is a transmitter for each queue of the card that is used. Streams are dealt to them in turn and stay with them: what belongs to a stream
//! leaves in order. Channels are bounded by the number of jobs under way (`JOBS_AHEAD` in `dispatch` a stream), so no send blocks, and memory is the chunk
//! cache, taken at start, plus the UMEM of each stream.

mod cache;
mod cores;
mod disk;
mod dispatch;
mod job;
mod pace;
mod page_cache;
mod priorities;
mod quorum;
mod reader;
mod transmitter;

pub use cores::Cores;
pub use dispatch::{Ended, Progress};
pub use quorum::Tally;

use crate::control::{ControlEvent, Priorities};
use crate::schedule::{Delivery, DeliveryConfig, GROUP_CHUNKS_MAX, Order, ReceiverId, ScheduleConfig, StragglerPolicy};
use crate::transmit::{self, LINK_OVERHEAD_BYTES, Transmit};
use crossbeam_channel::{Receiver, Sender, bounded};
use dispatch::{Dispatcher, JOBS_AHEAD, Notice, StreamSlot};
use image::Pack;
use image::restore::BufferPool;
use priorities::PriorityBook;
use quorum::Quorum;
use reader::{Reader, chunk_buffer_bytes};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use transmitter::{Line, StreamState, Transmitter};
use wire::report::{CORRUPT_PER_REPORT_MAX, ChunkRange};
use wire::session::SessionParameters;
use wire::{Checksums, ChunkId, StreamId};

/// Chunks in memory unless the operator says otherwise: at 10 Gbit/s the last 100 ms, several times what a repair takes to be asked for.
pub const CACHE_BYTES_DEFAULT: usize = 128 * 1024 * 1024;

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pack's file cannot be opened a second time, for reading chunks.
    #[error("opening {} for direct reads: {source}", path.display())]
    OpenPack {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk failed.
    #[error("reading {} of {}: {source}", chunk.map_or_else(|| "chunks".to_owned(), |chunk| format!("chunk {chunk}")), path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The chunk, when it is known.
        chunk: Option<ChunkId>,
        /// Why.
        source: io::Error,
    },
    /// A chunk is not what the pack's table says.
    #[error("{} is damaged: {source}; check it with `discus verify` and pack it again", path.display())]
    Rotten {
        /// The file.
        path: PathBuf,
        /// Which chunk, and how.
        source: image::Error,
    },
    /// The scheduler asked for a symbol that does not exist: a defect of this program.
    #[error("chunk {chunk}: {source}")]
    Encode {
        /// The chunk.
        chunk: ChunkId,
        /// What is wrong.
        source: wire::erasure::Error,
    },
    /// The scheduler asked for a chunk that does not exist or does not fit: a defect of this program.
    #[error("chunk {0} is not in the pack or larger than the pack allows")]
    NoChunk(ChunkId),
    /// The network failed.
    #[error(transparent)]
    Transmit(#[from] transmit::Error),
    /// No memory for the chunk cache.
    #[error("taking memory for the chunk cache: {0}; --memory gives it less")]
    Memory(#[source] image::Error),
    /// The system has no more threads.
    #[error("starting the {name} thread: {source}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A stream.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Its id in packets.
    pub id: StreamId,
    /// Group and port.
    pub group: SocketAddr,
}

/// What a run is made of.
pub struct EngineConfig {
    /// The pack.
    pub pack: Arc<Pack>,
    /// The session's parameters, which agree with the pack.
    pub parameters: SessionParameters,
    /// The streams, at least one, all of one address family.
    pub streams: Vec<Stream>,
    /// The ways to the network, at least one, which all know the same streams. Each has a thread; the stream at position n leaves by the one at n
    /// modulo their number.
    pub transmitters: Vec<Box<dyn Transmit>>,
    /// Never faster than this, all streams together.
    pub rate_cap_bits_per_second: u64,
    /// Never slower than this.
    pub rate_floor_bits_per_second: u64,
    /// Who is served first, to begin with.
    pub priorities: Priorities,
    /// Memory for chunks.
    pub cache_bytes: usize,
    /// Runs of chunks that the same images share: what streams are planned by.
    pub classes: Vec<ChunkRange>,
    /// What to do about receivers that cannot keep up.
    pub stragglers: StragglerPolicy,
    /// What few receivers lack in the end is fetched by these when that costs less than multicast.
    pub last_by_unicast: bool,
    /// Tells a receiver what to do; called on the dispatcher's thread.
    pub orders: Box<dyn FnMut(ReceiverId, Order) + Send>,
    /// Which threads run where.
    pub cores: Cores,
    /// Begin when so many receivers are listed, and end with them.
    pub once: Option<usize>,
}

/// What left for the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets, syncs included.
    pub packets: u64,
    /// Bytes of their Ethernet frames, without preamble, frame check sequence and gap.
    pub frame_bytes: u64,
}

/// See [`Engine::start`]: stops, and what the reader has to say. The dispatcher takes notices whatever else it does, so that nobody waits long even when there are more.
const NOTICES_SPARE: usize = 16;

/// A running engine. Dropping it stops it.
pub struct Engine {
    states: Vec<Arc<StreamState>>,
    transmitter_count: usize,
    progress: Arc<Mutex<Progress>>,
    notices: Sender<Notice>,
    ended: Receiver<Ended>,
    stop: Arc<AtomicBool>,
    reader_description: String,
    cache_bytes: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Takes memory and starts the threads.
    ///
    /// # Errors
    /// [`Error`] when something that a run needs is not to be had.
    pub fn start(config: EngineConfig, events: Receiver<ControlEvent>) -> Result<Engine, Error> {
        let EngineConfig { pack, parameters, streams, cores, .. } = config;
        let jobs_max = streams.len() * JOBS_AHEAD;
        let buffer_bytes = chunk_buffer_bytes(&parameters);
        // What is under way must fit, or the reader would wait for buffers that only later reads can free.
        let buffers_min = (jobs_max + 1) * GROUP_CHUNKS_MAX;
        let buffers = (config.cache_bytes / buffer_bytes).min(pack.chunks().len().max(1)).max(buffers_min);
        let pool = BufferPool::new(buffers, buffer_bytes).map_err(Error::Memory)?;
        pool.populate_when_idle();

        // Room for a notice of each job, an error of each thread and some stops: the data path allocates nothing for them.
        let transmitter_count = config.transmitters.len();
        let (notices, notices_out) = bounded(jobs_max + transmitter_count + NOTICES_SPARE);
        let (requests, requests_out) = bounded(jobs_max);
        let (suspects, suspects_out) = bounded(CORRUPT_PER_REPORT_MAX);
        let (ended_in, ended) = bounded(1);
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(Mutex::new(Progress::default()));
        let mut engine = Engine {
            states: streams.iter().map(|_| Arc::default()).collect(),
            transmitter_count,
            progress: Arc::clone(&progress),
            notices: notices.clone(),
            ended,
            stop: Arc::clone(&stop),
            reader_description: String::new(),
            cache_bytes: buffers * buffer_bytes,
            threads: Vec::new(),
        };
        let schedule = ScheduleConfig {
            parameters,
            source_symbols: pack.chunks().iter().map(|chunk| parameters.source_symbols(chunk.stored_bytes)).collect(),
            streams: streams.iter().map(|stream| stream.id).collect(),
            rate_cap_bits_per_second: config.rate_cap_bits_per_second,
            rate_floor_bits_per_second: config.rate_floor_bits_per_second,
            frame_overhead_bytes: streams
                .iter()
                .map(|stream| (transmit::frame_bytes(stream.group.ip(), 0) + LINK_OVERHEAD_BYTES) as u32)
                .max()
                .unwrap_or(0),
        };
        let delivery = Delivery::new(DeliveryConfig {
            schedule,
            classes: config.classes,
            stragglers: config.stragglers,
            last_by_unicast: config.last_by_unicast,
        });
        let mut dispatcher = Dispatcher {
            delivery,
            orders: config.orders,
            quorum: Quorum::new(config.once),
            priorities: PriorityBook::new(pack.images().iter().map(|image| image.name.clone()).collect(), config.priorities),
            streams: Vec::new(),
            events,
            notices: notices_out,
            requests,
            suspects,
            progress,
            started: Instant::now(),
            first_group: None,
        };
        let mut routes = Vec::with_capacity(streams.len());
        for (at, transmit) in config.transmitters.into_iter().enumerate() {
            let line = |(position, (stream, state)): (usize, (&Stream, &Arc<StreamState>))| Line {
                position,
                id: stream.id,
                state: Arc::clone(state),
            };
            let lines: Vec<Line> = streams.iter().zip(&engine.states).enumerate().skip(at).step_by(transmitter_count).map(line).collect();
            let (jobs, jobs_out) = bounded(lines.len() * JOBS_AHEAD);
            routes.extend(lines.iter().map(|line| (line.id, jobs.clone())));
            let mut transmitter = Transmitter {
                transmit,
                parameters,
                group: streams.first().map_or(IpAddr::from([0; 4]), |stream| stream.group.ip()),
                lines,
                stop: Arc::clone(&stop),
                spin_below: cores.spin_below(),
            };
            let (alarm, core) = (Alarm(notices.clone()), cores.transmitter(at));
            engine.spawn("transmit", move || {
                cores::pin(core);
                let done = |position| alarm.0.send(Notice::Done(position)).is_ok();
                if let Err(error) = transmitter.run(&jobs_out, done) {
                    let _ = alarm.0.send(Notice::Failed(error));
                }
            })?;
        }
        let slot =
            |(stream, state): (&Stream, &Arc<StreamState>)| StreamSlot { id: stream.id, state: Arc::clone(state), jobs_under_way: 0 };
        dispatcher.streams = streams.iter().zip(&engine.states).map(slot).collect();
        let is_ipv6 = streams.iter().any(|stream| stream.group.is_ipv6());
        let checksums = if is_ipv6 { Checksums::for_ipv6 } else { Checksums::for_ipv4 };
        let mut reader = Reader::open(pack, parameters, pool, checksums, suspects_out, routes)?;
        engine.reader_description = reader.description();
        let (alarm, reader_core) = (Alarm(notices), cores.reader());
        engine.spawn("read", move || {
            cores::pin(reader_core);
            if let Err(error) = reader.run(&requests_out) {
                let _ = alarm.0.send(Notice::Failed(error));
            }
        })?;
        engine.spawn("dispatch", move || {
            let outcome = dispatcher.run();
            stop.store(true, Ordering::Relaxed);
            let _ = ended_in.send(outcome);
        })?;
        Ok(engine)
    }

    fn spawn(&mut self, name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let spawned = std::thread::Builder::new().name(format!("discus-{name}")).spawn(body);
        self.threads.push(spawned.map_err(|source| Error::Thread { name, source })?);
        Ok(())
    }

    /// Memory for chunks. It may be more than was asked for, as each stream needs some, or less, as no more chunks are there.
    pub fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// One line on how the pack is read.
    pub fn reader_description(&self) -> &str {
        &self.reader_description
    }

    /// Figures so far.
    pub fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has left so far, all streams together.
    pub fn sent(&self) -> Sent {
        sum(self.states.iter())
    }

    /// What has left so far by each of the transmitters, in their order.
    pub fn sent_by_transmitter(&self) -> Vec<Sent> {
        (0..self.transmitter_count).map(|at| sum(self.states.iter().skip(at).step_by(self.transmitter_count))).collect()
    }

    /// Whether some stream's link takes no packets at present.
    pub fn is_stalled(&self) -> bool {
        self.states.iter().any(|state| state.stalled.load(Ordering::Relaxed))
    }

    /// The end of the run, when it comes within `limit`; it is told once.
    pub fn wait(&self, limit: Duration) -> Option<Ended> {
        self.ended.recv_timeout(limit).ok()
    }

    /// Asks the engine to end; [`Engine::wait`] tells when it has.
    pub fn stop(&self) {
        let _ = self.notices.send(Notice::Stop);
    }
}

/// What has left on these streams.
fn sum<'a>(streams: impl Iterator<Item = &'a Arc<StreamState>>) -> Sent {
    streams.fold(Sent::default(), |sum, state| Sent {
        packets: sum.packets + state.packets.load(Ordering::Relaxed),
        frame_bytes: sum.frame_bytes + state.frame_bytes.load(Ordering::Relaxed),
    })
}

/// The way to the dispatcher from a thread that it waits for. When that thread panics, the run ends: what is under way there would never be done.
struct Alarm(Sender<Notice>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Notice::Stop);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}
