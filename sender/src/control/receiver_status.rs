//! The list of receivers as the operator sees it.

use serde::Serialize;
use std::net::SocketAddr;

/// Where a receiver stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiverState {
    /// It asked for an image and prepares its target.
    Enrolled,
    /// It takes data.
    Listed,
    /// All of its image is written and flushed.
    Completed,
    /// It gave up, or was dismissed; see the reason.
    Failed,
    /// Its connection is gone; it may come back.
    Lost,
}

/// One receiver, as the operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ReceiverStatus {
    /// The id in events.
    pub receiver_id: u64,
    /// The name that it gave.
    pub name: String,
    /// Where it last connected from.
    pub address: SocketAddr,
    /// The image that it wants.
    pub image: String,
    /// The group that the operator has put it into; may be empty.
    pub group: String,
    /// Where it stands.
    pub state: ReceiverState,
    /// Why it failed or was lost.
    pub reason: Option<String>,
    /// No multicast reaches it: it fetches everything over its control connection.
    pub unicast: bool,
    /// The streams that it was told to listen to, once it was.
    pub streams: Option<Vec<u16>>,
    /// Bytes of stored chunks a second that it restores, as it said when it was listed; 0 when it does not know.
    pub restore_bytes_per_second: u64,
    /// Symbols that reach it, in bits a second, lately; 0 when it is not listed.
    pub received_bits_per_second: u64,
    /// Chunks that it wanted when it was listed, the last time.
    pub chunks_wanted: u32,
    /// Of these, those that it has not yet reported as verified.
    pub chunks_remaining: u32,
    /// Packets that were sent on its streams while it was listed.
    pub packets_sent: u64,
    /// Of these, those that reached it.
    pub packets_seen: u64,
    /// Share of packets that did not reach it, 0 to 1.
    pub loss: f64,
    /// How full its memory of chunks that wait for the disk was at the last report, in thousandths.
    pub backlog_permille: u16,
    /// Bytes of the image it wrote, once completed.
    pub image_bytes: Option<u64>,
    /// Its own count of the time from start to completion.
    pub duration_ms: Option<u64>,
    /// How often it was listed.
    pub attendances: u32,
    /// When it enrolled, in milliseconds of Unix time.
    pub enrolled_unix_ms: u64,
    /// When it was listed, the last time.
    pub listed_unix_ms: Option<u64>,
    /// When it completed, failed or was lost.
    pub ended_unix_ms: Option<u64>,
}

/// All receivers at one moment, in order of enrolment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RosterSnapshot {
    /// The receivers.
    pub receivers: Vec<ReceiverStatus>,
}

impl RosterSnapshot {
    /// How many stand there.
    pub fn count(&self, state: ReceiverState) -> usize {
        self.receivers.iter().filter(|receiver| receiver.state == state).count()
    }
}
