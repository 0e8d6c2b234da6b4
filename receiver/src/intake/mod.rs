//! How packets come in: through AF_XDP where it can be had, else through UDP sockets, either way behind the filter.
//!
//! [`open`] probes what there is, falls back, and can say in one line what it got and why. Nothing here knows what a chunk is, but
//! for the filter, whose want set the engine changes.

mod af_xdp;
mod datagram;
mod filter;
mod gather;
mod layout;
mod membership;
mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::Socket;
use wire::session::SessionParameters;

use crate::interface::Interface;
pub use af_xdp::AfXdp;
pub use datagram::{FRAME_HEADERS_BYTES_MAX, udp_payload};
pub use filter::{PacketCounts, PacketFilter, XdpMode};
pub use membership::{Membership, is_member};
pub use udp::UdpSockets;
pub(crate) use udp::group_socket;

/// A source of packets. One thread owns it.
pub trait Intake: Send {
    /// Hands the UDP payload of waiting packets to `handle`, a bounded number of them, and answers how many there were; 0 when none
    /// wait. Never blocks.
    ///
    /// # Errors
    /// When the interface can no longer be read from.
    fn receive(&mut self, handle: &mut dyn FnMut(&[u8])) -> io::Result<usize>;

    /// Returns when packets wait, and no later than after `timeout`.
    ///
    /// # Errors
    /// When the interface can no longer be read from.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;

    /// Packets that got through the filter and were lost because this program did not fetch them in time.
    fn overruns(&self) -> u64;

    /// From now on packets of these groups are to come in. Whatever reaches the interface anyway need do nothing.
    ///
    /// # Errors
    /// [`Error::Udp`], when a socket for one of them cannot be had; then nothing has changed.
    fn follow(&mut self, groups: &[SocketAddr]) -> Result<(), Error> {
        let _ = groups;
        Ok(())
    }

    /// Its own sockets that are members of the groups, in the groups' order, if there are any.
    fn sockets(&self) -> Vec<&Socket> {
        Vec::new()
    }

    /// Memory of this process that it takes.
    fn memory_bytes(&self) -> usize;

    /// What it is and why, for the operator.
    fn describe(&self) -> &str;
}

/// Which intake the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum IntakeMode {
    /// AF_XDP zero-copy, else AF_XDP in copy mode, else UDP.
    #[default]
    Auto,
    /// AF_XDP, zero-copy or copy mode.
    AfXdp,
    /// AF_XDP zero-copy.
    AfXdpZeroCopy,
    /// AF_XDP in copy mode.
    AfXdpCopy,
    /// UDP sockets.
    Udp,
}

/// How packets are to come in.
#[derive(Clone, Copy, Debug, Default)]
pub struct IntakeOptions {
    /// Through which sockets.
    pub mode: IntakeMode,
    /// Where the filter runs.
    pub xdp: XdpMode,
    /// Whether the thread that takes packets drives the card's queues itself while packets come (AF_XDP only).
    pub busy_poll: bool,
}

/// Why packets cannot come in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface cannot be used.
    #[error("interface {name}: {source}")]
    Interface {
        /// Its name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A group cannot be joined.
    #[error("cannot join {group} on {interface}: {source}; is the interface up, with an address of that family?")]
    Join {
        /// The group.
        group: IpAddr,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The filter cannot be had as asked for.
    #[error("cannot filter as --xdp asks: {0}; try --xdp auto")]
    Filter(#[source] bpf::Error),
    /// AF_XDP cannot be had and was asked for.
    #[error("cannot receive through AF_XDP as --intake asks: {0}; try --intake auto")]
    AfXdp(String),
    /// A UDP socket cannot be had.
    #[error("UDP socket for {group}: {source}")]
    Udp {
        /// The group and port.
        group: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Everything that [`open`] set up. What is dropped first is declared first: sockets, then the filter that feeds them.
pub struct Opened {
    /// Where packets come from.
    pub intake: Box<dyn Intake>,
    /// What lets them through.
    pub filter: PacketFilter,
    /// What makes switches send them here.
    pub membership: Membership,
}

/// No packets: for a receiver that multicast does not reach.
struct NoPackets;

impl Intake for NoPackets {
    fn receive(&mut self, _handle: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        Ok(0)
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        std::thread::sleep(timeout);
        Ok(())
    }

    fn overruns(&self) -> u64 {
        0
    }

    fn memory_bytes(&self) -> usize {
        0
    }

    fn describe(&self) -> &str {
        "none (unicast)"
    }
}

impl Opened {
    /// Nothing: no group is joined, no packet comes, and no privilege is needed.
    pub fn nothing(parameters: &SessionParameters) -> Opened {
        Opened { intake: Box::new(NoPackets), filter: PacketFilter::without_packets(parameters), membership: Membership::none() }
    }

    /// Joins those of `groups` that are not joined yet, then leaves all others.
    ///
    /// # Errors
    /// [`Error`]; what was joined stays joined.
    pub fn follow(&mut self, groups: &[SocketAddr]) -> Result<(), Error> {
        self.intake.follow(groups)?;
        self.membership.change(groups)
    }
}

/// Joins `joined` on `interface`, which are some of `groups`, filters the session's packets and receives them. The filter is for the ports
/// of all `groups`, any of which may be joined later.
///
/// # Errors
/// [`Error`], when a group cannot be joined or when what `options` insist on cannot be had.
pub fn open(
    interface: &Interface,
    parameters: &SessionParameters,
    groups: &[SocketAddr],
    joined: &[SocketAddr],
    options: IntakeOptions,
) -> Result<Opened, Error> {
    let IntakeOptions { mode, xdp, .. } = options;
    let membership = Membership::join(interface, joined)?;
    let filter = PacketFilter::attach(interface, parameters, groups, mode != IntakeMode::Udp, xdp)?;
    let udp = |because: String| UdpSockets::open(interface, joined, parameters.payload_bytes(), because);
    let intake: Box<dyn Intake> = if mode == IntakeMode::Udp {
        Box::new(udp("asked for".to_owned())?)
    } else {
        match AfXdp::open(interface, &filter, parameters.payload_bytes(), options) {
            Ok(sockets) => Box::new(sockets),
            Err(because) if mode == IntakeMode::Auto => Box::new(udp(format!("no AF_XDP: {because}"))?),
            Err(because) => return Err(Error::AfXdp(because)),
        }
    };
    Ok(Opened { intake, filter, membership })
}
