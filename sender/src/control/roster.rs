//! The list of receivers: who enrolled for which image, who is listed, and how it ended for each. Every event for the engine passes
//! through here, so that list and events always agree.. What the list holds is in [`rows`].

mod rows;

use super::ControlEvent;
use super::receiver_status::{ReceiverState, RosterSnapshot};
use crate::schedule::{Order, ReceiverId};
use crossbeam_channel::{Sender, TrySendError};
use rows::{Entry, Rows};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use wire::StreamId;
use wire::report::ChunkRange;

pub(super) use rows::Enrolment;

/// Pause before an engine that is behind is offered an event again.
pub(super) const ENGINE_BUSY_PAUSE: Duration = Duration::from_millis(1);

/// What a listed receiver's task is told from outside its connection: the latest word on each matter, so that nothing queues up
/// however often the engine changes its mind.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    /// End the attendance.
    pub(super) dismiss: Option<String>,
    /// The streams to listen to, once that is known.
    pub(super) streams: Option<Vec<StreamId>>,
    /// Chunks to fetch, all that were ever named in this attendance.
    pub(super) unicast: Vec<ChunkRange>,
    /// Chunks to fetch what is lacking of, all that were ever named in this attendance.
    pub(super) rest: Vec<ChunkRange>,
}

/// One attendance; a receiver that comes back gets another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attendance {
    receiver: ReceiverId,
    number: u32,
}

/// What became of an event.
pub(super) enum Delivery {
    /// The engine has it, the list is up to date.
    Done,
    /// The attendance is over, or another has taken its place; nothing was sent.
    Stale,
    /// The engine is behind; try again with this event.
    Busy(Box<ControlEvent>),
    /// The engine is gone.
    EngineGone,
}

/// An enrolment's answer to "may I attend".
pub(super) enum Begin {
    /// Yes; orders for this attendance come here.
    Begun(Attendance, watch::Receiver<Orders>),
    /// An earlier attendance of the same receiver has not ended yet: end it first.
    Occupied(Attendance),
    /// The receiver is not known (its row is gone).
    Unknown,
}

/// The list.
pub(super) struct Roster {
    image_names: Vec<String>,
    /// Bits of a packet's symbol.
    symbol_bits: u64,
    events: Sender<ControlEvent>,
    state: Mutex<Rows>,
}

impl Roster {
    pub(super) fn new(image_names: Vec<String>, symbol_bytes: u16, events: Sender<ControlEvent>) -> Roster {
        Roster { image_names, symbol_bits: u64::from(symbol_bytes) * 8, events, state: Mutex::default() }
    }

    /// Every operation leaves the state whole before it can panic, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a receiver, or finds the row of one that comes back.
    pub(super) fn enrol(&self, enrolment: Enrolment) -> ReceiverId {
        self.lock().enrol(enrolment)
    }

    /// A connection has closed: a receiver that enrolled there and was never listed leaves the list.
    pub(super) fn forget_unlisted(&self, receiver: ReceiverId, connection: u64) {
        self.lock().forget_unlisted(receiver, connection);
    }

    /// Whether the receiver's completion has been recorded already.
    pub(super) fn is_completed(&self, receiver: ReceiverId) -> bool {
        self.lock().row(receiver).is_some_and(|row| row.state == ReceiverState::Completed)
    }

    /// Starts an attendance. It is on the list once its `Joined` event is delivered.
    pub(super) fn begin(&self, receiver: ReceiverId) -> Begin {
        let mut state = self.lock();
        let Some(row) = state.row_mut(receiver) else {
            return Begin::Unknown;
        };
        if let Some((number, _)) = row.attendance {
            return Begin::Occupied(Attendance { receiver, number });
        }
        let (orders, inbox) = watch::channel(Orders::default());
        row.attendances += 1;
        row.attendance = Some((row.attendances, orders));
        Begin::Begun(Attendance { receiver, number: row.attendances }, inbox)
    }

    /// Ends an attendance whose `Joined` was never delivered.
    pub(super) fn abandon(&self, attendance: Attendance) {
        if let Some(row) = self.lock().current(attendance)
            && row.state != ReceiverState::Listed
        {
            row.attendance = None;
        }
    }

    /// Passes an event to the engine and enters it into the list, provided that the attendance is still the receiver's.
    pub(super) fn deliver(&self, attendance: Attendance, event: ControlEvent) -> Delivery {
        let mut state = self.lock();
        if state.current(attendance).is_none() {
            return Delivery::Stale;
        }
        let entry = Entry::of(&event);
        match self.events.try_send(event) {
            Ok(()) => {
                if let Some(entry) = entry {
                    state.enter(attendance.receiver, entry);
                }
            }
            Err(TrySendError::Full(event)) => return Delivery::Busy(Box::new(event)),
            Err(TrySendError::Disconnected(_)) => return Delivery::EngineGone,
        }
        Delivery::Done
    }

    /// Notes what a completion said about itself.
    pub(super) fn note_completion(&self, receiver: ReceiverId, image_bytes: u64, duration_ms: u64) {
        if let Some(row) = self.lock().row_mut(receiver) {
            row.image_bytes = Some(image_bytes);
            row.duration_ms = Some(duration_ms);
        }
    }

    /// Tells a listed receiver's task what to do; false when it is not listed.
    pub(super) fn direct(&self, receiver: ReceiverId, order: Order) -> bool {
        let state = self.lock();
        let Some((_, orders)) = state.row(receiver).and_then(|row| row.attendance.as_ref()) else { return false };
        if orders.is_closed() {
            return false;
        }
        orders.send_modify(|orders| match order {
            Order::Listen(streams) => orders.streams = Some(streams),
            Order::Fetch(chunks) => orders.unicast.extend(chunks),
            Order::FetchRest(chunks) => orders.rest.extend(chunks),
            // The first decides.
            Order::Leave(reason) => _ = orders.dismiss.get_or_insert(reason),
        });
        true
    }

    pub(super) fn snapshot(&self) -> RosterSnapshot {
        RosterSnapshot { receivers: self.lock().statuses(&self.image_names, self.symbol_bits).collect() }
    }
}
