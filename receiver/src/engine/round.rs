//! What the intake thread goes through again and again: verdicts, the sender's words, the report that is due, packets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use wire::report::Report;
use wire::{Micros, StreamId};

use super::collect::Collector;
use super::finish::Verdict;
use super::silence::Silence;
use super::streams::Streams;
use super::{Error, Link, Progress};
use crate::control::{FromSender, ToSender};
use crate::intake::Opened;

/// Longest sleep of the intake thread: how late a control event or a stop is noticed on a silent network.
const IDLE_WAIT: Duration = Duration::from_millis(10);
/// Longest sleep while the finisher has chunks, whose verdicts make reports.
const BUSY_WAIT: Duration = Duration::from_millis(1);
/// Batches of packets between two looks at control events and the clock: at most 64 x 16 packets, 2.5 ms at 0.4 Mpps.
const BATCHES_PER_ROUND: usize = 16;

/// Why the intake ended early.
pub(super) enum End {
    /// The finisher has failed and says why itself.
    FinisherGone,
    Error(Error),
}

/// See the module's text.
pub(super) struct Round<'a> {
    collector: Collector,
    opened: Opened,
    streams: Streams,
    silence: Silence,
    verdicts: Receiver<Verdict>,
    link: &'a dyn Link,
    progress: &'a Progress,
    notices: &'a Sender<String>,
    started: Instant,
}

impl<'a> Round<'a> {
    pub(super) fn new(
        collector: Collector,
        opened: Opened,
        streams: Streams,
        verdicts: Receiver<Verdict>,
        link: &'a dyn Link,
        progress: &'a Progress,
        notices: &'a Sender<String>,
    ) -> Round<'a> {
        let started = Instant::now();
        Round { collector, opened, streams, silence: Silence::new(started), verdicts, link, progress, notices, started }
    }

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
                FromSender::Streams(streams) => self.follow(&streams)?,
                FromSender::Acknowledged | FromSender::TakeByUnicast(_) => {}
            }
        }
    }

    /// Joins the groups of these streams and leaves all others.
    fn follow(&mut self, streams: &[StreamId]) -> Result<(), End> {
        if self.streams.follow(streams) {
            self.opened.follow(&self.streams.groups()).map_err(|error| End::Error(Error::Join(error)))?;
            self.collector.assembler.listen_to(self.streams.followed());
            tracing::debug!("following {} of the session's streams", self.streams.followed().len());
        }
        // From now on something should come.
        self.silence.broken(Instant::now());
        Ok(())
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
                    collector.packet(payload);
                }
            };
            if intake.receive(&mut take).map_err(|error| End::Error(Error::Intake(error)))? == 0 {
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
        if self.streams.followed().is_empty() || !self.silence.is_due(Instant::now()) {
            return;
        }
        // Packets that ended in the filter were heard too.
        let seen = self.opened.filter.counts().seen;
        let Some(silent_for) = self.silence.look(Instant::now(), seen) else { return };
        let again = self.opened.membership.join_again(&self.opened.intake.sockets());
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
        self.opened.intake.wait(timeout).map_err(|error| End::Error(Error::Intake(error)))
    }
}
