//! Packets onto the network: AF_XDP or UDP behind one trait, chosen once at start and said in one line.
//!
//! [`open`] tries what the operator asked for, and from there downwards: AF_XDP zero-copy, AF_XDP copy mode, UDP with segmentation
//! offload, plain UDP. A machine that cannot do the better thing still serves.

mod af_xdp;
mod udp;

pub use af_xdp::AfXdp;
pub use udp::Udp;

use crate::interface::Interface;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use wire::Symbol;
use wire::packet::{HEADER_BYTES, Header};

/// How long [`Transmit::send`] waits at most for room before it returns.
pub const STALL_LIMIT: Duration = Duration::from_millis(100);
/// Ethernet preamble and start delimiter (8), frame check sequence (4) and the gap to the next frame (12): what a frame occupies of a
/// link beyond its own bytes.
pub const LINK_OVERHEAD_BYTES: usize = 24;

/// One packet: a header, and the symbol that follows it (empty in a sync).
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The discus header; its CRC is made when the packet is written.
    pub header: Header,
    /// The symbol.
    pub symbol: Symbol<'a>,
}

impl Packet<'_> {
    /// Bytes of the UDP payload.
    pub fn payload_bytes(&self) -> usize {
        HEADER_BYTES + self.symbol.bytes().len()
    }
}

/// The way onto the network.
pub trait Transmit: Send {
    /// Hands packets to the kernel, in order, and returns how many it took. It waits for room, but for no more than [`STALL_LIMIT`]
    /// without progress: fewer than all (even none) means that the link is stalled and the caller may try again.
    ///
    /// # Errors
    /// [`Error`] when trying again cannot help.
    fn send(&mut self, packets: &[Packet<'_>]) -> Result<usize, Error>;

    /// Waits until the kernel has let go of everything that was sent, at most `limit`. Says whether it has.
    fn flush(&mut self, limit: Duration) -> bool;

    /// What is in use, now: UDP may lose its segmentation offload on the way.
    fn mode(&self) -> Mode;
}

/// A way of transmitting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The card reads frames from our memory.
    AfXdpZeroCopy,
    /// The kernel copies frames into its own.
    AfXdpCopy,
    /// A UDP socket; the kernel or card cuts up to 64 packets out of one system call's data.
    UdpSegmentation,
    /// A UDP socket, one buffer a packet.
    Udp,
}

impl Mode {
    /// As in `--transmit` and in results.
    pub fn name(self) -> &'static str {
        match self {
            Mode::AfXdpZeroCopy => "af-xdp-zero-copy",
            Mode::AfXdpCopy => "af-xdp-copy",
            Mode::UdpSegmentation => "udp-gso",
            Mode::Udp => "udp",
        }
    }
}

/// What the operator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The best that works.
    #[default]
    Auto,
    /// AF_XDP zero-copy, else copy mode, else UDP.
    AfXdpZeroCopy,
    /// AF_XDP copy mode, else UDP.
    AfXdpCopy,
    /// UDP.
    Udp,
    /// UDP without segmentation offload: one buffer a packet, many packets a system call (sendmmsg).
    UdpPlain,
}

/// What the packets look like and where they leave.
#[derive(Clone, Debug)]
pub struct TransmitConfig {
    /// The interface.
    pub interface: Interface,
    /// Transmit queue for AF_XDP.
    pub queue: u32,
    /// Source address and port.
    pub source: SocketAddr,
    /// Group and port of each stream, by its id; at least one, all of one family. The streams share what is opened: a queue has room for
    /// one AF_XDP socket.
    pub groups: Vec<SocketAddr>,
    /// TTL or hop limit.
    pub hops: u8,
    /// UDP payload of a full packet.
    pub payload_bytes: usize,
    /// What to try first.
    pub choice: Choice,
    /// Whether the transmitting thread drives the card's queue itself (AF_XDP zero-copy only).
    pub busy_poll: bool,
}

impl TransmitConfig {
    /// The first group, which stands for the family of all.
    fn group(&self) -> SocketAddr {
        self.groups.first().copied().unwrap_or_else(|| SocketAddr::new(IpAddr::from([0; 4]), 0))
    }

    /// Bytes of an Ethernet frame around `payload_bytes`, without frame check sequence.
    pub fn frame_bytes(&self, payload_bytes: usize) -> usize {
        frame_bytes(self.group().ip(), payload_bytes)
    }
}

/// Bytes of an untagged Ethernet frame (14) with IPv4 (20) or IPv6 (40) and UDP (8) headers around `payload_bytes`, without frame
/// check sequence.
pub fn frame_bytes(group: IpAddr, payload_bytes: usize) -> usize {
    let ip_bytes = if group.is_ipv4() { 20 } else { 40 };
    14 + ip_bytes + 8 + payload_bytes
}

/// Why packets cannot leave.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// AF_XDP could not be set up.
    #[error("{what}: {source}")]
    AfXdp {
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// AF_XDP does not suit this stream or interface.
    #[error("{0}")]
    Unsuitable(String),
    /// A UDP socket could not be set up.
    #[error("cannot send UDP from {source_address} to {group} on {interface}: {what}: {source}")]
    UdpSetup {
        /// Source address and port.
        source_address: SocketAddr,
        /// Group and port.
        group: SocketAddr,
        /// The interface.
        interface: String,
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Sending failed for good.
    #[error("sending on {interface} failed: {source}")]
    Send {
        /// The interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
}

/// An open way onto the network and the line that says how.
pub struct Opened {
    /// The way.
    pub transmit: Box<dyn Transmit>,
    /// One line: mode and why.
    pub description: String,
    /// Another program had the queue, so that AF_XDP could not be tried.
    pub queue_is_taken: bool,
}

/// An ordinary UDP socket that sends to `group` from where `config` says: for what is not much, beside the streams.
///
/// # Errors
/// [`Error::UdpSetup`].
pub fn group_socket(config: &TransmitConfig, group: SocketAddr) -> Result<std::net::UdpSocket, Error> {
    udp::socket(config, group).map(Into::into)
}

/// Opens a way onto the network in the best mode that works from `config.choice` downwards.
///
/// # Errors
/// [`Error`] when not even a UDP socket can be had.
pub fn open(config: &TransmitConfig) -> Result<Opened, Error> {
    let attempts: &[bool] = match config.choice {
        Choice::Auto | Choice::AfXdpZeroCopy => &[true, false],
        Choice::AfXdpCopy => &[false],
        Choice::Udp | Choice::UdpPlain => &[],
    };
    let mut refused: Vec<String> = Vec::new();
    let mut queue_is_taken = false;
    for &zero_copy in attempts {
        match AfXdp::open(config, zero_copy) {
            Ok(socket) => {
                let why = if refused.is_empty() { String::new() } else { format!(" ({})", refused.join("; ")) };
                let mode = if zero_copy { "zero-copy" } else { "copy mode" };
                let description = format!("AF_XDP {mode} on {} queue {}, {}{why}", config.interface.name, config.queue, socket.details());
                return Ok(Opened { transmit: Box::new(socket), description, queue_is_taken: false });
            }
            // What does not suit AF_XDP suits neither of its modes.
            Err(error @ Error::Unsuitable(_)) => {
                refused = vec![format!("no AF_XDP: {error}")];
                break;
            }
            Err(error) => {
                queue_is_taken |= is_taken(&error);
                refused.push(refusal(zero_copy, &error));
            }
        }
    }
    match config.choice {
        Choice::Udp => refused.push("as asked with --transmit udp".to_owned()),
        Choice::UdpPlain => refused.push("as asked with --transmit udp-plain".to_owned()),
        _ => {}
    }
    let socket = Udp::open(config)?;
    let description = format!("UDP {} on {} ({})", socket.details(), config.interface.name, refused.join("; "));
    Ok(Opened { transmit: Box::new(socket), description, queue_is_taken })
}

/// Whether another program has the queue.
fn is_taken(error: &Error) -> bool {
    matches!(error, Error::AfXdp { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
}

/// Why a mode of AF_XDP is not to be had, as an operator understands it.
fn refusal(zero_copy: bool, error: &Error) -> String {
    let mode = if zero_copy { "zero-copy" } else { "AF_XDP copy mode" };
    let code = match error {
        Error::AfXdp { source, .. } => source.raw_os_error(),
        _ => None,
    };
    match code {
        Some(libc::EOPNOTSUPP) if zero_copy => "the driver has no zero-copy".to_owned(),
        Some(libc::EPERM | libc::EACCES) => format!("no {mode}: it needs root or CAP_NET_RAW and CAP_NET_ADMIN"),
        Some(libc::EBUSY) => format!("no {mode}: another program uses the queue"),
        _ => format!("no {mode}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_an_operator_can_do() {
        let error = |code| Error::AfXdp { what: "binding the socket", source: io::Error::from_raw_os_error(code) };
        assert_eq!(refusal(true, &error(libc::EOPNOTSUPP)), "the driver has no zero-copy");
        assert!(refusal(false, &error(libc::EPERM)).contains("CAP_NET_RAW"));
        assert!(refusal(false, &error(libc::EBUSY)).contains("another program"));
        assert!(refusal(false, &error(libc::ENODEV)).starts_with("no AF_XDP copy mode: binding the socket: "));
    }

    #[test]
    fn a_default_packet_fills_an_ordinary_frame() {
        assert_eq!(frame_bytes(IpAddr::from([239, 0, 0, 1]), HEADER_BYTES + 1408), 1478);
        assert_eq!(frame_bytes("ff18::1".parse().unwrap(), HEADER_BYTES + 1408), 1498);
    }
}
