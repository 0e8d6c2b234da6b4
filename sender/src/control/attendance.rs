//! One attendance: from a receiver's `ready` until its stream ends. Checks what it says, passes it to the engine through the roster,
//! and tells the receiver what it has to know.

mod throttle;
mod told;

use super::connection::Connection;
use super::roster::{Attendance, Begin, Delivery, ENGINE_BUSY_PAUSE, Orders};
use super::session::ChunkSet;
use super::{ControlEvent, Outcome, Profile, Shared, printable};
use crate::schedule::ReceiverId;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use throttle::Throttle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use told::Told;
use tonic::{Status, Streaming};
use wire::proto::v1::{self, receiver_message, sender_message};
use wire::report::ChunkRange;

/// Within which an attendance must have said what it wants, all parts of it.
const OPENING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a receiver may leave a message unread that it must have. Its connection's keep-alive fails sooner when it is dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Outgoing messages of an attendance.
pub(super) type Outbound = mpsc::Sender<Result<v1::SenderMessage, Status>>;

/// Runs an attendance to its end.
pub(super) async fn attend(shared: Arc<Shared>, connection: Arc<Connection>, inbound: Streaming<v1::ReceiverMessage>, outbound: Outbound) {
    let Some((receiver, image, group)) = connection.enrolled() else {
        // Enrolment was checked when the call came; only another enrolment on the same connection can have changed it.
        return;
    };
    let _attending = connection.attending();
    Attend { shared, receiver, image, profile: Profile { group, ..Profile::default() }, inbound, outbound }.run().await;
}

struct Attend {
    shared: Arc<Shared>,
    receiver: ReceiverId,
    image: usize,
    profile: Profile,
    inbound: Streaming<v1::ReceiverMessage>,
    outbound: Outbound,
}

/// How an attendance begins.
enum Opening {
    Ready(ChunkSet),
    Failed(String),
    Refused(String),
    Lost,
}

/// How an attendance ends.
enum End {
    Completed(v1::Complete),
    Failed(String),
    Dismissed(String),
    Lost(String),
    /// Another attendance of the same receiver has taken its place.
    Superseded,
    /// The server or its engine stops.
    Stopped,
}

impl Attend {
    async fn run(mut self) {
        let opening = timeout(OPENING_TIMEOUT, self.opening()).await;
        match opening.unwrap_or_else(|_| Opening::Refused(format!("it was not ready within {} s", OPENING_TIMEOUT.as_secs()))) {
            Opening::Ready(want) if want.run_count() == 0 && self.shared.roster.is_completed(self.receiver) => {
                self.acknowledge_again().await
            }
            Opening::Ready(want) => self.listed(want).await,
            Opening::Failed(reason) => {
                if let Some((attendance, _)) = self.begin().await {
                    self.end(attendance, End::Failed(reason)).await;
                }
            }
            Opening::Refused(reason) => self.send_dismissed(reason).await,
            Opening::Lost => {}
        }
    }

    /// Reads the want set, or that the receiver could not get ready.
    async fn opening(&mut self) -> Opening {
        let mut runs: Vec<ChunkRange> = Vec::new();
        loop {
            let message = match self.inbound.message().await {
                Ok(Some(message)) => message.message,
                Ok(None) | Err(_) => return Opening::Lost,
            };
            let ready = match message {
                Some(receiver_message::Message::Ready(ready)) => ready,
                Some(receiver_message::Message::Failed(failed)) => return Opening::Failed(printable(&failed.reason)),
                _ => return Opening::Refused("the first message must be `ready`".to_owned()),
            };
            if ready.receiver_id != self.receiver.0 {
                return Opening::Refused(format!("this connection is receiver {}, not {}", self.receiver.0, ready.receiver_id));
            }
            match ChunkRange::checked(&ready.want, self.shared.info.parameters.chunk_count) {
                Ok(part) => runs.extend(part),
                Err(error) => return Opening::Refused(error.to_string()),
            }
            let image = &self.shared.images[self.image];
            if runs.len() > image.chunk_count() as usize {
                return Opening::Refused("it wants more runs of chunks than its image has chunks".to_owned());
            }
            if let Some(stray) = runs.iter().find(|run| !image.contains(**run)) {
                return Opening::Refused(format!(
                    "it wants {} chunks from {} on, which are not all of its image",
                    stray.count, stray.first
                ));
            }
            if !ready.more {
                self.profile.restore_bytes_per_second = ready.restore_bytes_per_second;
                self.profile.unicast = ready.unicast;
                return Opening::Ready(ChunkSet::new(runs));
            }
        }
    }

    /// Takes the receiver's place on the list, after ending an attendance of its own that is still there: a connection that broke
    /// at the receiver's end may look alive here for some seconds.
    async fn begin(&self) -> Option<(Attendance, watch::Receiver<Orders>)> {
        loop {
            match self.shared.roster.begin(self.receiver) {
                Begin::Begun(attendance, inbox) => return Some((attendance, inbox)),
                Begin::Occupied(earlier) => {
                    let outcome = Outcome::Lost("it came back over a new connection".to_owned());
                    if !self.deliver(earlier, ControlEvent::Left { receiver: self.receiver, outcome }).await {
                        // Either ended by itself meanwhile, or the engine is gone.
                        if self.shared.is_stopping() {
                            return None;
                        }
                    }
                }
                Begin::Unknown => {
                    self.send_dismissed("its enrolment is no longer known; enrol again".to_owned()).await;
                    return None;
                }
            }
        }
    }

    async fn listed(mut self, want: ChunkSet) {
        let Some((attendance, mut inbox)) = self.begin().await else { return };
        let joined =
            ControlEvent::Joined { receiver: self.receiver, image: self.image, want: want.into_runs(), profile: self.profile.clone() };
        if !self.deliver(attendance, joined).await {
            self.shared.roster.abandon(attendance);
            return;
        }
        let end = match self.send(sender_message::Message::Listed(v1::Listed {})).await {
            true => self.follow(attendance, &mut inbox).await,
            false => End::Lost("it does not read what it is sent".to_owned()),
        };
        self.end(attendance, end).await;
    }

    /// While it is listed.
    async fn follow(&mut self, attendance: Attendance, inbox: &mut watch::Receiver<Orders>) -> End {
        let mut told = Told::default();
        let mut pace = self.shared.pace.subscribe();
        // Announced once whether it has changed since the enrolment or not.
        pace.mark_changed();
        let shared = self.shared.clone();
        let mut stopped = std::pin::pin!(shared.stopped());
        let mut throttle = Throttle::new(Instant::now());
        loop {
            let read_from = throttle.read_from(Instant::now());
            let next = async {
                sleep_until(read_from).await;
                self.inbound.message().await
            };
            let message = tokio::select! {
                biased;
                () = &mut stopped => return End::Stopped,
                changed = inbox.changed() => {
                    if changed.is_err() {
                        return End::Superseded;
                    }
                    let orders = inbox.borrow_and_update().clone();
                    if let Some(reason) = orders.dismiss {
                        return End::Dismissed(reason);
                    }
                    for message in told.news(orders) {
                        if !self.send(message).await {
                            return End::Lost("it does not read what it is sent".to_owned());
                        }
                    }
                    continue;
                }
                Ok(()) = pace.changed() => {
                    let report_interval_us = *pace.borrow_and_update();
                    throttle.set_pace(report_interval_us);
                    if !self.send(sender_message::Message::Pace(v1::Pace { report_interval_us })).await {
                        return End::Lost("it does not read what it is sent".to_owned());
                    }
                    continue;
                }
                message = next => message,
            };
            match message.map(|message| message.map(|message| message.message)) {
                Ok(Some(Some(receiver_message::Message::Report(report)))) => {
                    throttle.note_report(Instant::now());
                    let report = match self.shared.info.checked_report(&report, &self.shared.images[self.image]) {
                        Ok(report) => report,
                        Err(reason) => return End::Dismissed(format!("its report was refused: {reason}")),
                    };
                    if !self.deliver(attendance, ControlEvent::Reported { receiver: self.receiver, report }).await {
                        return if self.shared.is_stopping() { End::Stopped } else { End::Superseded };
                    }
                }
                Ok(Some(Some(receiver_message::Message::Complete(complete)))) => return End::Completed(complete),
                Ok(Some(Some(receiver_message::Message::Failed(failed)))) => return End::Failed(printable(&failed.reason)),
                Ok(Some(Some(receiver_message::Message::Ready(_)))) => {
                    return End::Dismissed("it said `ready` twice in one attendance".to_owned());
                }
                // A message that a later version of the schema knows.
                Ok(Some(None)) => throttle.note_report(Instant::now()),
                Ok(None) => return End::Lost(CONNECTION_ENDED.to_owned()),
                Err(status) => return End::Lost(printable(&lost_reason(&status))),
            }
        }
    }

    async fn end(&self, attendance: Attendance, end: End) {
        let left = |outcome| ControlEvent::Left { receiver: self.receiver, outcome };
        match end {
            End::Completed(complete) => {
                self.shared.roster.note_completion(self.receiver, complete.image_bytes, complete.duration_ms);
                if self.deliver(attendance, left(Outcome::Completed)).await {
                    self.send(sender_message::Message::Acknowledged(v1::Acknowledged {})).await;
                }
            }
            End::Failed(reason) => {
                if self.deliver(attendance, left(Outcome::Failed(reason))).await {
                    self.send(sender_message::Message::Acknowledged(v1::Acknowledged {})).await;
                }
            }
            End::Dismissed(reason) => {
                self.deliver(attendance, left(Outcome::Failed(format!("dismissed: {reason}")))).await;
                self.send_dismissed(reason).await;
            }
            End::Lost(reason) => {
                self.deliver(attendance, left(Outcome::Lost(reason))).await;
            }
            End::Superseded => {}
            End::Stopped => {
                let _ = timeout(SEND_TIMEOUT, self.outbound.send(Err(Status::unavailable("the sender is stopping")))).await;
            }
        }
    }

    /// A receiver whose completion was recorded, but who lost the connection before it heard of that: it hears it now. The engine
    /// knows already.
    async fn acknowledge_again(mut self) {
        if !self.send(sender_message::Message::Listed(v1::Listed {})).await {
            return;
        }
        let complete = async {
            loop {
                match self.inbound.message().await.ok().flatten()?.message {
                    Some(receiver_message::Message::Complete(_) | receiver_message::Message::Failed(_)) => return Some(()),
                    _ => sleep(ENGINE_BUSY_PAUSE).await,
                }
            }
        };
        if let Ok(Some(())) = timeout(OPENING_TIMEOUT, complete).await {
            self.send(sender_message::Message::Acknowledged(v1::Acknowledged {})).await;
        }
    }

    /// Passes an event on, waiting while the engine is behind. False when the attendance is over or the engine is gone.
    async fn deliver(&self, attendance: Attendance, event: ControlEvent) -> bool {
        let mut event = event;
        loop {
            match self.shared.roster.deliver(attendance, event) {
                Delivery::Done => return true,
                Delivery::Stale => return false,
                Delivery::EngineGone => {
                    self.shared.stop();
                    return false;
                }
                Delivery::Busy(same) => event = *same,
            }
            if self.shared.is_stopping() {
                return false;
            }
            sleep(ENGINE_BUSY_PAUSE).await;
        }
    }

    async fn send(&self, message: sender_message::Message) -> bool {
        let message = v1::SenderMessage { message: Some(message) };
        matches!(timeout(SEND_TIMEOUT, self.outbound.send(Ok(message))).await, Ok(Ok(())))
    }

    async fn send_dismissed(&self, reason: String) {
        tracing::warn!(receiver = self.receiver.0, reason, "receiver dismissed");
        self.send(sender_message::Message::Dismissed(v1::Dismissed { reason })).await;
    }
}

/// HTTP/2 ends a stream in the same way when the peer closes it and when the connection's keep-alive fails.
const CONNECTION_ENDED: &str = "its connection ended, or went silent, before it said how it ended";

/// Why a stream broke, in words for the operator: of a broken connection the library says "h2 protocol error".
fn lost_reason(status: &Status) -> String {
    match status.source() {
        Some(_) => CONNECTION_ENDED.to_owned(),
        None => format!("its message cannot be read: {}", status.message()),
    }
}
