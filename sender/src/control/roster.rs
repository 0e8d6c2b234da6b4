//! The list of receivers: who enrolled for which image, who is listed, and how it ended for each. Every event for the engine passes
//! through here, so that list and events always agree.
//!
//! A row stands for one run of a receiver's agent, which names itself with a random number (`instance`): when it comes back after a
//! lost connection it keeps its row and its [`ReceiverId`], while two machines that share a host name stay two rows. A machine
//! that starts anew gets a new row, which replaces its lost or failed ones of the same name, image and address.

use super::rate_meter::RateMeter;
use super::receiver_status::{ReceiverState, ReceiverStatus, RosterSnapshot};
use super::{ControlEvent, Outcome};
use crate::schedule::{Order, ReceiverId};
use crossbeam_channel::{Sender, TrySendError};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use wire::StreamId;
use wire::report::ChunkRange;

/// Rows of ended receivers that are kept; the oldest go first. 10,000 rows of some 300 bytes are 3 MB.
const ENDED_ROWS_MAX: usize = 10_000;
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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<u64, Row>,
    by_instance: HashMap<u64, u64>,
    last_id: u64,
    ended_rows: usize,
}

struct Row {
    instance: u64,
    name: String,
    address: SocketAddr,
    image: usize,
    group: String,
    unicast: bool,
    restore_bytes_per_second: u64,
    received: RateMeter,
    /// The connection that enrolled last.
    connection: u64,
    state: ReceiverState,
    reason: Option<String>,
    attendance: Option<(u32, watch::Sender<Orders>)>,
    attendances: u32,
    chunks_wanted: u32,
    chunks_remaining: u32,
    packets_sent: u64,
    packets_seen: u64,
    backlog_permille: u16,
    image_bytes: Option<u64>,
    duration_ms: Option<u64>,
    enrolled_unix_ms: u64,
    listed_unix_ms: Option<u64>,
    ended_unix_ms: Option<u64>,
}

/// Who asks for what.
pub(super) struct Enrolment {
    pub(super) name: String,
    pub(super) image: usize,
    pub(super) group: String,
    pub(super) instance: u64,
    pub(super) address: SocketAddr,
    pub(super) connection: u64,
}

impl Roster {
    pub(super) fn new(image_names: Vec<String>, symbol_bytes: u16, events: Sender<ControlEvent>) -> Roster {
        Roster { image_names, symbol_bits: u64::from(symbol_bytes) * 8, events, state: Mutex::default() }
    }

    /// Every operation leaves the state whole before it can panic, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a receiver, or finds the row of one that comes back.
    pub(super) fn enrol(&self, enrolment: Enrolment) -> ReceiverId {
        let mut state = self.lock();
        // Instance 0 is a client that does not choose one: each of its enrolments is a new receiver.
        if let Some(&id) = state.by_instance.get(&enrolment.instance)
            && let Some(row) = state.rows.get_mut(&id)
            && row.image == enrolment.image
        {
            row.address = enrolment.address;
            row.group = enrolment.group;
            row.connection = enrolment.connection;
            return ReceiverId(id);
        }
        state.last_id += 1;
        let id = state.last_id;
        if enrolment.instance != 0 {
            state.by_instance.insert(enrolment.instance, id);
        }
        state.rows.insert(id, Row::new(enrolment));
        ReceiverId(id)
    }

    /// A connection has closed: a receiver that enrolled there and was never listed leaves the list.
    pub(super) fn forget_unlisted(&self, receiver: ReceiverId, connection: u64) {
        let mut state = self.lock();
        if state.rows.get(&receiver.0).is_some_and(|row| row.state == ReceiverState::Enrolled && row.connection == connection) {
            state.remove(receiver.0);
        }
    }

    /// Whether the receiver's completion has been recorded already.
    pub(super) fn is_completed(&self, receiver: ReceiverId) -> bool {
        self.lock().rows.get(&receiver.0).is_some_and(|row| row.state == ReceiverState::Completed)
    }

    /// Starts an attendance. It is on the list once its `Joined` event is delivered.
    pub(super) fn begin(&self, receiver: ReceiverId) -> Begin {
        let mut state = self.lock();
        let Some(row) = state.rows.get_mut(&receiver.0) else {
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
        if let Some(row) = self.lock().rows.get_mut(&receiver.0) {
            row.image_bytes = Some(image_bytes);
            row.duration_ms = Some(duration_ms);
        }
    }

    /// Tells a listed receiver's task what to do; false when it is not listed.
    pub(super) fn direct(&self, receiver: ReceiverId, order: Order) -> bool {
        let state = self.lock();
        let Some((_, orders)) = state.rows.get(&receiver.0).and_then(|row| row.attendance.as_ref()) else { return false };
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
        let state = self.lock();
        RosterSnapshot { receivers: state.rows.iter().map(|(&id, row)| row.status(id, &self.image_names, self.symbol_bits)).collect() }
    }
}

/// What an event changes in a row.
enum Entry {
    Joined { chunks_wanted: u32, unicast: bool, restore_bytes_per_second: u64 },
    Reported { chunks_completed: u32, packets_sent: u64, packets_seen: u64, backlog_permille: u16 },
    Left { state: ReceiverState, reason: Option<String> },
}

impl Entry {
    fn of(event: &ControlEvent) -> Option<Entry> {
        Some(match event {
            ControlEvent::Joined { want, profile, .. } => Entry::Joined {
                chunks_wanted: want.iter().fold(0, |sum, run| sum.saturating_add(run.count)),
                unicast: profile.unicast,
                restore_bytes_per_second: profile.restore_bytes_per_second,
            },
            ControlEvent::Reported { report, .. } => Entry::Reported {
                chunks_completed: report.completed.iter().fold(0, |sum, run| sum.saturating_add(run.count)),
                packets_sent: report.packets_sent,
                packets_seen: report.packets_seen,
                backlog_permille: report.backlog_permille,
            },
            ControlEvent::Left { outcome, .. } => match outcome {
                Outcome::Completed => Entry::Left { state: ReceiverState::Completed, reason: None },
                Outcome::Failed(reason) => Entry::Left { state: ReceiverState::Failed, reason: Some(reason.clone()) },
                Outcome::Lost(reason) => Entry::Left { state: ReceiverState::Lost, reason: Some(reason.clone()) },
            },
            ControlEvent::Settings(_) | ControlEvent::Describing { .. } => return None,
        })
    }
}

impl State {
    fn current(&mut self, attendance: Attendance) -> Option<&mut Row> {
        let row = self.rows.get_mut(&attendance.receiver.0)?;
        let number = row.attendance.as_ref().map(|(number, _)| *number);
        (number == Some(attendance.number)).then_some(row)
    }

    fn enter(&mut self, receiver: ReceiverId, entry: Entry) {
        let Some(row) = self.rows.get_mut(&receiver.0) else { return };
        match entry {
            Entry::Joined { chunks_wanted, unicast, restore_bytes_per_second } => {
                row.unicast = unicast;
                row.restore_bytes_per_second = restore_bytes_per_second;
                row.received = RateMeter::new(Instant::now());
                self.ended_rows -= usize::from(row.has_ended());
                row.state = ReceiverState::Listed;
                row.reason = None;
                row.chunks_wanted = chunks_wanted;
                row.chunks_remaining = chunks_wanted;
                row.listed_unix_ms = Some(unix_ms());
                row.ended_unix_ms = None;
                self.drop_predecessors(receiver.0);
            }
            Entry::Reported { chunks_completed, packets_sent, packets_seen, backlog_permille } => {
                row.chunks_remaining = row.chunks_remaining.saturating_sub(chunks_completed);
                row.packets_sent = row.packets_sent.saturating_add(packets_sent);
                row.packets_seen = row.packets_seen.saturating_add(packets_seen);
                row.backlog_permille = backlog_permille;
                row.received.note(Instant::now(), packets_seen);
            }
            Entry::Left { state, reason } => {
                self.ended_rows += usize::from(!row.has_ended());
                row.state = state;
                row.reason = reason;
                row.attendance = None;
                row.ended_unix_ms = Some(unix_ms());
                if state == ReceiverState::Completed {
                    row.chunks_remaining = 0;
                }
                self.drop_oldest_ended();
            }
        }
    }

    /// A machine that starts anew replaces what it left behind.
    fn drop_predecessors(&mut self, id: u64) {
        let Some(row) = self.rows.get(&id) else { return };
        let left_behind = |other: &Row| {
            matches!(other.state, ReceiverState::Lost | ReceiverState::Failed)
                && other.image == row.image
                && other.address.ip() == row.address.ip()
                && other.name == row.name
        };
        let predecessors: Vec<u64> = self.rows.iter().filter(|(_, other)| left_behind(other)).map(|(&id, _)| id).collect();
        predecessors.into_iter().for_each(|id| self.remove(id));
    }

    fn drop_oldest_ended(&mut self) {
        while self.ended_rows > ENDED_ROWS_MAX
            && let Some(oldest) = self.rows.iter().find(|(_, row)| row.has_ended()).map(|(&id, _)| id)
        {
            self.remove(oldest);
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(row) = self.rows.remove(&id) {
            self.ended_rows -= usize::from(row.has_ended());
            if self.by_instance.get(&row.instance) == Some(&id) {
                self.by_instance.remove(&row.instance);
            }
        }
    }
}

impl Row {
    fn new(enrolment: Enrolment) -> Row {
        Row {
            instance: enrolment.instance,
            name: enrolment.name,
            address: enrolment.address,
            image: enrolment.image,
            group: enrolment.group,
            unicast: false,
            restore_bytes_per_second: 0,
            received: RateMeter::new(Instant::now()),
            connection: enrolment.connection,
            state: ReceiverState::Enrolled,
            reason: None,
            attendance: None,
            attendances: 0,
            chunks_wanted: 0,
            chunks_remaining: 0,
            packets_sent: 0,
            packets_seen: 0,
            backlog_permille: 0,
            image_bytes: None,
            duration_ms: None,
            enrolled_unix_ms: unix_ms(),
            listed_unix_ms: None,
            ended_unix_ms: None,
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, ReceiverState::Completed | ReceiverState::Failed | ReceiverState::Lost)
    }

    fn status(&self, id: u64, image_names: &[String], symbol_bits: u64) -> ReceiverStatus {
        let streams = self.attendance.as_ref().and_then(|(_, orders)| orders.borrow().streams.clone());
        let packets_per_second = if self.state == ReceiverState::Listed { self.received.per_second(Instant::now()) } else { 0 };
        // More seen than sent is duplication, or a report that straddles two intervals.
        let lost = self.packets_sent.saturating_sub(self.packets_seen);
        ReceiverStatus {
            receiver_id: id,
            name: self.name.clone(),
            address: self.address,
            image: image_names.get(self.image).cloned().unwrap_or_default(),
            group: self.group.clone(),
            state: self.state,
            reason: self.reason.clone(),
            unicast: self.unicast,
            streams: streams.map(|streams| streams.into_iter().map(|stream| stream.0).collect()),
            restore_bytes_per_second: self.restore_bytes_per_second,
            received_bits_per_second: packets_per_second.saturating_mul(symbol_bits),
            chunks_wanted: self.chunks_wanted,
            chunks_remaining: self.chunks_remaining,
            packets_sent: self.packets_sent,
            packets_seen: self.packets_seen,
            loss: if self.packets_sent == 0 { 0.0 } else { lost as f64 / self.packets_sent as f64 },
            backlog_permille: self.backlog_permille,
            image_bytes: self.image_bytes,
            duration_ms: self.duration_ms,
            attendances: self.attendances,
            enrolled_unix_ms: self.enrolled_unix_ms,
            listed_unix_ms: self.listed_unix_ms,
            ended_unix_ms: self.ended_unix_ms,
        }
    }
}

fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
