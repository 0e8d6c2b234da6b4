//! The running receiver: packets in, chunks assembled, verified and written, reports out, until the image is whole.
//!
//! ```text
//! intake thread (the caller of `run`)      workers (none on two cores)       writer thread
//! packet -> CRC -> assembler -> buffer  -> decode, BLAKE3, decompress     -> io_uring writes -> finish
//!      ^ verdicts, control events                |
//!      +-----------------------------------------+
//! ```
//!
//! Buffers flow one way and return to their pools; all queues are as long as there are buffers, so nothing ever waits for room.
//! Memory that runs out is a chunk given up, not a thread stopped: the intake never waits for the disk.

mod collect;
mod finish;
mod link;
mod memory;
mod progress;
mod silence;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};
use image::restore::{BufferPool, Present, Target, Writer};
use image::{Codec, Manifest};
use wire::report::{ChunkRange, Report};
use wire::session::SessionParameters;
use wire::{ChunkId, Micros};

use crate::assemble::{AssembleConfig, Assembler};
use crate::control::{FromSender, ToSender};
use crate::intake::{Intake, Membership, Opened, PacketFilter};
use collect::Collector;
use finish::{Assembled, Checker, Feed, Verdict, write_all};
pub use link::Link;
pub use memory::{ASSEMBLY_BUFFERS_MIN, MemoryPlan, TooLittle};
pub use progress::Progress;
use silence::Silence;

/// Writes in flight: enough to keep an NVMe drive busy with 256 KiB each.
const WRITE_DEPTH: u32 = 32;
/// Longest sleep of the intake thread: how late a control event or a stop is noticed on a silent network.
const IDLE_WAIT: Duration = Duration::from_millis(10);
/// Longest sleep while the finisher has chunks, whose verdicts make reports.
const BUSY_WAIT: Duration = Duration::from_millis(1);
/// Batches of packets between two looks at control events and the clock: at most 64 x 16 packets, 2.5 ms at 0.4 Mpps.
const BATCHES_PER_ROUND: usize = 16;

/// Everything that a run needs, prepared so that nothing can fail for a reason that the operator could have known before.
pub struct Setup {
    /// The session.
    pub parameters: SessionParameters,
    /// The image.
    pub manifest: Arc<Manifest>,
    /// Groups joined, filter attached, sockets open.
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
    let Setup { parameters, manifest, opened, target, present, plan, workers, cores, report_interval_us, progress, notices, stop, .. } =
        setup;
    let pool = BufferPool::new(plan.assembly_buffers, plan.assembly_buffer_bytes)?;
    let raw_pool = BufferPool::new(plan.raw_buffers, plan.raw_buffer_bytes)?;
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
        let collector = Collector::new(assembler, plan.assembly_buffers, pool.clone(), opened.filter.want_set(), &parameters, assembled_in);
        collector.want(wanted_ids(), parameters.chunk_count);

        let Opened { intake, filter, membership } = opened;
        let silence = Silence::new(Instant::now());
        let started = Instant::now();
        let mut round =
            Round { collector, intake, filter, membership, silence, verdicts, link, progress: &progress, notices: &notices, started };
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

/// Why the intake ended early.
enum End {
    /// The finisher has failed and says why itself.
    FinisherGone,
    Error(Error),
}

/// What the intake thread goes through again and again.
struct Round<'a> {
    // Dropped in this order: sockets before the filter that feeds them.
    collector: Collector,
    intake: Box<dyn Intake>,
    filter: PacketFilter,
    membership: Membership,
    silence: Silence,
    verdicts: Receiver<Verdict>,
    link: &'a dyn Link,
    progress: &'a Progress,
    notices: &'a Sender<String>,
    started: Instant,
}

impl Round<'_> {
    /// Until all chunks are verified and the sender has been told.
    fn run(&mut self, stop: &AtomicBool) -> Result<(), End> {
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(End::Error(Error::Interrupted));
            }
            self.hear_verdicts()?;
            self.hear_sender()?;
            let now = self.now();
            self.report(now);
            if self.collector.assembler.is_done() && self.collector.assembler.report_due_at().is_none() {
                return Ok(());
            }
            if self.take_packets()? {
                self.silence.broken(Instant::now());
            } else {
                self.wait()?;
                self.mind_silence();
            }
        }
    }

    fn now(&self) -> Micros {
        Micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn hear_verdicts(&mut self) -> Result<(), End> {
        loop {
            match self.verdicts.try_recv() {
                Ok(verdict) => {
                    if let Verdict::Verified(_) = verdict {
                        self.progress.chunks_verified.fetch_add(1, Ordering::Relaxed);
                    }
                    self.collector.judge(verdict);
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(End::FinisherGone),
            }
        }
    }

    fn hear_sender(&mut self) -> Result<(), End> {
        loop {
            let event = match self.link.events().try_recv() {
                Ok(event) => event,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(End::Error(Error::SenderLost("the control thread has ended".to_owned()))),
            };
            match event {
                FromSender::NeedReady => {
                    self.collector.assembler.reconnected();
                    self.link.send(ToSender::Ready { want: self.collector.assembler.wanted() });
                }
                FromSender::Pace(interval_us) => self.collector.assembler.set_report_interval(interval_us.into()),
                FromSender::Lost(why) => {
                    let _ = self.notices.send(format!("lost the sender ({why}); taking what still passes and trying to reach it again"));
                }
                FromSender::Dismissed(why) => return Err(End::Error(Error::Dismissed(why))),
                FromSender::Changed(what) => return Err(End::Error(Error::Changed(what))),
                FromSender::GaveUp(why) => return Err(End::Error(Error::SenderLost(why))),
                FromSender::Listed => {
                    self.silence.listen(Instant::now());
                    let _ = self.notices.send("on the sender's list".to_owned());
                }
                FromSender::Acknowledged | FromSender::Streams(_) | FromSender::TakeByUnicast(_) => {}
            }
        }
    }

    fn report(&mut self, now: Micros) {
        if self.collector.assembler.report_due_at().is_none_or(|due| due > now) {
            return;
        }
        self.publish();
        let backlog = self.collector.backlog_permille();
        self.collector.assembler.set_backlog(backlog);
        if let Some(report) = self.collector.assembler.report(now) {
            self.count(&report);
            self.link.send(ToSender::Report(report));
        }
    }

    fn count(&self, report: &Report) {
        self.progress.stream_packets_sent.fetch_add(report.packets_sent, Ordering::Relaxed);
        self.progress.stream_packets_seen.fetch_add(report.packets_seen, Ordering::Relaxed);
    }

    /// Makes this thread's counts visible.
    fn publish(&self) {
        let counts = self.filter.counts();
        self.progress.packets_seen.store(counts.seen, Ordering::Relaxed);
        self.progress.packets_accepted.store(counts.accepted, Ordering::Relaxed);
        self.progress.packets_dropped.store(counts.dropped, Ordering::Relaxed);
        self.progress.packets_overrun.store(self.intake.overruns(), Ordering::Relaxed);
        self.collector.publish(self.progress);
    }

    /// Whether there were packets.
    fn take_packets(&mut self) -> Result<bool, End> {
        let (collector, filter) = (&mut self.collector, &mut self.filter);
        let mut any = false;
        for _ in 0..BATCHES_PER_ROUND {
            let mut take = |payload: &[u8]| {
                if filter.admits(payload) {
                    collector.packet(payload);
                }
            };
            if self.intake.receive(&mut take).map_err(|error| End::Error(Error::Intake(error)))? == 0 {
                break;
            }
            any = true;
            if collector.take_synced() {
                // Close to the sync, so that the number of packets seen belongs to the stream's position. What was let through counts
                // when it is fetched, as positions do: what waits in a ring is not lost, and what was overrun there never comes, and is.
                let seen = filter.counts().dropped + collector.fetched();
                collector.assembler.note_traffic(seen);
            }
        }
        if any && !self.progress.has_data() && self.collector.has_data() {
            self.progress.note_first_data();
        }
        Ok(any)
    }

    /// Joins the groups again when nothing comes from them: a switch may have missed the first report, or forgotten the membership.
    fn mind_silence(&mut self) {
        if !self.silence.is_due(Instant::now()) {
            return;
        }
        // Packets that ended in the filter were heard too.
        let seen = self.filter.counts().seen;
        let Some(silent_for) = self.silence.look(Instant::now(), seen) else { return };
        let again = self.membership.join_again(self.intake.sockets());
        let outcome =
            again.map_or_else(|error| format!("joining its groups again failed: {error}"), |()| "joined its groups again".to_owned());
        let _ = self.notices.send(format!("nothing heard of the stream for {:.0} s; {outcome}", silent_for.as_secs_f64()));
    }

    fn wait(&mut self) -> Result<(), End> {
        let limit = if self.collector.waiting() > 0 { BUSY_WAIT } else { IDLE_WAIT };
        let due = self.collector.assembler.report_due_at().map(|due| Duration::from_micros(due.since(self.now())));
        let timeout = due.map_or(limit, |due| due.min(limit));
        if timeout.is_zero() {
            return Ok(());
        }
        self.intake.wait(timeout).map_err(|error| End::Error(Error::Intake(error)))
    }
}

/// Waits for the writer, and answers the sender meanwhile: flushing a disk can take longer than a connection lives.
fn await_writer(
    result: &Receiver<image::Result<Option<Vec<String>>>>,
    link: &dyn Link,
    notices: &Sender<String>,
) -> Result<Option<Vec<String>>, Error> {
    let mut events = link.events().clone();
    loop {
        select! {
            recv(result) -> outcome => return match outcome {
                Ok(outcome) => outcome.map_err(Error::Target),
                Err(_) => Err(Error::Panicked("writer")),
            },
            recv(events) -> event => match event {
                Ok(FromSender::NeedReady) => link.send(ToSender::Ready { want: Vec::new() }),
                Ok(FromSender::Lost(why)) => {
                    let _ = notices.send(format!("lost the sender ({why}); all data is here"));
                }
                // Nothing that the sender says now makes the data less whole.
                Ok(_) => {}
                Err(_) => events = crossbeam_channel::never(),
            },
        }
    }
}

/// Tells the sender that the image is whole. Answers whether it has confirmed that.
fn announce(link: &dyn Link, complete: impl Fn() -> ToSender, within: Duration, notices: &Sender<String>) -> bool {
    let deadline = Instant::now() + within;
    link.send(complete());
    loop {
        match link.events().recv_deadline(deadline) {
            Ok(FromSender::Acknowledged) => return true,
            Ok(FromSender::NeedReady) => {
                link.send(ToSender::Ready { want: Vec::new() });
                link.send(complete());
            }
            Ok(FromSender::Lost(why)) => {
                let _ = notices.send(format!("lost the sender ({why}) before it confirmed the completion; trying to reach it again"));
            }
            Ok(FromSender::Dismissed(_) | FromSender::Changed(_) | FromSender::GaveUp(_)) | Err(_) => return false,
            Ok(FromSender::Listed | FromSender::Pace(_) | FromSender::Streams(_) | FromSender::TakeByUnicast(_)) => {}
        }
    }
}

fn core_of(cores: &[usize], thread: usize) -> Option<usize> {
    (!cores.is_empty()).then(|| cores[thread % cores.len()])
}

/// Keeps the calling thread on one core, so that its caches stay warm. Not being allowed to is no reason to stop.
fn pin(core: Option<usize>) {
    if let Some(id) = core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        tracing::warn!("cannot pin a thread to core {id}");
    }
}
