//! The control server: enrolment, manifests, reports, completion, and the operator's pages, over TLS 1.3 on one port.
//!
//! [`ControlServer::start`] runs it on threads of its own. What receivers do reaches the engine as [`ControlEvent`]s through a
//! channel, checked and in order; the engine never calls back into a connection, it only sets the pace and dismisses.
//!
//! A receiver passes through enrolled → listed → completed, failed or lost ([`ReceiverState`]). One whose agent comes back after a
//! lost connection keeps its row on the list and its [`ReceiverId`]; two machines of the same name are two.

mod attendance;
mod connection;
mod descriptions;
mod error;
mod identity;
mod listen;
mod metrics;
mod operator;
mod rate_meter;
mod receiver_status;
mod roster;
mod secret_file;
mod service;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod token;
mod traffic;

pub use descriptions::{DescriptiveStream, GATHER, ManifestCounts};
pub use error::ControlError;
pub use identity::{ServerIdentity, default_state_dir};
pub(crate) use listen::bind;
pub use receiver_status::{ReceiverState, ReceiverStatus, RosterSnapshot};
pub use session::{ChunkSource, ImageInfo, SessionInfo, StreamInfo};
pub use settings::{
    PRIORITY, Priorities, PrioritiesPatch, PriorityArgument, RATE_CAP_BITS_PER_SECOND, Settings, SettingsError, SettingsPatch, Subject,
};
pub use token::OperatorToken;
pub use traffic::{Traffic, TrafficSnapshot, TransmitStatus, TransmitterStatus};

use crate::schedule::{Order, ReceiverId};
use crossbeam_channel::Sender;
use descriptions::Descriptions;
use listen::Listener;
use roster::Roster;
use session::ChunkSet;
use settings::SettingsStore;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use wire::report::{ChunkRange, Report};

/// Handshakes and reports of thousands of receivers are light work, and the data path needs the other cores.
const WORKER_THREADS: usize = 2;
/// File descriptors that the rest of the program may need beside the connections.
const OTHER_FILES: u64 = 256;
/// Longest text that a receiver can put on the operator's screen.
const REASON_CHARACTERS_MAX: usize = 1000;
/// Longest name of a group.
const GROUP_BYTES_MAX: usize = 255;

/// How the server listens.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What peers may hold on to.
    pub limits: Limits,
    /// What the engine has been started with; only changes are events.
    pub settings: Settings,
    /// Who may use the operator's pages.
    pub access: OperatorAccess,
}

/// Who may use the operator's pages.
#[derive(Clone, Debug)]
pub struct OperatorAccess {
    /// What every change needs, and reading unless it is public.
    pub token: OperatorToken,
    /// Whether everybody may read status, metrics and settings.
    pub public_status: bool,
}

/// Bounds on what peers may hold on to, so that one that misbehaves does not keep the others out.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections: one per receiver, and some for the operator's tools.
    pub connections_max: usize,
    /// Open connections of one IPv4 address or one IPv6 /64.
    pub connections_per_address_max: u32,
    /// From connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// How long a connection may be open on which nobody has enrolled and nothing is asked.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    /// 4096 receivers; 256 from one address, since receivers may share one behind NAT.
    fn default() -> Limits {
        Limits {
            connections_max: 4096,
            connections_per_address_max: 256,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// What happened on the control plane, for the engine. Events of one receiver come in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    /// A receiver is ready and on the list. The same receiver joins again, after a `Left`, when it lost its connection.
    Joined {
        /// Who.
        receiver: ReceiverId,
        /// The index of its image in [`SessionInfo::images`].
        image: usize,
        /// What it still needs: ascending runs that neither overlap nor touch, all of its image; may be empty.
        want: Vec<ChunkRange>,
        /// What it said of itself.
        profile: Profile,
    },
    /// A listed receiver's report, checked against the pack, the image and the streams.
    Reported {
        /// Who.
        receiver: ReceiverId,
        /// What.
        report: Report,
    },
    /// A receiver is off the list. It comes without a `Joined` before it when a receiver failed before it was ready.
    Left {
        /// Who.
        receiver: ReceiverId,
        /// How it ended.
        outcome: Outcome,
    },
    /// The operator has changed something; these are all settings as they are from now on.
    Settings(Settings),
    /// Manifests are being multicast beside the streams, which leave them so much of the cap from now on.
    Describing {
        /// Counted as frames on the wire; 0: no longer.
        bits_per_second: u64,
    },
}

/// What a receiver says of itself when it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The group that the operator has put it into; may be empty.
    pub group: String,
    /// Bytes of stored chunks a second that it restores, as far as it knows; 0 when it does not.
    pub restore_bytes_per_second: u64,
    /// No multicast reaches it: it fetches everything.
    pub unicast: bool,
}

/// How an attendance ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of the image is verified, written and flushed. It is said once per run of a receiver's agent.
    Completed,
    /// The receiver gave up for this reason, or was dismissed.
    Failed(String),
    /// Its connection ended, why is said; it may come back.
    Lost(String),
}

/// What the parts of the server share.
struct Shared {
    info: SessionInfo,
    /// The chunks of each image, by its index.
    images: Vec<ChunkSet>,
    limits: Limits,
    roster: Roster,
    descriptions: Descriptions,
    traffic: Arc<Traffic>,
    settings: SettingsStore,
    access: OperatorAccess,
    /// Report interval in microseconds.
    pace: watch::Sender<u32>,
    stopping: watch::Sender<bool>,
}

impl Shared {
    fn stop(&self) {
        self.stopping.send_replace(true);
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    async fn stopped(&self) {
        // It fails only when the sending half is gone, which is in `self`.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }
}

/// Tells listed receivers what to do, from any thread, while the server runs.
#[derive(Clone)]
pub struct Director {
    shared: Arc<Shared>,
}

impl Director {
    /// Passes `order` on without waiting; false when the receiver is not listed. A later order of the same kind replaces one
    /// that the receiver has not read yet.
    pub fn direct(&self, receiver: ReceiverId, order: Order) -> bool {
        self.shared.roster.direct(receiver, order)
    }
}

/// A running control server. Dropping it cuts all connections; [`ControlServer::stop`] lets them end in good order.
pub struct ControlServer {
    runtime: Option<Runtime>,
    listener: Arc<Listener>,
    shared: Arc<Shared>,
    local_addr: SocketAddr,
}

impl ControlServer {
    /// Listens and serves. `events` may be bounded: when it is full, receivers wait with what they have to say. When its other end
    /// is gone the server stops.
    ///
    /// # Errors
    /// [`ControlError`] when the address cannot be listened on or threads cannot be started.
    pub fn start(
        config: ControlConfig,
        identity: &ServerIdentity,
        info: SessionInfo,
        traffic: Arc<Traffic>,
        events: Sender<ControlEvent>,
    ) -> Result<ControlServer, ControlError> {
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(identity.tls_config()?));
        raise_open_files(config.limits.connections_max);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(ControlError::Runtime)?;
        let listen_error = |source| ControlError::Listen { address: config.listen, source };
        let socket = {
            let _context = runtime.enter();
            listen::bind(config.listen).map_err(listen_error)?
        };
        let local_addr = socket.local_addr().map_err(listen_error)?;
        let descriptions = {
            let _context = runtime.enter();
            Descriptions::new(&info, events.clone()).map_err(ControlError::Runtime)?
        };
        let shared = Arc::new(Shared {
            descriptions,
            images: info.images.iter().map(|image| ChunkSet::new(image.chunks.clone())).collect(),
            limits: config.limits,
            settings: SettingsStore::new(config.settings, events.clone()),
            access: config.access,
            roster: Roster::new(info.images.iter().map(|image| image.name.clone()).collect(), info.parameters.symbol_bytes, events),
            traffic,
            pace: watch::Sender::new(info.report_interval_us),
            stopping: watch::Sender::new(false),
            info,
        });
        let listener = Arc::new(Listener::new(tls, shared.clone()));
        runtime.spawn(listener.clone().run(socket));
        Ok(ControlServer { runtime: Some(runtime), listener, shared, local_addr })
    }

    /// The address that it listens on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The list of receivers now.
    pub fn roster(&self) -> RosterSnapshot {
        self.shared.roster.snapshot()
    }

    /// How manifests have been sent so far.
    pub fn manifests(&self) -> ManifestCounts {
        self.shared.descriptions.counts()
    }

    /// The settings in force now.
    pub fn settings(&self) -> Settings {
        self.shared.settings.current()
    }

    /// Tells all receivers to report at most this often.
    pub fn set_report_interval_us(&self, report_interval_us: u32) {
        let changed = |current: &mut u32| std::mem::replace(current, report_interval_us) != report_interval_us;
        self.shared.pace.send_if_modified(changed);
    }

    /// Takes a receiver off the list; the receiver is told why and ends. Its `Left` follows as an event. False when it is not listed.
    pub fn dismiss(&self, receiver: ReceiverId, reason: String) -> bool {
        self.director().direct(receiver, Order::Leave(reason))
    }

    /// A handle that tells receivers what to do, for other threads.
    pub fn director(&self) -> Director {
        Director { shared: self.shared.clone() }
    }

    /// Stops in good order: takes no new connections, sends what is due (the acknowledgement of the last completion, say), tells
    /// listed receivers that the sender stops, and closes. Takes at most about two seconds. No events come after it.
    pub fn stop(mut self) {
        self.shared.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(self.listener.closed());
            runtime.shutdown_background();
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The default waits for blocking tasks; there are none that matter.
            runtime.shutdown_background();
        }
    }
}

/// Connections need file descriptors; the usual soft limit of 1024 is too low, the hard limit is not. Without success the server
/// takes as many connections as it can.
fn raise_open_files(connections_max: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections_max as u64 + OTHER_FILES;
    let Some(current) = limit.current.filter(|&current| current < wanted) else { return };
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if raised <= current || setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }).is_err() {
        tracing::warn!("only {current} files may be open: fewer than {connections_max} receivers can connect; raise it with `ulimit -n`");
    }
}

/// Whether a group can have this name.
fn is_group_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= GROUP_BYTES_MAX && !name.chars().any(char::is_control)
}

/// A receiver's words as they may be printed on a terminal and kept in a list.
fn printable(text: &str) -> String {
    let clean = |character: char| if character.is_control() { ' ' } else { character };
    text.chars().take(REASON_CHARACTERS_MAX).map(clean).collect()
}
