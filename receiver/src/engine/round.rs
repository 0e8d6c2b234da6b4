//! What the intake thread goes through again and again: verdicts, the sender's words, the report that is due, packets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use wire::report::{ChunkRange, Report};
use wire::{ChunkId, Micros, StreamId};

use super::collect::{Collector, Supply};
use super::finish::Verdict;
use super::meter::RestoreMeter;
use super::silence::{HOPELESS_AFTER, Silence};
use super::streams::Streams;
use super::unicast::{Unicast, UnicastMode};
use super::{Error, Link, Progress};
use crate::control::{Fetched, FromSender, Profile, ToSender};
use crate::intake::Opened;

/// Longest sleep of the intake thread: how late a control event or a stop is noticed on a silent network.
const IDLE_WAIT: Duration = Duration::from_millis(10);
/// Longest sleep while the finisher has chunks, whose verdicts make reports, or chunks are on their way by unicast.
const BUSY_WAIT: Duration = Duration::from_millis(1);
/// Batches of packets between two looks at control events and the clock: at most 64 x 16 packets, 2.5 ms at 0.4 Mpps.
const BATCHES_PER_ROUND: usize = 16;

/// Chunks by unicast between two looks at packets: 4 MiB, whose copying takes about a millisecond.
const FETCHED_PER_ROUND: usize = 16;
/// Whatever chunks there are.
const ALL_CHUNKS: ChunkRange = ChunkRange { first: ChunkId(0), count: u32::MAX };

/// Why the intake ended early.
pub(super) enum End {
    /// The finisher has failed and says why itself.
    FinisherGone,
    Error(Error),
}

/// See the module's text.
pub(super) struct Round<'a> {
    pub(super) collector: Collector,
    pub(super) opened: Opened,
    pub(super) streams: Streams,
    pub(super) silence: Silence,
    pub(super) unicast: Unicast,
    pub(super) meter: RestoreMeter,
    pub(super) unicast_mode: UnicastMode,
    /// What the sender is told of this receiver; its `unicast` says whether everything is fetched.
    pub(super) profile: Profile,
    /// A chunk that came by unicast and waits for a buffer.
    pub(super) waiting: Option<Fetched>,
    pub(super) verdicts: Receiver<Verdict>,
    pub(super) link: &'a dyn Link,
    pub(super) progress: &'a Progress,
    pub(super) notices: &'a Sender<String>,
    pub(super) started: Instant,
}

impl Round<'_> {
    /// Until all chunks are verified and the sender has been told.
    pub(super) fn run(&mut self, stop: &AtomicBool) -> Result<(), End> {
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
            let fetched = self.take_fetched()?;
            if self.take_packets()? {
                self.silence.broken(Instant::now());
            } else if !fetched {
                self.wait()?;
                self.mind_silence()?;
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
                    self.collector.judge(verdict);
                    match verdict {
                        Verdict::Verified(chunk) => {
                            self.progress.chunks_verified.fetch_add(1, Ordering::Relaxed);
                            let by_unicast = self.unicast.verified(chunk);
                            self.progress.chunks_by_unicast.fetch_add(by_unicast.into(), Ordering::Relaxed);
                        }
                        Verdict::Corrupt(chunk) => {
                            self.unicast.damaged(chunk).map_err(unicast_failed)?;
                            // One of which nothing more comes by multicast.
                            self.unicast.fetch(self.profile.unicast.then_some(chunk));
                        }
                    }
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
                FromSender::NeedReady => self.begin_attendance(),
                FromSender::Pace(interval_us) => self.collector.assembler.set_report_interval(interval_us.into()),
                FromSender::Lost(why) => {
                    let _ = self.notices.send(format!("lost the sender ({why}); taking what still passes and trying to reach it again"));
                }
                FromSender::Dismissed(why) => return Err(End::Error(Error::Dismissed(why))),
                FromSender::Changed(what) => return Err(End::Error(Error::Changed(what))),
                FromSender::GaveUp(why) => return Err(End::Error(Error::SenderLost(why))),
                FromSender::Listed => {
                    self.silence.listen(Instant::now());
                    let how = if self.profile.unicast { ", taking everything by unicast" } else { "" };
                    let _ = self.notices.send(format!("on the sender's list{how}"));
                    if self.profile.unicast {
                        let chunks = self.wanted_of(vec![ALL_CHUNKS]);
                        self.unicast.fetch(chunks);
                    }
                }
                FromSender::Streams(streams) if !self.profile.unicast => self.follow(&streams)?,
                FromSender::TakeByUnicast(chunks) => {
                    let chunks = self.wanted_of(chunks);
                    self.unicast.fetch(chunks);
                }
                FromSender::TakeRest(chunks) => {
                    let chunks = self.wanted_of(chunks);
                    self.unicast.fetch_rest(chunks);
                }
                FromSender::Acknowledged | FromSender::Streams(_) => {}
            }
        }
    }

    /// Tells the sender what is wanted; it knows nothing else, and has forgotten what is to be fetched.
    fn begin_attendance(&mut self) {
        self.unicast.reconnected();
        self.streams.reconnected();
        self.collector.assembler.reconnected();
        self.link.send(ToSender::Ready { want: self.collector.assembler.wanted(), profile: self.profile });
    }

    /// What of `chunks` is wanted.
    fn wanted_of(&self, mut chunks: Vec<ChunkRange>) -> Vec<ChunkId> {
        chunks.sort_unstable_by_key(|run| run.first);
        let named = |chunk: &ChunkId| {
            let after = chunks.partition_point(|run| run.first <= *chunk);
            after.checked_sub(1).is_some_and(|at| chunk.0 - chunks[at].first.0 < chunks[at].count)
        };
        self.collector.assembler.wanted().into_iter().flat_map(ChunkRange::chunks).filter(named).collect()
    }

    /// Takes chunks that came by unicast as far as there are buffers, and asks for more. Whether some came.
    fn take_fetched(&mut self) -> Result<bool, End> {
        let mut any = false;
        for _ in 0..FETCHED_PER_ROUND {
            if self.waiting.is_none() && !self.unicast.is_calling() {
                break;
            }
            let Some(fetched) = self.waiting.take().or_else(|| self.link.fetched()) else { break };
            match &fetched {
                Fetched::Ended { call, outcome } => self.unicast.ended(*call, outcome.clone()).map_err(unicast_failed)?,
                &Fetched::Chunk { chunk, ref stored } => match self.collector.supply(chunk, stored) {
                    Supply::Taken => self.unicast.supplied(chunk),
                    Supply::NotWanted => self.unicast.passed_over(chunk),
                    Supply::WrongLength => self.unicast.damaged(chunk).map_err(unicast_failed)?,
                    Supply::NoRoom => {
                        self.waiting = Some(fetched);
                        break;
                    }
                },
                Fetched::Symbols { chunk, symbols, bytes } => match self.collector.supply_symbols(*chunk, symbols, bytes) {
                    true => self.unicast.supplied(*chunk),
                    false => self.unicast.passed_over(*chunk),
                },
            }
            any = true;
        }
        if any {
            self.note_first_data();
        }
        let assembler = &self.collector.assembler;
        let is_wanted = |chunk| assembler.wants(chunk).is_some();
        if let Some((call, chunks)) = self.unicast.next_call(is_wanted) {
            self.link.send(ToSender::Fetch { call, chunks, symbols: Vec::new() });
        } else if let Some((call, chunks)) = self.unicast.next_rest(is_wanted) {
            let (symbols, whole): (Vec<_>, Vec<_>) =
                chunks.into_iter().map(|chunk| (chunk, assembler.lacking(chunk))).partition(|(_, lacking)| !lacking.is_empty());
            let chunks = ChunkRange::from_sorted(whole.into_iter().map(|(chunk, _)| chunk));
            self.link.send(ToSender::Fetch { call, chunks, symbols });
        }
        Ok(any)
    }

    fn note_first_data(&self) {
        if !self.progress.has_data() && self.collector.has_data() {
            self.progress.note_first_data();
        }
    }

    /// Joins the groups of these streams and leaves all others.
    fn follow(&mut self, streams: &[StreamId]) -> Result<(), End> {
        if self.streams.follow(streams) {
            self.opened.follow(&self.streams.groups()).map_err(|error| End::Error(Error::Join(error)))?;
            self.collector.listen_to(self.streams.followed());
            tracing::debug!("following {} of the session's streams", self.streams.followed().len());
        }
        self.silence.listen(Instant::now());
        Ok(())
    }

    fn report(&mut self, now: Micros) {
        if self.collector.assembler.report_due_at().is_none_or(|due| due > now) {
            return;
        }
        self.publish();
        let backlog = self.collector.backlog_permille();
        self.collector.assembler.set_backlog(backlog);
        if let Some(mut report) = self.collector.assembler.report(now) {
            let written_bytes = self.progress.written_stored_bytes.load(Ordering::Relaxed);
            report.restore_bytes_per_second = self.meter.look(Instant::now(), backlog, written_bytes);
            self.count(&report);
            self.link.send(ToSender::Report(report));
        }
    }

    fn count(&self, report: &Report) {
        self.progress.stream_packets_sent.fetch_add(report.packets_sent, Ordering::Relaxed);
        self.progress.stream_packets_seen.fetch_add(report.packets_seen, Ordering::Relaxed);
    }

    /// Makes this thread's counts visible.
    pub(super) fn publish(&self) {
        let counts = self.opened.filter.counts();
        self.progress.packets_seen.store(counts.seen, Ordering::Relaxed);
        self.progress.packets_accepted.store(counts.accepted, Ordering::Relaxed);
        self.progress.packets_dropped.store(counts.dropped, Ordering::Relaxed);
        self.progress.packets_overrun.store(self.opened.intake.overruns(), Ordering::Relaxed);
        self.collector.publish(self.progress);
    }

    /// Whether there were packets.
    fn take_packets(&mut self) -> Result<bool, End> {
        let (collector, Opened { intake, filter, .. }) = (&mut self.collector, &mut self.opened);
        let mut any = false;
        for _ in 0..BATCHES_PER_ROUND {
            let mut take = |payload: &[u8]| {
                if filter.admits(payload) {
                    collector.packet(payload, filter);
                }
            };
            if intake.receive(&mut take).map_err(|error| End::Error(Error::Intake(error)))? == 0 {
                break;
            }
            any = true;
            if let Some(seen) = collector.take_synced() {
                collector.assembler.note_traffic(seen);
            }
        }
        if any {
            self.note_first_data();
        }
        Ok(any)
    }

    /// Joins the groups again when nothing comes from them: a switch may have missed the first report, or forgotten the membership.
    fn mind_silence(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.streams.followed().is_empty() {
            return Ok(());
        }
        if self.silence.is_hopeless(now) && self.opened.filter.counts().seen == 0 {
            return self.do_without_multicast();
        }
        if !self.silence.is_due(now) {
            return Ok(());
        }
        // Packets that ended in the filter were heard too.
        let seen = self.opened.filter.counts().seen;
        let Some(silent_for) = self.silence.look(now, seen) else { return Ok(()) };
        let again = self.opened.membership.join_again(&self.opened.intake.sockets());
        let outcome =
            again.map_or_else(|error| format!("joining its groups again failed: {error}"), |()| "joined its groups again".to_owned());
        let _ = self.notices.send(format!("nothing heard of the stream for {:.0} s; {outcome}", silent_for.as_secs_f64()));
        Ok(())
    }

    /// Nothing at all came, though the groups were joined again: says so and, where the sender has said that something should come, takes
    /// everything by unicast from now on.
    fn do_without_multicast(&mut self) -> Result<(), End> {
        self.silence.resign();
        let silent = format!("no packet of the streams has come in {} s", HOPELESS_AFTER.as_secs());
        if self.unicast_mode != UnicastMode::Auto || !self.streams.carry_something() {
            let _ = self.notices.send(format!(
                "{silent}: the sender has not begun yet, or no multicast reaches this machine, which can take the image with --unicast always"
            ));
            return Ok(());
        }
        let _ = self.notices.send(format!("{silent}: no multicast reaches this machine; taking everything by unicast"));
        self.profile.unicast = true;
        self.progress.by_unicast.store(true, Ordering::Relaxed);
        self.follow(&[])?;
        self.begin_attendance();
        Ok(())
    }

    fn wait(&mut self) -> Result<(), End> {
        let busy = self.collector.waiting() > 0 || self.unicast.is_calling();
        let limit = if busy { BUSY_WAIT } else { IDLE_WAIT };
        let due = self.collector.assembler.report_due_at().map(|due| Duration::from_micros(due.since(self.now())));
        let timeout = due.map_or(limit, |due| due.min(limit));
        if timeout.is_zero() {
            return Ok(());
        }
        self.opened.intake.wait(timeout).map_err(|error| End::Error(Error::Intake(error)))
    }
}

fn unicast_failed(why: String) -> End {
    End::Error(Error::Unicast(why))
}
