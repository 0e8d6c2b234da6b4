//! What the list holds: a row for each run of a receiver's agent, which names itself with a random number (`instance`). When it comes back
//! after a lost connection it keeps its row and its [`ReceiverId`], while two machines that share a host name stay two rows. A machine
//! that starts anew gets a new row, which replaces its lost or failed ones of the same name, image and address.

use super::{Attendance, Orders};
use crate::control::rate_meter::RateMeter;
use crate::control::receiver_status::{ReceiverState, ReceiverStatus};
use crate::control::{ControlEvent, Outcome};
use crate::schedule::ReceiverId;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Rows of ended receivers that are kept; the oldest go first. 10,000 rows of some 300 bytes are 3 MB.
const ENDED_ROWS_MAX: usize = 10_000;

/// The rows, by the number of their receiver.
#[derive(Default)]
pub(super) struct Rows {
    rows: BTreeMap<u64, Row>,
    by_instance: HashMap<u64, u64>,
    last_id: u64,
    ended_rows: usize,
}

/// One receiver.
pub(super) struct Row {
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
    pub(super) state: ReceiverState,
    reason: Option<String>,
    pub(super) attendance: Option<(u32, watch::Sender<Orders>)>,
    pub(super) attendances: u32,
    chunks_wanted: u32,
    chunks_remaining: u32,
    packets_sent: u64,
    packets_seen: u64,
    backlog_permille: u16,
    pub(super) image_bytes: Option<u64>,
    pub(super) duration_ms: Option<u64>,
    enrolled_unix_ms: u64,
    listed_unix_ms: Option<u64>,
    ended_unix_ms: Option<u64>,
}

/// Who asks for what.
pub(in crate::control) struct Enrolment {
    pub(in crate::control) name: String,
    pub(in crate::control) image: usize,
    pub(in crate::control) group: String,
    pub(in crate::control) instance: u64,
    pub(in crate::control) address: SocketAddr,
    pub(in crate::control) connection: u64,
}

/// What an event changes in a row.
pub(super) enum Entry {
    Joined { chunks_wanted: u32, unicast: bool, restore_bytes_per_second: u64 },
    Reported { chunks_completed: u32, packets_sent: u64, packets_seen: u64, backlog_permille: u16 },
    Left { state: ReceiverState, reason: Option<String> },
}

impl Entry {
    pub(super) fn of(event: &ControlEvent) -> Option<Entry> {
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

impl Rows {
    /// Enters a receiver, or finds the row of one that comes back.
    pub(super) fn enrol(&mut self, enrolment: Enrolment) -> ReceiverId {
        // Instance 0 is a client that does not choose one: each of its enrolments is a new receiver.
        if let Some(&id) = self.by_instance.get(&enrolment.instance)
            && let Some(row) = self.rows.get_mut(&id)
            && row.image == enrolment.image
        {
            row.address = enrolment.address;
            row.group = enrolment.group;
            row.connection = enrolment.connection;
            return ReceiverId(id);
        }
        self.last_id += 1;
        let id = self.last_id;
        if enrolment.instance != 0 {
            self.by_instance.insert(enrolment.instance, id);
        }
        self.rows.insert(id, Row::new(enrolment));
        ReceiverId(id)
    }

    /// Removes a receiver that enrolled last over this connection and was never listed.
    pub(super) fn forget_unlisted(&mut self, receiver: ReceiverId, connection: u64) {
        if self.row(receiver).is_some_and(|row| row.state == ReceiverState::Enrolled && row.connection == connection) {
            self.remove(receiver.0);
        }
    }

    pub(super) fn row(&self, receiver: ReceiverId) -> Option<&Row> {
        self.rows.get(&receiver.0)
    }

    pub(super) fn row_mut(&mut self, receiver: ReceiverId) -> Option<&mut Row> {
        self.rows.get_mut(&receiver.0)
    }

    pub(super) fn statuses(&self, image_names: &[String], symbol_bits: u64) -> impl Iterator<Item = ReceiverStatus> {
        self.rows.iter().map(move |(&id, row)| row.status(id, image_names, symbol_bits))
    }

    /// The row whose attendance this still is.
    pub(super) fn current(&mut self, attendance: Attendance) -> Option<&mut Row> {
        let row = self.rows.get_mut(&attendance.receiver.0)?;
        let number = row.attendance.as_ref().map(|(number, _)| *number);
        (number == Some(attendance.number)).then_some(row)
    }

    /// Notes what an event says.
    pub(super) fn enter(&mut self, receiver: ReceiverId, entry: Entry) {
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
