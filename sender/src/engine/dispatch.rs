//! The dispatcher thread: owns the delivery, feeds it what the control plane says, and keeps every stream supplied with a few groups
//! ahead of what is on the wire.

use super::Error;
use super::priorities::PriorityBook;
use super::quorum::{Departure, Quorum, Tally};
use super::reader::Request;
use super::transmitter::StreamState;
use crate::control::{ControlEvent, Outcome};
use crate::schedule::{Delivery, Event, Next, Order, ReceiverId, Totals};
use crossbeam_channel::{Receiver, Sender, select_biased};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wire::{ChunkId, Micros, StreamId};

/// Jobs of a stream between the dispatcher and the wire: one is being sent, one is ready, one is being read. At 5 Gbit/s a full group
/// of 16 chunks lasts 7 ms.
pub(super) const JOBS_AHEAD: usize = 3;
/// How often to look at the clock when nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// What the other threads tell the dispatcher.
pub(super) enum Notice {
    /// The transmitter of the stream at this position has finished a job.
    Done(usize),
    /// A thread cannot go on.
    Failed(Error),
    /// The operator wants to stop.
    Stop,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// `--once`: nobody is left to wait for.
    Served(Tally),
    /// Stopped from outside.
    Stopped,
    /// Something broke.
    Failed(Error),
}

/// Figures of a run, as they were a moment ago.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The delivery's counts.
    pub totals: Totals,
    /// Receivers by standing.
    pub tally: Tally,
    /// Whether sending has begun.
    pub begun: bool,
    /// Time from the first group to now, or to the end.
    pub sending: Duration,
    /// The rate that the streams may use at present, together.
    pub rate_bits_per_second: u64,
    /// Streams that carry something at present.
    pub streams: usize,
    /// The least time between two reports that receivers are to keep.
    pub report_interval_us: u64,
}

/// A stream as the dispatcher sees it.
pub(super) struct StreamSlot {
    pub(super) id: StreamId,
    pub(super) state: Arc<StreamState>,
    pub(super) jobs_under_way: usize,
}

/// The dispatcher, owned by its thread.
pub(super) struct Dispatcher {
    pub(super) delivery: Delivery,
    pub(super) orders: Box<dyn FnMut(ReceiverId, Order) + Send>,
    pub(super) quorum: Quorum,
    pub(super) priorities: PriorityBook,
    pub(super) streams: Vec<StreamSlot>,
    pub(super) events: Receiver<ControlEvent>,
    pub(super) notices: Receiver<Notice>,
    pub(super) requests: Sender<Request>,
    /// To the reader: chunks that did not match their hash at a receiver.
    pub(super) suspects: Sender<ChunkId>,
    pub(super) progress: Arc<Mutex<Progress>>,
    pub(super) started: Instant,
    pub(super) first_group: Option<Instant>,
}

impl Dispatcher {
    /// Works until the run is over.
    pub(super) fn run(&mut self) -> Ended {
        let ended = loop {
            let wait = match self.supply() {
                Ok(wait) => wait,
                Err(ended) => break ended,
            };
            // Until sending begins nobody should wonder why a stream is silent.
            if self.quorum.has_begun() {
                for (receiver, order) in self.delivery.take_orders() {
                    (self.orders)(receiver, order);
                }
            }
            self.publish();
            if let Some(tally) = self.quorum.verdict(self.started.elapsed()) {
                break Ended::Served(tally);
            }
            if let Some(ended) = self.wait(wait) {
                break ended;
            }
        };
        self.publish();
        ended
    }

    /// Fills every stream's queue. Returns how long there is nothing more to do unless something happens.
    fn supply(&mut self) -> Result<Duration, Ended> {
        if !self.quorum.has_begun() {
            return Ok(TICK);
        }
        let mut wait = TICK;
        for slot in &mut self.streams {
            while slot.jobs_under_way < JOBS_AHEAD {
                let now = micros(self.started);
                let request = match self.delivery.next(now, slot.id) {
                    Next::Group(group) => {
                        self.first_group.get_or_insert_with(Instant::now);
                        Request::Group(group)
                    }
                    Next::Sync { sequence } => Request::Sync { stream: slot.id, sequence },
                    Next::Wait { until } => {
                        let until = until.map(|until| Duration::from_micros(until.0.saturating_sub(now.0)));
                        wait = wait.min(until.unwrap_or(TICK));
                        break;
                    }
                };
                // Before it can be sent: at the rate of before, none at the start, what follows would wait for minutes.
                slot.state.rate_bits_per_second.store(self.delivery.rate_bits_per_second(slot.id), Ordering::Relaxed);
                // Never full: the channel holds what all streams may have under way. Closed: the reader says why in a notice.
                if self.requests.send(request).is_err() {
                    return Err(self.reader_gone());
                }
                slot.jobs_under_way += 1;
            }
            slot.state.rate_bits_per_second.store(self.delivery.rate_bits_per_second(slot.id), Ordering::Relaxed);
        }
        Ok(wait)
    }

    /// Waits for something to happen and takes it in, with everything else that has.
    fn wait(&mut self, limit: Duration) -> Option<Ended> {
        select_biased! {
            recv(self.notices) -> notice => {
                // Never disconnected: the engine's handle keeps a sender.
                if let Some(ended) = notice.ok().and_then(|notice| self.noticed(notice)) {
                    return Some(ended);
                }
            }
            recv(self.events) -> event => match event {
                Ok(event) => self.happened(event),
                // The control plane is gone; wait for the stop that follows.
                Err(_) => self.events = crossbeam_channel::never(),
            },
            default(limit) => {}
        }
        while let Ok(notice) = self.notices.try_recv() {
            if let Some(ended) = self.noticed(notice) {
                return Some(ended);
            }
        }
        // Bounded, so that a flood of reports cannot starve the streams.
        for event in self.events.try_iter().take(256).collect::<Vec<_>>() {
            self.happened(event);
        }
        None
    }

    fn noticed(&mut self, notice: Notice) -> Option<Ended> {
        match notice {
            Notice::Done(stream) => {
                if let Some(slot) = self.streams.get_mut(stream) {
                    slot.jobs_under_way = slot.jobs_under_way.saturating_sub(1);
                }
                None
            }
            Notice::Failed(error) => Some(Ended::Failed(error)),
            Notice::Stop => Some(Ended::Stopped),
        }
    }

    fn happened(&mut self, event: ControlEvent) {
        let event = match event {
            ControlEvent::Joined { receiver, image, want, profile } => {
                self.quorum.joined(receiver);
                let priority = self.priorities.joined(receiver, image, profile.group);
                let now = micros(self.started);
                self.delivery.join(now, receiver, &want, profile.restore_bytes_per_second, profile.unicast);
                return self.prioritize(receiver, priority);
            }
            ControlEvent::Settings(settings) => {
                self.delivery.set_rate_cap(micros(self.started), settings.rate_cap_bits_per_second);
                for (receiver, priority) in self.priorities.change(settings.priorities) {
                    self.prioritize(receiver, priority);
                }
                return;
            }
            ControlEvent::Reported { receiver, report } => {
                // What there is no room for is named again when it has come again.
                for &chunk in &report.corrupt {
                    let _ = self.suspects.try_send(chunk);
                }
                Event::Reported { receiver, report }
            }
            ControlEvent::Describing { bits_per_second } => {
                return self.delivery.set_reserved_rate(micros(self.started), bits_per_second);
            }
            ControlEvent::Left { receiver, outcome } => {
                let departure = match outcome {
                    Outcome::Completed => Departure::Completed,
                    Outcome::Failed(_) => Departure::Failed,
                    Outcome::Lost(_) => Departure::Lost,
                };
                self.quorum.left(receiver, departure, self.started.elapsed());
                self.priorities.left(receiver);
                Event::Left { receiver }
            }
        };
        self.delivery.handle(micros(self.started), event);
    }

    fn prioritize(&mut self, receiver: ReceiverId, priority: i16) {
        self.delivery.handle(micros(self.started), Event::Prioritized { receiver, priority });
    }

    fn publish(&self) {
        let progress = Progress {
            totals: self.delivery.totals(),
            tally: self.quorum.tally(),
            begun: self.quorum.has_begun(),
            sending: self.first_group.map_or(Duration::ZERO, |first| first.elapsed()),
            rate_bits_per_second: self.delivery.total_rate_bits_per_second(),
            streams: self.delivery.streams_in_use(),
            report_interval_us: self.delivery.report_interval_us(),
        };
        // Plain values: a thread that panicked while it held the lock left them whole.
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// The reader hangs up only when it has failed, or when a transmitter has.
    fn reader_gone(&mut self) -> Ended {
        while let Ok(notice) = self.notices.recv_timeout(Duration::from_secs(1)) {
            if let Some(ended) = self.noticed(notice) {
                return ended;
            }
        }
        Ended::Stopped
    }
}

fn micros(started: Instant) -> Micros {
    // 580,000 years fit.
    Micros(started.elapsed().as_micros() as u64)
}
