//! The thread that keeps the connection: attends, reconnects, and repeats what must not get lost.

mod attend;

use super::backoff::Backoff;
use super::connect::{AttemptError, Connection, Connector};
use super::error::ControlError;
use super::fetch::CHUNKS_AHEAD;
use super::{ConnectOptions, Enrolled, Fetched, FromSender, ToSender};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use wire::proto::v1::{self, receiver_message};

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
                        // One that has not got the image any more serves something else, too.
                        ControlError::Changed { .. } | ControlError::Refused { .. } => FromSender::Changed(error.to_string()),
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

fn finale_of(message: ToSender) -> Option<receiver_message::Message> {
    match message {
        ToSender::Complete { image_bytes, duration_ms } => {
            Some(receiver_message::Message::Complete(v1::Complete { image_bytes, duration_ms }))
        }
        ToSender::Failed(reason) => Some(receiver_message::Message::Failed(v1::Failed { reason })),
        ToSender::Ready { .. } | ToSender::Fetch { .. } | ToSender::Report(_) => None,
    }
}
