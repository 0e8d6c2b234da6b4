//! The thread that keeps the connection: attends, reconnects, and repeats what must not get lost.

use super::backoff::Backoff;
use super::connect::{AttemptError, Connection, Connector};
use super::error::ControlError;
use super::fetch::{self, CHUNKS_AHEAD, Call};
use super::{ConnectOptions, Enrolled, Fetched, FromSender, Profile, ToSender};
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use wire::StreamId;
use wire::proto::v1::{self, receiver_message, sender_message};
use wire::report::{ChunkRange, RANGES_PER_REPORT_MAX};

/// Messages that wait for the network. A connection on which that many have gathered is as good as lost: at a report every 10 ms
/// its keep-alive has failed long before. A want set has one message per 16,384 runs.
const OUTBOUND_MESSAGES_MAX: usize = 4096;
/// Within which an attendance must be answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What closing may cost: to pass on what was said last.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);
/// An attempt may take at least this long, however little of the time to give up is left.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);

/// Connects to the sender, enrols for the image and fetches its manifest, trying again until
/// [`give_up_after`](ConnectOptions::give_up_after) while nobody answers. Blocks until then.
///
/// # Errors
/// [`ControlError`]: at once when trying again would not help (another certificate, unknown image).
pub fn enrol(options: &ConnectOptions) -> Result<(Enrolled, ControlLink), ControlError> {
    let connector = Connector::new(options)?;
    let (give_up_after, interface_index) = (options.give_up_after, options.interface_index);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ControlError::Thread)?;
    let (commands, inbox) = mpsc::unbounded_channel();
    let (events_in, events) = crossbeam_channel::unbounded();
    let (fetched_in, fetched) = mpsc::channel(CHUNKS_AHEAD);
    let (answer, answered) = crossbeam_channel::bounded(1);
    let run = move || {
        runtime.block_on(async {
            let backoff = Backoff::default();
            let mut worker =
                Worker { connector, interface_index, give_up_after, backoff, inbox, events: events_in, fetched: fetched_in, finale: None };
            match worker.enrol().await {
                Ok(connection) => {
                    if answer.send(Ok(connection.enrolled.clone())).is_ok() {
                        worker.run(connection).await;
                    }
                }
                // Nobody to tell when `enrol` itself is gone.
                Err(error) => drop(answer.send(Err(error))),
            }
        });
        // Without waiting for a name lookup that hangs.
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new().name("control".to_owned()).spawn(run).map_err(ControlError::Thread)?;
    let link = ControlLink { commands, events, fetched: Mutex::new(fetched), thread: Some(thread) };
    match answered.recv() {
        Ok(enrolled) => Ok((enrolled?, link)),
        Err(_) => Err(ControlError::Thread(std::io::Error::other("it ended early"))),
    }
}

/// The kept connection. Dropping it is closing it.
pub struct ControlLink {
    commands: mpsc::UnboundedSender<ToSender>,
    events: crossbeam_channel::Receiver<FromSender>,
    fetched: Mutex<mpsc::Receiver<Fetched>>,
    thread: Option<JoinHandle<()>>,
}

impl ControlLink {
    /// Sends, now or when there is a connection; see [`ToSender`] for what is kept. Never blocks.
    pub fn send(&self, message: ToSender) {
        // The thread is gone after the last event; there is nobody to tell then.
        let _ = self.commands.send(message);
    }

    /// What comes from the sender. Disconnected after the last event.
    pub fn events(&self) -> &crossbeam_channel::Receiver<FromSender> {
        &self.events
    }

    /// What has come of the calls to fetch chunks, if something has. Never blocks; while nobody takes it, nothing more is fetched.
    pub fn fetched(&self) -> Option<Fetched> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).try_recv().ok()
    }

    /// Passes on what was said last, for two seconds at most, and ends the connection.
    pub fn close(self) {}
}

impl Drop for ControlLink {
    fn drop(&mut self) {
        // The thread ends when there is nobody left to command it.
        self.commands = mpsc::unbounded_channel().0;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed; there is nothing to add.
            let _ = thread.join();
        }
    }
}

struct Worker {
    connector: Connector,
    interface_index: Option<u32>,
    give_up_after: Duration,
    /// Starts anew each time this receiver is listed.
    backoff: Backoff,
    inbox: mpsc::UnboundedReceiver<ToSender>,
    events: crossbeam_channel::Sender<FromSender>,
    fetched: mpsc::Sender<Fetched>,
    /// Completion or failure, until it is acknowledged.
    finale: Option<receiver_message::Message>,
}

/// How the use of a connection ended.
enum End {
    /// The link's owner is gone, or the last event has been sent.
    Over,
    Lost(String),
}

/// What an attendance begins with.
struct Opening {
    want: Vec<ChunkRange>,
    profile: Profile,
}

/// What an attendance was for, or how it ended.
enum Attended {
    End(End),
    /// The owner answered a later `NeedReady`: what it says now counts.
    Anew(Opening),
}

impl Worker {
    /// The first enrolment, with the manifest.
    async fn enrol(&mut self) -> Result<Connection, ControlError> {
        let since = Instant::now();
        loop {
            let attempt = async {
                let mut connection = self.connector.connect().await?;
                self.connector.fetch_manifest(&mut connection, self.interface_index).await?;
                Ok(connection)
            };
            match attempt.await {
                Ok(connection) => return Ok(connection),
                Err(error) => self.pause(since, error).await?,
            }
        }
    }

    async fn run(&mut self, connection: Connection) {
        let first = connection.enrolled.clone();
        let mut connection = Some(connection);
        let mut lost_since = None;
        while let Some(enrolled) = connection.take() {
            // What was said before this moment was said to nobody.
            while let Ok(message) = self.inbox.try_recv() {
                self.keep_finale(message);
            }
            self.tell(FromSender::NeedReady);
            let reason = match self.attend(enrolled, &mut lost_since).await {
                End::Over => return,
                End::Lost(reason) => reason,
            };
            tracing::warn!(server = %self.connector.server, reason, "connection to the sender lost");
            self.tell(FromSender::Lost(reason));
            let since = *lost_since.get_or_insert_with(Instant::now);
            connection = match self.reconnect(since, &first).await {
                Ok(connection) => connection,
                Err(error) => {
                    self.tell(match error {
                        ControlError::Changed { .. } => FromSender::Changed(error.to_string()),
                        _ => FromSender::GaveUp(error.to_string()),
                    });
                    None
                }
            };
        }
    }

    /// Tries to connect until the time is over; `None` when the link's owner is gone meanwhile.
    async fn reconnect(&mut self, since: Instant, first: &Enrolled) -> Result<Option<Connection>, ControlError> {
        // All receivers of a sender lose it at the same moment.
        let spread = self.backoff.pause();
        tokio::select! {
            () = sleep(spread) => {}
            () = closed(&mut self.inbox, &mut self.finale) => return Ok(None),
        }
        loop {
            // The server may be gone for good: an attempt does not outlast the time to give up by much.
            let deadline = (since + self.give_up_after).max(Instant::now() + ATTEMPT_MIN);
            let attempt = timeout_at(deadline, self.connector.connect());
            let outcome = tokio::select! {
                outcome = attempt => outcome.unwrap_or_else(|_| Err(AttemptError::Passing("no answer".to_owned()))),
                () = closed(&mut self.inbox, &mut self.finale) => return Ok(None),
            };
            let error = match outcome {
                Ok(connection) => match changed(first, &connection.enrolled) {
                    None => return Ok(Some(connection)),
                    Some(what) => return Err(ControlError::Changed { server: self.connector.server.clone(), what }),
                },
                Err(error) => error,
            };
            let pause = pause(&mut self.backoff, &self.connector, since, self.give_up_after, error);
            tokio::select! {
                paused = pause => paused?,
                () = closed(&mut self.inbox, &mut self.finale) => return Ok(None),
            }
        }
    }

    async fn pause(&mut self, since: Instant, error: AttemptError) -> Result<(), ControlError> {
        pause(&mut self.backoff, &self.connector, since, self.give_up_after, error).await
    }

    /// Uses a connection until it ends.
    async fn attend(&mut self, mut connection: Connection, lost_since: &mut Option<Instant>) -> End {
        let mut opening = loop {
            // There is nothing to be ready for.
            if let Some(receiver_message::Message::Failed(_)) = self.finale {
                break None;
            }
            match self.inbox.recv().await {
                None => return End::Over,
                Some(ToSender::Ready { want, profile }) => break Some(Opening { want, profile }),
                Some(message) => self.keep_finale(message),
            }
        };
        loop {
            match self.attend_once(&mut connection, opening, lost_since).await {
                Attended::End(end) => return end,
                Attended::Anew(again) => opening = Some(again),
            }
        }
    }

    /// One call of `Attend`: says what is wanted, then passes messages both ways.
    async fn attend_once(&mut self, connection: &mut Connection, opening: Option<Opening>, lost_since: &mut Option<Instant>) -> Attended {
        let lost = |reason: &str| Attended::End(End::Lost(reason.to_owned()));
        let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES_MAX);
        let opening = opening.into_iter().flat_map(|opening| ready_messages(connection.receiver_id, &opening)).chain(self.finale.clone());
        for message in opening {
            if outbound.try_send(v1::ReceiverMessage { message: Some(message) }).is_err() {
                return lost("the want set is too large to be sent");
            }
        }
        let mut outbound = Some(outbound);
        let (calls_in, calls) = mpsc::unbounded_channel();
        let chunk_bytes_max = connection.enrolled.parameters.chunk_bytes_max;
        let fetches = fetch::serve(connection.client.clone(), connection.receiver_id, chunk_bytes_max, calls, self.fetched.clone());
        let mut fetches = std::pin::pin!(fetches);
        let mut call = std::pin::pin!(timeout(ANSWER_TIMEOUT, connection.client.attend(ReceiverStream::new(messages))));
        let mut inbound: Option<Streaming<v1::SenderMessage>> = None;
        let mut closing = std::pin::pin!(sleep(Duration::MAX));
        loop {
            tokio::select! {
                answer = &mut call, if inbound.is_none() => match answer {
                    Ok(Ok(answer)) => inbound = Some(answer.into_inner()),
                    Ok(Err(status)) => return lost(&lost_reason(&status)),
                    Err(_) => return lost("it does not answer"),
                },
                message = next(&mut inbound) => match message {
                    Ok(Some(message)) => {
                        if let Some(end) = self.on_sender_message(message, lost_since) {
                            return Attended::End(end);
                        }
                    }
                    Ok(None) => return lost("it ended the connection"),
                    Err(status) => return lost(&lost_reason(&status)),
                },
                message = self.inbox.recv(), if outbound.is_some() => {
                    let message = match message {
                        // Half-closes the stream behind what was said last, then waits for the sender to end it.
                        None => {
                            outbound = None;
                            closing.as_mut().reset(Instant::now() + CLOSING_TIMEOUT);
                            continue;
                        }
                        Some(ToSender::Ready { want, profile }) => return Attended::Anew(Opening { want, profile }),
                        Some(ToSender::Fetch { call, chunks, symbols }) => {
                            // Its other end is `fetches`, which lives as long.
                            let _ = calls_in.send(Call { number: call, chunks, symbols });
                            continue;
                        }
                        Some(ToSender::Report(report)) => receiver_message::Message::Report(v1::Report::from(&report)),
                        Some(message) => {
                            self.keep_finale(message);
                            match self.finale.clone() {
                                Some(finale) => finale,
                                None => continue,
                            }
                        }
                    };
                    let message = v1::ReceiverMessage { message: Some(message) };
                    if outbound.as_ref().is_some_and(|outbound| outbound.try_send(message).is_err()) {
                        return lost("it takes no more messages");
                    }
                }
                reason = &mut fetches => return lost(&reason),
                () = &mut closing => return Attended::End(End::Over),
            }
        }
    }

    /// Passes on what the sender said; the end, when it was the last word.
    fn on_sender_message(&mut self, message: v1::SenderMessage, lost_since: &mut Option<Instant>) -> Option<End> {
        match message.message {
            Some(sender_message::Message::Listed(_)) => {
                *lost_since = None;
                self.backoff = Backoff::default();
                self.tell(FromSender::Listed);
            }
            Some(sender_message::Message::Pace(pace)) => self.tell(FromSender::Pace(pace.report_interval_us)),
            Some(sender_message::Message::Acknowledged(_)) => {
                self.tell(FromSender::Acknowledged);
                return Some(End::Over);
            }
            Some(sender_message::Message::Dismissed(dismissed)) => {
                self.tell(FromSender::Dismissed(dismissed.reason));
                return Some(End::Over);
            }
            Some(sender_message::Message::Streams(streams)) => {
                let known = |&stream: &u32| u16::try_from(stream).ok().map(StreamId);
                self.tell(FromSender::Streams(streams.stream.iter().filter_map(known).collect()));
            }
            Some(sender_message::Message::TakeRest(take)) => {
                self.tell(FromSender::TakeRest(ChunkRange::checked(&take.chunks, u32::MAX).unwrap_or_default()));
            }
            Some(sender_message::Message::TakeByUnicast(take)) => {
                // What of it is wanted is the engine's to say.
                self.tell(FromSender::TakeByUnicast(ChunkRange::checked(&take.chunks, u32::MAX).unwrap_or_default()));
            }
            // A message that a later version of the schema knows.
            None => {}
        }
        None
    }

    fn keep_finale(&mut self, message: ToSender) {
        if let Some(finale) = finale_of(message) {
            self.finale = Some(finale);
        }
    }

    fn tell(&self, event: FromSender) {
        // Nobody listens any more when the link is being dropped.
        let _ = self.events.send(event);
    }
}

/// Takes what the owner says while there is no connection; ready when the owner is gone.
async fn closed(inbox: &mut mpsc::UnboundedReceiver<ToSender>, finale: &mut Option<receiver_message::Message>) {
    while let Some(message) = inbox.recv().await {
        if let Some(message) = finale_of(message) {
            *finale = Some(message);
        }
    }
}

/// Waits before the next attempt.
///
/// # Errors
/// When it would not help, or the time is over.
async fn pause(
    backoff: &mut Backoff,
    connector: &Connector,
    since: Instant,
    give_up_after: Duration,
    error: AttemptError,
) -> Result<(), ControlError> {
    let reason = match error {
        AttemptError::Final(error) => return Err(error),
        AttemptError::Passing(reason) => reason,
    };
    let left = give_up_after.saturating_sub(since.elapsed());
    if left.is_zero() {
        let server = connector.server.clone();
        return Err(ControlError::Unreachable { server, seconds: give_up_after.as_secs(), last: reason });
    }
    tracing::warn!(server = %connector.server, reason, "the sender cannot be reached; trying again for {} s", left.as_secs());
    sleep(backoff.pause().min(left)).await;
    Ok(())
}

async fn next(inbound: &mut Option<Streaming<v1::SenderMessage>>) -> Result<Option<v1::SenderMessage>, Status> {
    match inbound {
        Some(inbound) => inbound.message().await,
        None => std::future::pending().await,
    }
}

/// What of a session must not change while a receiver takes it.
fn changed(first: &Enrolled, now: &Enrolled) -> Option<&'static str> {
    if first.pack_root != now.pack_root {
        Some("another pack")
    } else if first.parameters != now.parameters {
        Some("the pack with other parameters (was the MTU changed?)")
    } else if first.streams != now.streams {
        Some("the pack on other multicast groups")
    } else {
        None
    }
}

/// The want set in messages of bounded size: one at least.
fn ready_messages(receiver_id: u64, opening: &Opening) -> Vec<receiver_message::Message> {
    let Opening { want, profile } = opening;
    let parts = want.len().div_ceil(RANGES_PER_REPORT_MAX).max(1);
    let message = |part: usize| {
        let runs = want.iter().skip(part * RANGES_PER_REPORT_MAX).take(RANGES_PER_REPORT_MAX);
        let want = runs.map(|&run| run.into()).collect();
        let more = part + 1 < parts;
        let Profile { restore_bytes_per_second, unicast } = if more { Profile::default() } else { *profile };
        receiver_message::Message::Ready(v1::Ready { receiver_id, want, more, restore_bytes_per_second, unicast })
    };
    (0..parts).map(message).collect()
}

fn finale_of(message: ToSender) -> Option<receiver_message::Message> {
    match message {
        ToSender::Complete { image_bytes, duration_ms } => {
            Some(receiver_message::Message::Complete(v1::Complete { image_bytes, duration_ms }))
        }
        ToSender::Failed(reason) => Some(receiver_message::Message::Failed(v1::Failed { reason })),
        ToSender::Ready { .. } | ToSender::Fetch { .. } | ToSender::Report(_) => None,
    }
}

/// Why a call failed, in words for the operator: of a broken connection the library says "h2 protocol error".
fn lost_reason(status: &Status) -> String {
    match status.source() {
        None if !status.message().is_empty() => status.message().to_owned(),
        _ => "its connection broke, or went silent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ChunkId;

    #[test]
    fn a_scattered_want_set_goes_in_parts() {
        let want: Vec<_> = (0..2 * RANGES_PER_REPORT_MAX as u32 + 1).map(|i| ChunkRange { first: ChunkId(2 * i), count: 1 }).collect();
        let profile = Profile { restore_bytes_per_second: 9, unicast: true };
        let messages = ready_messages(7, &Opening { want: want.clone(), profile });
        let mut more = Vec::new();
        let mut profiles = Vec::new();
        let mut seen = Vec::new();
        for message in messages {
            let receiver_message::Message::Ready(ready) = message else { panic!("{message:?}") };
            assert_eq!(ready.receiver_id, 7);
            more.push(ready.more);
            profiles.push(Profile { restore_bytes_per_second: ready.restore_bytes_per_second, unicast: ready.unicast });
            seen.extend(ChunkRange::checked(&ready.want, u32::MAX).unwrap());
        }
        assert_eq!(more, [true, true, false]);
        assert_eq!(profiles, [Profile::default(), Profile::default(), profile], "in the last part only");
        assert_eq!(seen, want);
    }

    #[test]
    fn an_empty_want_set_is_said_too() {
        let expected = v1::Ready { receiver_id: 1, want: Vec::new(), more: false, restore_bytes_per_second: 0, unicast: false };
        let opening = Opening { want: Vec::new(), profile: Profile::default() };
        assert_eq!(ready_messages(1, &opening), [receiver_message::Message::Ready(expected)]);
    }
}
