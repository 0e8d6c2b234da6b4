//! Intake through AF_XDP sockets: the filter redirects wanted packets into memory that this process shares with the kernel, one
//! socket per receive queue of the interface. No system call per packet, and none per batch while packets keep coming.
//!
//! A frame of the UMEM is either in the fill ring (the kernel's, to be written) or between `consume` and `produce` of one
//! [`Queue::receive`] (ours, to be read); it is never anywhere else.
#![allow(unsafe_code)] // UMEM and rings.

use std::error::Error as _;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use xsk_rs::config::{BindFlags, FrameSize, Interface as InterfaceName, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::gather::Gather;
use super::layout::Layout;
use super::udp::wait_readable;
use super::{FRAME_HEADERS_BYTES_MAX, Intake, IntakeMode, IntakeOptions, PacketFilter, udp_payload};
use crate::interface::Interface;

/// Frames handled between two looks at the other queues and at what else the thread has to do: 64 take some 40 µs.
const BATCH: usize = 64;
/// Beyond this number of queues the rest gets no socket and the filter passes its packets to the stack, where nobody waits for them.
const QUEUES_MAX: u32 = 64;
/// Rings that carry nothing but have to exist.
const UNUSED_RING: u32 = 64;
/// How long a queue may stay busy after somebody else has closed its socket: the kernel releases it with a grace period.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// How long to wait for the carrier to come back after a bind that made the driver restart its rings; copper takes 2 to 4 seconds.
const CARRIER_WAIT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Busy polling: for how long after the last packet to go on before packets have to wake us; twice the longest pause of a stream that follows its receivers' losses.
const BUSY_AFTER: Duration = Duration::from_millis(20);
/// `SO_BUSY_POLL`: microseconds that one look at the queue may take. Each look is one round of the driver here; it must not be 0.
const BUSY_POLL_US: libc::c_int = 20;
/// `SO_BUSY_POLL_BUDGET`: packets that one look may take.
const BUSY_POLL_BUDGET: libc::c_int = 64;
/// In asm-generic/socket.h since Linux 5.11.
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;

/// `XDP_OPTIONS` says whether the bind got zero-copy (linux/if_xdp.h).
const XDP_OPTIONS_ZEROCOPY: u32 = 1;

/// AF_XDP sockets on all receive queues of an interface.
pub struct AfXdp {
    queues: Vec<Queue>,
    memory_bytes: usize,
    description: String,
    gather: Gather,
    /// When the last packet came, where the driver is polled.
    busy_since: Option<Instant>,
}

struct Queue {
    receive: RxQueue,
    fill: FillQueue,
    // Part of every socket, of no use here, kept because the socket lives as long as its rings.
    _transmit: TxQueue,
    _completion: CompQueue,
    umem: Umem,
    descriptors: Box<[FrameDesc]>,
    /// Where a packet of several frames is put together.
    gathered: Vec<u8>,
    /// The packet being put together is longer than `gathered` may be.
    too_long: bool,
    zero_copy: bool,
}

impl AfXdp {
    /// Binds a socket to every receive queue and has `filter` redirect to them.
    ///
    /// # Errors
    /// Why not, in words for the operator; the caller falls back or gives up.
    pub fn open(interface: &Interface, filter: &PacketFilter, payload_bytes: usize, options: IntakeOptions) -> Result<AfXdp, String> {
        let kernel_filter = filter.kernel().map_err(|because| format!("it needs the filter in the kernel ({because})"))?;
        let had_carrier = interface.is_running().unwrap_or(false);
        let all_queues = interface.receive_queues();
        let queue_count = all_queues.min(QUEUES_MAX);
        let layout = Layout::new(payload_bytes, queue_count as usize);
        let open_all = |zero_copy| -> Result<Vec<Queue>, String> {
            (0..queue_count)
                .map(|queue| Queue::open(interface, queue, layout, zero_copy).map_err(|why| format!("queue {queue}: {why}")))
                .collect()
        };
        let (queues, because) = match options.mode {
            IntakeMode::AfXdpCopy => (open_all(false)?, " (asked for)".to_owned()),
            IntakeMode::AfXdpZeroCopy => (open_all(true)?, String::new()),
            _ => match open_all(true) {
                Ok(queues) => (queues, String::new()),
                Err(why) => (open_all(false)?, format!(" (no zero-copy: {why})")),
            },
        };
        for (queue, number) in queues.iter().zip(0..) {
            // SAFETY: the descriptor belongs to the socket that `queue` keeps alive through the call.
            let socket = unsafe { BorrowedFd::borrow_raw(queue.receive.fd().as_raw_fd()) };
            kernel_filter.register_socket(number, socket).map_err(|error| error.to_string())?;
        }
        if options.busy_poll {
            queues.iter().try_for_each(Queue::prefer_busy_poll).map_err(|error| format!("busy polling: {error}"))?;
        }
        if had_carrier {
            wait_for_carrier(interface);
        }
        let zero_copy = queues.iter().all(|queue| queue.zero_copy);
        let description = format!(
            "AF_XDP {}{because}, {}{}{} frames of {} bytes each",
            if zero_copy { "zero-copy" } else { "copy mode" },
            match (queue_count, all_queues) {
                (1, 1) => "1 receive queue, ".to_owned(),
                (some, all) if some == all => format!("{all} receive queues, "),
                (some, all) => format!("{some} of {all} receive queues (reduce them: ethtool -L), "),
            },
            if options.busy_poll { "busy polling, " } else { "" },
            layout.frames,
            layout.frame_bytes,
        );
        let busy_since = options.busy_poll.then(Instant::now);
        Ok(AfXdp { memory_bytes: layout.bytes() * queues.len(), queues, description, gather: Gather::new(layout.frames), busy_since })
    }
}

impl Intake for AfXdp {
    #[inline]
    fn receive(&mut self, handle: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let mut packets = 0;
        for queue in &mut self.queues {
            packets += queue.receive(handle)?;
        }
        self.gather.came(packets);
        if let Some(since) = self.busy_since.as_mut().filter(|_| packets > 0) {
            *since = Instant::now();
        }
        Ok(packets)
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        if let Some(since) = self.busy_since {
            if since.elapsed() < BUSY_AFTER {
                self.queues.iter().for_each(Queue::drive);
                return Ok(());
            }
        } else if let Some(time) = self.gather.next() {
            thread::sleep(time.min(timeout));
            return Ok(());
        }
        // Polling also wakes a driver that waits to be told of frames in the fill ring.
        let mut descriptors: Vec<PollFd<'_>> = self
            .queues
            .iter()
            .map(|queue| {
                // SAFETY: the descriptor belongs to the socket that `queue` keeps alive through the call.
                let socket = unsafe { BorrowedFd::borrow_raw(queue.receive.fd().as_raw_fd()) };
                PollFd::from_borrowed_fd(socket, PollFlags::IN)
            })
            .collect();
        wait_readable(&mut descriptors, timeout)
    }

    fn overruns(&self) -> u64 {
        let lost = |queue: &Queue| {
            queue
                .receive
                .fd()
                .xdp_statistics()
                .map(|counts| counts.rx_dropped() + counts.rx_ring_full() + counts.rx_fill_ring_empty_descs())
        };
        self.queues.iter().map(|queue| lost(queue).unwrap_or(0)).sum()
    }

    fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    fn describe(&self) -> &str {
        &self.description
    }
}

impl Queue {
    fn open(interface: &Interface, queue: u32, layout: Layout, zero_copy: bool) -> Result<Queue, String> {
        let frame_count = u32::try_from(layout.frames).ok().and_then(NonZeroU32::new).ok_or("no frames")?;
        let ring = |size: u32| QueueSize::new(size).map_err(|error| error.to_string());
        let umem_config = UmemConfig::builder()
            .frame_size(FrameSize::new(layout.frame_bytes as u32).map_err(|error| error.to_string())?)
            .fill_queue_size(ring(frame_count.get())?)
            .comp_queue_size(ring(UNUSED_RING)?)
            .build()
            .map_err(|error| error.to_string())?;
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        flags |= if zero_copy { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
        if layout.scattered {
            flags |= BindFlags::XDP_USE_SG;
        }
        let socket_config = SocketConfig::builder()
            .rx_queue_size(ring(frame_count.get())?)
            .tx_queue_size(ring(UNUSED_RING)?)
            .bind_flags(flags)
            // The filter is the program.
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .build();
        let name: InterfaceName = interface.name().parse().map_err(|_| "its name has a zero byte".to_owned())?;

        let deadline = Instant::now() + BUSY_RETRY;
        let (umem, frames, (transmit, mut receive, fill_and_completion)) = loop {
            // A new UMEM each time: libxdp keeps state of a failed bind in the old one.
            let (umem, frames) = Umem::new(umem_config, frame_count, false).map_err(|error| in_words(&error))?;
            // SAFETY: this UMEM has no other socket, and no program is loaded by libxdp.
            match unsafe { Socket::new(socket_config, &umem, &name, queue) } {
                Ok(socket) => break (umem, frames, socket),
                Err(error) if error_code(&error) == Some(libc::EBUSY) && Instant::now() < deadline => thread::sleep(RETRY_PAUSE),
                Err(error) => return Err(in_words(&error)),
            }
        };
        let (mut fill, completion) = fill_and_completion.ok_or("libxdp gave no fill ring")?;
        // SAFETY: all frames are of this UMEM and in no ring yet; the fill ring holds as many as there are.
        let filled = unsafe { fill.produce_and_wakeup(&frames, receive.fd_mut(), 0) }.map_err(|error| error.to_string())?;
        if filled != frames.len() {
            return Err("the fill ring did not take all frames".to_owned());
        }
        let zero_copy = is_zero_copy(receive.fd().as_raw_fd()).map_err(|error| error.to_string())?;
        Ok(Queue {
            receive,
            fill,
            _transmit: transmit,
            _completion: completion,
            umem,
            descriptors: frames.into_iter().take(BATCH).collect(),
            gathered: Vec::with_capacity(if layout.scattered { FRAME_HEADERS_BYTES_MAX + usize::from(u16::MAX) } else { 0 }),
            too_long: false,
            zero_copy,
        })
    }

    /// Has the kernel leave the queue to us while we look at it often (Documentation/networking/napi.rst).
    fn prefer_busy_poll(&self) -> io::Result<()> {
        for (option, value) in [(SO_PREFER_BUSY_POLL, 1), (libc::SO_BUSY_POLL, BUSY_POLL_US), (SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET)] {
            // SAFETY: the kernel reads the `int` during the call.
            let result = unsafe {
                let bytes = size_of::<libc::c_int>() as libc::socklen_t;
                libc::setsockopt(self.receive.fd().as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), bytes)
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// One round of the queue's driver on this core.
    fn drive(&self) {
        // SAFETY: nothing is written: there is no buffer. An error (nothing there, the interface is down) shows in what arrives.
        let _ = unsafe { libc::recv(self.receive.fd().as_raw_fd(), std::ptr::null_mut(), 0, libc::MSG_DONTWAIT) };
    }

    fn receive(&mut self, handle: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        // SAFETY: the descriptors are overwritten by ones of this UMEM.
        let count = unsafe { self.receive.consume(&mut self.descriptors) };
        if count == 0 {
            return Ok(0);
        }
        let mut packets = 0;
        for (at, descriptor) in self.descriptors[..count].iter().enumerate() {
            if let Some(next) = self.descriptors[..count].get(at + 1) {
                // SAFETY: as below.
                wire::prefetch(unsafe { self.umem.data(next) }.contents());
            }
            // SAFETY: the kernel has just handed over this frame of this UMEM, and gets it back below, after the last use.
            let data = unsafe { self.umem.data(descriptor) }.contents();
            let last = !descriptor.has_more_frames();
            if last && self.gathered.is_empty() && !self.too_long {
                packets += 1;
                if let Some(payload) = udp_payload(data) {
                    handle(payload);
                }
                continue;
            }
            self.too_long |= data.len() > self.gathered.capacity() - self.gathered.len();
            if !self.too_long {
                self.gathered.extend_from_slice(data);
            }
            if last {
                packets += 1;
                if let (false, Some(payload)) = (self.too_long, udp_payload(&self.gathered)) {
                    handle(payload);
                }
                self.gathered.clear();
                self.too_long = false;
            }
        }
        // SAFETY: these frames were consumed above and nothing refers to them any more. The ring has room: it holds all frames.
        unsafe { self.fill.produce_and_wakeup(&self.descriptors[..count], self.receive.fd_mut(), 0) }?;
        Ok(packets)
    }
}

/// A bind may have made the driver restart its rings, and with them the link.
fn wait_for_carrier(interface: &Interface) {
    let deadline = Instant::now() + CARRIER_WAIT;
    while !interface.is_running().unwrap_or(true) && Instant::now() < deadline {
        thread::sleep(RETRY_PAUSE);
    }
}

fn is_zero_copy(socket: i32) -> io::Result<bool> {
    let mut options = 0_u32;
    let mut bytes = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel writes one `u32` during the call.
    let result = unsafe { libc::getsockopt(socket, libc::SOL_XDP, libc::XDP_OPTIONS, (&raw mut options).cast(), &raw mut bytes) };
    if result == 0 { Ok(options & XDP_OPTIONS_ZEROCOPY != 0) } else { Err(io::Error::last_os_error()) }
}

fn error_code(error: &xsk_rs::socket::SocketCreateError) -> Option<i32> {
    error.source()?.downcast_ref::<io::Error>()?.raw_os_error()
}

/// The kernel's answer, or the library's where there is none.
fn in_words(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
