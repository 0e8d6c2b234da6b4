//! The connection to the sender: enrolment, manifest, what this receiver wants, its reports, and its completion.
//!
//! [`enrol`] connects and returns what is needed to prepare the target, and a [`ControlLink`] that a thread of its own keeps alive.
//! The link never blocks its user. When the connection is lost the thread connects and enrols anew, with growing pauses, and asks for
//! the want set again ([`FromSender::NeedReady`]); data keeps arriving by multicast meanwhile.

mod address;
mod backoff;
mod connect;
mod error;
mod fetch;
mod link;
mod look;
mod manifest;

pub use address::{AddressError, ServerAddress};
pub use connect::channel;
pub use error::ControlError;
pub use link::{ControlLink, enrol};
pub use look::{Seen, look};
pub use wire::Fingerprint;
pub use wire::trust::Trust;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use wire::report::{ChunkRange, Report};
use wire::session::SessionParameters;
use wire::{ChunkId, StreamId, SymbolIndex};

/// To whom to connect, as whom, and for what.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Where the sender is.
    pub server: ServerAddress,
    /// Which sender is trusted.
    pub trust: Trust,
    /// This receiver's name on the operator's list.
    pub name: String,
    /// The group that the operator has put it into, for priorities; may be empty.
    pub group: String,
    /// The image that it wants.
    pub image: String,
    /// The interface, by its index, where multicast is listened for; without one the manifest comes over the connection.
    pub interface_index: Option<u32>,
    /// How long to try to reach a sender that does not answer, at the start and after a loss.
    pub give_up_after: Duration,
}

/// What the sender answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// This receiver's number on the sender's list, for messages to the operator.
    pub receiver_id: u64,
    /// Parameters of the session's packets, checked.
    pub parameters: SessionParameters,
    /// BLAKE3 root of the pack.
    pub pack_root: [u8; 32],
    /// The manifest section of the image, as it stands in the pack.
    pub manifest: Vec<u8>,
    /// What proves that the pack is signed, see [`crate::trust`]; empty when it is not.
    pub proof: Vec<u8>,
    /// Whether the manifest, or some of it, came by multicast.
    pub manifest_by_multicast: bool,
    /// The multicast streams.
    pub streams: Vec<StreamInfo>,
    /// Least time between two reports, to begin with.
    pub report_interval_us: u32,
    /// The sender's certificate; to be shown to the operator when it was not pinned.
    pub server_fingerprint: Fingerprint,
}

/// One multicast stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its id in every packet.
    pub id: StreamId,
    /// Group and UDP port.
    pub group: SocketAddr,
    /// The address that its packets come from.
    pub source: IpAddr,
}

/// What the receiver tells the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSender {
    /// The target is open and these chunks are wanted: the answer to each [`FromSender::NeedReady`].
    Ready {
        /// Ascending.
        want: Vec<ChunkRange>,
        /// What the sender should know of this receiver.
        profile: Profile,
    },
    /// Bring these chunks over the connection; [`ControlLink::fetched`] gives them one by one. Dropped while there is no connection, and
    /// forgotten when it is lost.
    Fetch {
        /// Any number that tells this call from others.
        call: u32,
        /// Ascending.
        chunks: Vec<ChunkRange>,
        /// Single source symbols of other chunks, ascending.
        symbols: Vec<(ChunkId, Vec<SymbolIndex>)>,
    },
    /// A report. Dropped while this receiver is not on the list: the next `Ready` says all that it would have said.
    Report(Report),
    /// All is verified, written and flushed. Repeated after a loss until it is acknowledged.
    Complete {
        /// Bytes of the image.
        image_bytes: u64,
        /// From the receiver's start to now.
        duration_ms: u64,
    },
    /// The receiver gives up, for this reason. May come instead of the first `Ready`. Repeated like `Complete`.
    Failed(String),
}

/// What a receiver says of itself when it is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Bytes of stored chunks a second that it restores; 0 when it does not know.
    pub restore_bytes_per_second: u64,
    /// No multicast reaches it: it fetches all that it wants.
    pub unicast: bool,
}

/// What comes of a [`ToSender::Fetch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// A chunk, as the sender gave it.
    Chunk {
        /// Which the sender says it is.
        chunk: ChunkId,
        /// Its stored bytes, unchecked.
        stored: Vec<u8>,
    },
    /// Symbols of a chunk, as the sender gave them.
    Symbols {
        /// Which chunk the sender says they are of.
        chunk: ChunkId,
        /// … and which ones.
        symbols: Vec<SymbolIndex>,
        /// One after the other, unchecked.
        bytes: Vec<u8>,
    },
    /// The call has ended; what of it did not come by now does not come.
    Ended {
        /// Which call.
        call: u32,
        /// Why the sender could not bring all, in its words.
        outcome: Result<(), String>,
    },
}

/// What the receiver hears from its sender, or about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromSender {
    /// Connected and enrolled, for the first time or anew: answer with [`ToSender::Ready`]. The sender knows nothing of reports
    /// made before it.
    NeedReady,
    /// This receiver is on the sender's list.
    Listed,
    /// Reports may come this often, in microseconds.
    Pace(u32),
    /// Listen to these streams and to no others.
    Streams(Vec<StreamId>),
    /// Fetch these chunks; multicast will not bring them.
    TakeByUnicast(Vec<ChunkRange>),
    /// Fetch what is lacking of these chunks; multicast will bring it only if that takes long.
    TakeRest(Vec<ChunkRange>),
    /// The connection is lost, for this reason; attempts to connect go on.
    Lost(String),
    /// The completion or failure is recorded. Nothing follows.
    Acknowledged,
    /// The sender took this receiver off its list, for this reason. Nothing follows.
    Dismissed(String),
    /// The sender did not come back in time, or refuses, or has another certificate now. Nothing follows.
    GaveUp(String),
    /// A sender came back that serves something else. Nothing follows.
    Changed(String),
}
