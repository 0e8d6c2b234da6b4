//! The running receiver: packets in, chunks assembled, verified and written, reports out, until the image is whole.
//!
//! ```text
//! intake thread (the caller of `run`)      workers (none on two cores)       writer thread
//! packet -> CRC -> assembler -> buffer  -> decode, BLAKE3, decompress     -> io_uring writes -> finish
//!      ^ verdicts, control events                |
//!      +-----------------------------------------+
//! ```
//!
//! Without workers the intake hashes chunks while they come, and the writer's thread does the rest of their work.
//!
//! Buffers flow one way and return to their pools; all queues are as long as there are buffers, so nothing ever waits for room.
//! Memory that runs out is a chunk given up, not a thread stopped: the intake never waits for the disk.

mod closing;
mod collect;
mod finish;
mod link;
mod memory;
mod meter;
mod progress;
mod round;
mod silence;
mod streams;
mod tally;
mod threads;
mod unicast;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use image::restore::{BufferPool, Present, Target, Writer};
use image::{Codec, Manifest};
use wire::ChunkId;
use wire::report::ChunkRange;
use wire::session::SessionParameters;

use crate::assemble::{AssembleConfig, Assembler};
use crate::control::{Profile, StreamInfo, ToSender};
use crate::intake::{self, Opened};
use closing::{announce, await_writer};
use collect::Collector;
use finish::{Assembled, Checker, Feed, Verdict, write_all};
pub use link::Link;
pub use memory::{ASSEMBLY_BUFFERS_MIN, MemoryPlan, TooLittle};
use meter::RestoreMeter;
pub use progress::Progress;
use round::{End, Round};
use silence::Silence;
use streams::Streams;
use threads::{core_of, pin};
use unicast::Unicast;
pub use unicast::UnicastMode;

/// Writes in flight: enough to keep an NVMe drive busy with 256 KiB each.
const WRITE_DEPTH: u32 = 32;

/// Everything that a run needs, prepared so that nothing can fail for a reason that the operator could have known before.
pub struct Setup {
    /// The session.
    pub parameters: SessionParameters,
    /// The image.
    pub manifest: Arc<Manifest>,
    /// Its streams.
    pub streams: Vec<StreamInfo>,
    /// The first stream's group joined, filter attached, sockets open; or [`Opened::nothing`].
    pub opened: Opened,
    /// Open and not yet written to.
    pub target: Target,
    /// The chunks that it holds already: they are not wanted.
    pub present: Present,
    /// What memory buys.
    pub plan: MemoryPlan,
    /// Threads that decode, hash and decompress beside the writer's; 0: the writer's thread does it.
    pub workers: usize,
    /// Cores to pin threads to: intake, writer, workers, in turn. Empty: not pinned.
    pub cores: Vec<usize>,
    /// When to take everything by unicast.
    pub unicast: UnicastMode,
    /// What this machine restores, in bytes of stored chunks a second; 0 when it is not known.
    pub restore_bytes_per_second: u64,
    /// That is what the operator says, and not what a short test found.
    pub restore_rate_is_known: bool,
    /// Least time between reports.
    pub report_interval_us: u32,
    /// How long to wait for the sender to acknowledge the completion.
    pub acknowledge_within: Duration,
    /// Filled in as the run goes.
    pub progress: Arc<Progress>,
    /// Lines for the operator.
    pub notices: Sender<String>,
    /// Set to stop.
    pub stop: Arc<AtomicBool>,
}

/// Why an image is not whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target cannot be written.
    #[error(transparent)]
    Target(#[from] image::Error),
    /// The interface can no longer be read.
    #[error("receiving: {0}")]
    Intake(#[source] io::Error),
    /// The group of a stream cannot be joined.
    #[error(transparent)]
    Join(#[from] intake::Error),
    /// The sender cannot give chunks that multicast does not bring.
    #[error("the sender was asked for chunks by unicast: {0}")]
    Unicast(String),
    /// The sender went away for good.
    #[error("the sender is lost: {0}")]
    SenderLost(String),
    /// The sender does not want this receiver.
    #[error("dismissed by the sender: {0}")]
    Dismissed(String),
    /// The sender serves something else now.
    #[error("{0}")]
    Changed(String),
    /// Somebody set `stop`.
    #[error("interrupted")]
    Interrupted,
    /// A thread panicked.
    #[error("internal error: the {0} thread panicked")]
    Panicked(&'static str),
}

/// An image that is whole on its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Whether the sender has confirmed that it knows.
    pub acknowledged: bool,
}

/// Raw bytes of the image's chunks: what progress is measured by.
pub fn total_bytes(manifest: &Manifest) -> u64 {
    manifest.chunks.iter().map(|chunk| u64::from(chunk.raw_bytes)).sum()
}

/// Whether some chunk has to be decompressed.
pub fn is_compressed(manifest: &Manifest) -> bool {
    manifest.chunks.iter().any(|chunk| chunk.codec != Codec::None)
}

/// Receives the image on the calling thread until it is whole on the target and the sender knows, or cannot be.
///
/// # Errors
/// [`Error`]; the sender has been told why as far as it can be reached, and the target does not look whole.
pub fn run(setup: Setup, link: &dyn Link) -> Result<Finished, Error> {
    let progress = Arc::clone(&setup.progress);
    let notices = setup.notices.clone();
    let acknowledge_within = setup.acknowledge_within;
    let image_bytes = setup.manifest.logical_bytes();
    if let Err(error) = receive(setup, link) {
        match &error {
            Error::SenderLost(_) | Error::Dismissed(_) | Error::Changed(_) => {}
            Error::Interrupted => link.send(ToSender::Failed("interrupted at the receiver".to_owned())),
            _ => link.send(ToSender::Failed(error.to_string())),
        }
        return Err(error);
    }
    progress.note_finished();
    let duration_ms = u64::try_from(progress.elapsed().as_millis()).unwrap_or(u64::MAX);
    let complete = || ToSender::Complete { image_bytes, duration_ms };
    Ok(Finished { acknowledged: announce(link, complete, acknowledge_within, &notices) })
}

/// Receives and writes all chunks and finishes the target.
fn receive(setup: Setup, link: &dyn Link) -> Result<(), Error> {
    let Setup { parameters, manifest, streams, opened, target, present, plan, workers, cores, .. } = setup;
    let Setup {
        report_interval_us, progress, notices, stop, unicast: unicast_mode, restore_bytes_per_second, restore_rate_is_known, ..
    } = setup;
    let pool = BufferPool::new(plan.assembly_buffers, plan.assembly_buffer_bytes)?;
    let raw_pool = BufferPool::new(plan.raw_buffers, plan.raw_buffer_bytes)?;
    // A page that is cleared while packets come is packets lost: on two busy cores 5 to 10 % of them.
    pool.populate();
    raw_pool.populate();
    let pools: &[&BufferPool] = if plan.raw_buffers > 0 { &[&pool, &raw_pool] } else { &[&pool] };
    let writer = Writer::new(target, &manifest, pools, WRITE_DEPTH)?;
    for note in writer.notes() {
        let _ = notices.send(note);
    }

    let (assembled_in, assembled) = bounded::<Assembled>(plan.assembly_buffers);
    let (verdicts_in, verdicts) = bounded::<Verdict>(plan.assembly_buffers + plan.raw_buffers);
    let (result_in, result) = bounded(1);
    let all_verified = AtomicBool::new(false);
    let checker = |verdicts: &Sender<Verdict>| {
        Checker::new(Arc::clone(&manifest), parameters.symbol_bytes, raw_pool.clone(), verdicts.clone(), Arc::clone(&progress))
    };

    thread::scope(|scope| {
        let spawn_failed = |source| Error::Intake(io::Error::new(io::ErrorKind::OutOfMemory, format!("starting a thread: {source}")));
        let feed = if workers == 0 {
            Feed::Assembled(assembled, Box::new(checker(&verdicts_in)))
        } else {
            let (raws_in, raws) = bounded(plan.assembly_buffers + plan.raw_buffers);
            for worker in 0..workers {
                let (checker, assembled, raws_in) = (checker(&verdicts_in), assembled.clone(), raws_in.clone());
                let core = core_of(&cores, 2 + worker);
                thread::Builder::new()
                    .name(format!("worker-{worker}"))
                    .spawn_scoped(scope, move || {
                        pin(core);
                        checker.work(&assembled, &raws_in);
                    })
                    .map_err(spawn_failed)?;
            }
            drop(assembled);
            Feed::Raw(raws)
        };
        // From here on the channel of verdicts closes when the last thread that judges is gone.
        drop(verdicts_in);
        let (writer_progress, writer_manifest, complete) = (&progress, &manifest, &all_verified);
        let writer_core = core_of(&cores, 1);
        thread::Builder::new()
            .name("writer".to_owned())
            .spawn_scoped(scope, move || {
                pin(writer_core);
                let complete = || complete.load(Ordering::Acquire);
                let _ = result_in.send(write_all(writer, feed, writer_progress, writer_manifest, complete));
            })
            .map_err(spawn_failed)?;

        pin(core_of(&cores, 0));
        threads::go_first();
        let wanted_ids = || present.missing(&manifest).map(|id| ChunkId(id.0));
        let mut assembler = Assembler::new(AssembleConfig {
            parameters,
            chunks: manifest.chunks.iter().map(|chunk| (ChunkId(chunk.id.0), chunk.stored_bytes)).collect(),
            wanted: ChunkRange::from_sorted(wanted_ids()),
            entries: plan.assembly_buffers,
        });
        assembler.set_report_interval(report_interval_us.into());
        // Any number will do that other receivers hardly have too: the standard library's seed for its hash maps is random.
        assembler.spread_reports(RandomState::new().build_hasher().finish());
        let profile = Profile { restore_bytes_per_second, unicast: unicast_mode == UnicastMode::Always };
        progress.by_unicast.store(profile.unicast, Ordering::Relaxed);
        let streams = Streams::new(if profile.unicast { Vec::new() } else { streams });
        assembler.listen_to(streams.followed());
        // Where there are cores for workers these hash too, so that a fast stream has the intake's core for itself.
        let hashes = workers == 0;
        let wants = opened.filter.want_set();
        let collector = Collector::new(assembler, plan.assembly_buffers, hashes, pool.clone(), wants, &parameters, assembled_in);
        collector.want(wanted_ids(), parameters.chunk_count);

        let started = Instant::now();
        let mut round = Round {
            collector,
            opened,
            streams,
            silence: Silence::new(started),
            unicast: Unicast::default(),
            meter: RestoreMeter::knowing(if restore_rate_is_known { restore_bytes_per_second } else { 0 }),
            unicast_mode,
            profile,
            waiting: None,
            verdicts,
            link,
            progress: &progress,
            notices: &notices,
            started,
        };
        let end = round.run(&stop);
        round.publish();
        // Sockets, then filter, then groups; and with the collector the channel to the finisher, which ends.
        all_verified.store(end.is_ok(), Ordering::Release);
        drop(round);
        if end.is_ok() {
            progress.note_last_data();
        }
        let written = await_writer(&result, link, &notices);
        match (end, written) {
            // The finisher's error is the cause, whatever the intake saw of it.
            (_, Err(error)) => Err(error),
            (Err(End::FinisherGone), Ok(_)) => Err(Error::Panicked("worker")),
            (Err(End::Error(error)), Ok(_)) => Err(error),
            (Ok(()), Ok(notes)) => {
                for note in notes.into_iter().flatten() {
                    let _ = notices.send(note);
                }
                Ok(())
            }
        }
    })
}
