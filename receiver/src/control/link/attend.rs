//! One attendance after another over one connection: what is wanted, then messages both ways until the connection ends.

use super::{End, Worker};
use crate::control::backoff::Backoff;
use crate::control::connect::Connection;
use crate::control::fetch::{self, Call};
use crate::control::{FromSender, Profile, ToSender};
use std::error::Error;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
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
    /// Uses a connection until it ends.
    pub(super) async fn attend(&mut self, mut connection: Connection, lost_since: &mut Option<Instant>) -> End {
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
}

async fn next(inbound: &mut Option<Streaming<v1::SenderMessage>>) -> Result<Option<v1::SenderMessage>, Status> {
    match inbound {
        Some(inbound) => inbound.message().await,
        None => std::future::pending().await,
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
