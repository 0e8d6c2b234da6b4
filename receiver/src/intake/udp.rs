//! Intake through UDP sockets, for machines and interfaces without AF_XDP: one socket per group, many packets per system call.
#![allow(unsafe_code)] // recvmmsg with control messages, which no safe wrapper has.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Error, Intake, membership};
use crate::interface::Interface;

/// Messages per system call. With GRO each holds up to 64 KiB of packets.
const BATCH: usize = 32;
/// A GRO message is at most an IP packet (the kernel's `GRO_LEGACY_MAX_SIZE`).
const GRO_MESSAGE_BYTES: usize = 64 * 1024;
/// Socket buffer asked for. The kernel doubles it and counts about 2.3 KiB for a packet of 1,436: some 14,000 packets, 35 ms at
/// 0.4 Mpps, longer than this program is ever kept from its core.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// Room for the control message that carries GRO's segment size, an `int`.
const CONTROL_BYTES: usize = 64;
/// Index of `SK_MEMINFO_DROPS` in the answer of `SO_MEMINFO` (linux/sock_diag.h).
const MEMINFO_DROPS: usize = 8;
const MEMINFO_WORDS: usize = 9;

/// One UDP socket per group, bound to the group's address, so that no packet comes to two of them.
pub struct UdpSockets {
    interface_index: u32,
    sockets: Vec<(SocketAddr, Socket)>,
    /// Packets that sockets lost which are closed by now.
    overruns_before: u64,
    /// `BATCH` messages, one after the other.
    messages: Box<[u8]>,
    message_bytes: usize,
    description: String,
}

/// Where `recvmmsg` writes control messages; `cmsghdr` wants the alignment of a `usize`.
#[repr(align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

impl UdpSockets {
    /// Opens a socket for each of `groups`, for payloads of `payload_bytes`; `because` says why it is UDP.
    ///
    /// # Errors
    /// [`Error::Udp`].
    pub fn open(interface: &Interface, groups: &[SocketAddr], payload_bytes: usize, because: String) -> Result<UdpSockets, Error> {
        let mut sockets = Vec::with_capacity(groups.len());
        membership::replace(&mut sockets, groups, |group| open_socket(interface.index(), group))?;
        // All sockets of a machine are alike in this.
        let gro = sockets.iter().all(|(_, socket)| enable_gro(socket));
        let buffer_bytes = sockets.iter().map(|(_, socket)| socket.recv_buffer_size().unwrap_or(0)).min().unwrap_or(0);
        // One more byte than a packet has, so that a longer one shows as longer and its CRC fails.
        let message_bytes = if gro { GRO_MESSAGE_BYTES } else { (payload_bytes + 1).next_multiple_of(64) };
        let description = format!(
            "UDP ({because}), receive offload {}, socket buffer {} KiB",
            if gro { "asked for" } else { "not available" },
            buffer_bytes / 1024
        );
        Ok(UdpSockets {
            interface_index: interface.index(),
            sockets,
            overruns_before: 0,
            messages: vec![0; BATCH * message_bytes].into_boxed_slice(),
            message_bytes,
            description,
        })
    }
}

impl Intake for UdpSockets {
    fn receive(&mut self, handle: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let mut packets = 0;
        for (_, socket) in &self.sockets {
            packets += receive_batch(socket, &mut self.messages, self.message_bytes, handle)?;
        }
        Ok(packets)
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let mut descriptors: Vec<PollFd<'_>> = self.sockets.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::IN)).collect();
        wait_readable(&mut descriptors, timeout)
    }

    fn overruns(&self) -> u64 {
        self.overruns_before + self.sockets.iter().map(|(_, socket)| dropped_packets(socket)).sum::<u64>()
    }

    fn follow(&mut self, groups: &[SocketAddr]) -> Result<(), Error> {
        let gro = self.message_bytes == GRO_MESSAGE_BYTES;
        let open = |group| open_socket(self.interface_index, group).inspect(|socket| _ = gro && enable_gro(socket));
        let left = membership::replace(&mut self.sockets, groups, open)?;
        self.overruns_before += left.iter().map(|(_, socket)| dropped_packets(socket)).sum::<u64>();
        Ok(())
    }

    fn sockets(&self) -> Vec<&Socket> {
        self.sockets.iter().map(|(_, socket)| socket).collect()
    }

    fn memory_bytes(&self) -> usize {
        self.messages.len()
    }

    fn describe(&self) -> &str {
        &self.description
    }
}

/// Polls until one of `descriptors` is readable or `timeout` is over. A signal ends it early.
pub(super) fn wait_readable(descriptors: &mut [PollFd<'_>], timeout: Duration) -> io::Result<()> {
    let timeout = Timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos().into() };
    match poll(descriptors, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_socket(interface_index: u32, group: SocketAddr) -> Result<Socket, Error> {
    group_socket(interface_index, group).map_err(|source| Error::Udp { group, source })
}

/// A non-blocking UDP socket that takes what comes for `group` on this interface, and nothing else.
pub(crate) fn group_socket(interface_index: u32, group: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    // Several receivers of one machine (a test, a container host) may listen to one stream.
    socket.set_reuse_address(true)?;
    grow_buffer(&socket);
    let any = 0;
    // Only what arrives through memberships of this very socket, not what others on this machine joined elsewhere.
    let only_own_groups = if group.is_ipv4() {
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, any)
    } else {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL, any)
    };
    // IPv6 has it since Linux 4.20; without it the CRC and the session id still keep strangers out.
    only_own_groups.or_else(|error| if group.is_ipv6() { Ok(()) } else { Err(error) })?;
    socket.bind(&group.into())?;
    membership::join(&socket, group.ip(), interface_index)?;
    Ok(socket)
}

/// Beyond `net.core.rmem_max` when allowed to (CAP_NET_ADMIN), else up to it.
fn grow_buffer(socket: &Socket) {
    let bytes = SOCKET_BUFFER_BYTES as libc::c_int;
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
        // A smaller buffer loses packets under load, which the overruns counter shows; it is no reason to give up.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    }
}

/// Lets the kernel hand over a train of packets as one message. Answers whether it can (Linux 5.0).
fn enable_gro(socket: &Socket) -> bool {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok()
}

fn set_option(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads the `int` during the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), mem::size_of::<libc::c_int>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn dropped_packets(socket: &Socket) -> u64 {
    let mut words = [0_u32; MEMINFO_WORDS];
    let mut bytes = mem::size_of_val(&words) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into `words` during the call.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, words.as_mut_ptr().cast(), &raw mut bytes) };
    if result == 0 { words[MEMINFO_DROPS].into() } else { 0 }
}

fn receive_batch(socket: &Socket, messages: &mut [u8], message_bytes: usize, handle: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
    let mut control = [Control([0; CONTROL_BYTES]); BATCH];
    // SAFETY: both structures are integers and pointers, for all of which zero is a value.
    let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { (mem::zeroed(), mem::zeroed()) };
    for (((message, control), vector), header) in
        messages.chunks_exact_mut(message_bytes).zip(&mut control).zip(&mut vectors).zip(&mut headers)
    {
        *vector = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message_bytes };
        header.msg_hdr.msg_iov = ptr::from_mut(vector);
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
    }
    // SAFETY: every header points to one vector, which points to `message_bytes` bytes of `messages` that no other header has, and
    // to control room of its own; all of them outlive the call.
    let received = unsafe {
        libc::recvmmsg(socket.as_fd().as_raw_fd(), headers.as_mut_ptr(), BATCH as libc::c_uint, libc::MSG_DONTWAIT, ptr::null_mut())
    };
    if received < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
            // A pending socket error, such as the interface having been down for a moment; reading it cleared it.
            _ if matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENETUNREACH | libc::ECONNREFUSED)) => Ok(0),
            _ => Err(error),
        };
    }
    let mut packets = 0;
    for (header, message) in headers.iter().zip(messages.chunks_exact(message_bytes)).take(received as usize) {
        let message = &message[..(header.msg_len as usize).min(message_bytes)];
        let segment_bytes = segment_bytes(&header.msg_hdr).unwrap_or(message.len()).max(1);
        for payload in message.chunks(segment_bytes) {
            handle(payload);
            packets += 1;
        }
    }
    Ok(packets)
}

/// The length of each packet of a GRO message but the last, if it is one.
fn segment_bytes(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: `header` is as recvmmsg left it, its control room still alive.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR answer null or a whole control message within the control room, which is aligned.
    while let Some(control) = unsafe { message.as_ref() } {
        if control.cmsg_level == libc::SOL_UDP && control.cmsg_type == libc::UDP_GRO {
            // SAFETY: the kernel's UDP_GRO message holds an `int`; its place may be unaligned.
            let bytes = unsafe { libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned() };
            return usize::try_from(bytes).ok();
        }
        // SAFETY: see above.
        message = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    None
}
