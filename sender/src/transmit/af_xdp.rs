//! Transmission through an AF_XDP socket: whole frames are built in memory shared with the kernel (the UMEM) and handed over through
//! a ring, a batch at a time. A packet longer than a UMEM frame takes several (multi-buffer, Linux 6.6 and later).
//!
//! Every UMEM frame is in exactly one place: the free list here, the transmit ring or the kernel, or the completion ring. [`AfXdp`]
//! keeps that rule; it is what makes writing into a frame sound.
#![allow(unsafe_code)]

use super::{Error, Mode, Packet, STALL_LIMIT, Transmit, TransmitConfig};
use std::error::Error as _;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use wire::frame::FrameTemplate;
use wire::packet::HEADER_BYTES;
use xsk_rs::config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

/// Frames in flight at most, and so the size of the transmit and completion rings: 2 to 3 ms of 10 Gbit/s, enough to keep a card busy
/// between two batches, and 4 MiB of memory.
const TRANSMIT_FRAMES: u32 = 2048;
/// Frames given to the card for what it receives on the queue that a zero-copy socket takes over; virtio wants as many as its ring.
const FILL_FRAMES: u32 = 2048;
/// Bytes the kernel keeps free in front of each frame (XDP_PACKET_HEADROOM).
const XDP_HEADROOM_BYTES: usize = 256;
/// Frames are a power of two, at least 2048 and at most a page (without huge pages).
const FRAME_BYTES_CHOICES: [usize; 2] = [2048, 4096];
/// Frames of one packet at most: MAX_SKB_FRAGS is 17, and what does not fit the first is in fragments of a page.
const PARTS_MAX: usize = 16;
/// More of the packet follows in the next frame (linux/if_xdp.h).
const XDP_PKT_CONTD: u32 = 1;
/// In copy mode every frame in flight is charged to the socket's send buffer with its skb (about 2.3 KiB at MTU 1500); the default of
/// 208 KiB would stop at some 90.
const SEND_BUFFER_BYTES: libc::c_int = 16 * 1024 * 1024;
/// `SO_BUSY_POLL`: microseconds that one kick may drive the queue; it must not be 0.
const BUSY_POLL_US: libc::c_int = 20;
/// `SO_BUSY_POLL_BUDGET`: packets that one kick may take from the card; sending has a budget of its own.
const BUSY_POLL_BUDGET: libc::c_int = 64;
/// In asm-generic/socket.h since Linux 5.11.
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
/// `setsockopt(SOL_XDP)`: frames that one kick sends in copy mode; 32 unless raised. Linux 6.17, linux/if_xdp.h.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// A queue that another socket has just left is busy for a moment.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// Cards that reset on binding need a few seconds for link training.
const CARRIER_LIMIT: Duration = Duration::from_secs(10);

/// An AF_XDP socket that only transmits.
pub struct AfXdp {
    zero_copy: bool,
    budget_raised: bool,
    busy_poll: bool,
    interface: String,
    /// By stream id.
    templates: Vec<FrameTemplate>,
    /// Of a packet, what one UMEM frame holds.
    part_bytes: usize,
    umem: Umem,
    transmit: TxQueue,
    completion: CompQueue,
    free: Vec<FrameDesc>,
    filled: Vec<FrameDesc>,
    completed: Vec<FrameDesc>,
    // Kept alive: the kernel and libxdp hold on to these rings.
    _fill: FillQueue,
    _receive: RxQueue,
}

impl AfXdp {
    /// Opens a socket on the interface and queue of `config`.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] when AF_XDP cannot carry this stream here, [`Error::AfXdp`] when the kernel or driver refuses.
    pub fn open(config: &TransmitConfig, zero_copy: bool) -> Result<AfXdp, Error> {
        let interface = &config.interface;
        let Some(mac) = interface.mac else {
            return Err(Error::Unsuitable(format!("{} is not Ethernet", interface.name)));
        };
        let template = |&group| FrameTemplate::new(mac, config.source, group, config.hops);
        let templates: Vec<FrameTemplate> =
            config.groups.iter().map(template).collect::<Result<_, _>>().map_err(|error| Error::Unsuitable(error.to_string()))?;
        let needed_bytes = config.frame_bytes(config.payload_bytes);
        let layout = Layout::new(needed_bytes)
            .ok_or_else(|| Error::Unsuitable(format!("frames of {needed_bytes} bytes take more than {PARTS_MAX} UMEM frames")))?;
        let started = Instant::now();
        let mut socket = loop {
            match AfXdp::bind(config, &templates, layout, zero_copy) {
                Err(Error::AfXdp { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) && started.elapsed() < BUSY_LIMIT => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => break other?,
            }
        };
        // Frames that are handed over while the link is down are lost without a trace.
        if !interface.wait_for_carrier(CARRIER_LIMIT) {
            tracing::warn!("{} has no carrier; packets are lost until it has one", interface.name);
        }
        socket.raise_limits();
        if zero_copy && config.busy_poll {
            socket.prefer_busy_poll()?;
        }
        Ok(socket)
    }

    fn bind(config: &TransmitConfig, templates: &[FrameTemplate], layout: Layout, zero_copy: bool) -> Result<AfXdp, Error> {
        let invalid = |what| Error::AfXdp { what, source: io::ErrorKind::InvalidInput.into() };
        let ring = QueueSize::new(TRANSMIT_FRAMES).map_err(|_| invalid("ring size"))?;
        let fill_ring = QueueSize::new(FILL_FRAMES).map_err(|_| invalid("ring size"))?;
        let umem_config = UmemConfig::builder()
            .frame_size(FrameSize::new(layout.frame_bytes as u32).map_err(|_| invalid("frame size"))?)
            .fill_queue_size(fill_ring)
            .comp_queue_size(ring)
            .build()
            .map_err(|_| invalid("UMEM layout"))?;
        let frames = TRANSMIT_FRAMES + if zero_copy { FILL_FRAMES } else { 0 };
        let frame_count = NonZeroU32::new(frames).unwrap_or(NonZeroU32::MIN);
        let (umem, mut free) = Umem::new(umem_config, frame_count, false)
            .map_err(|error| Error::AfXdp { what: "registering the UMEM", source: system_error(error.source()) })?;
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        flags |= if zero_copy { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
        if layout.parts > 1 {
            flags |= BindFlags::XDP_USE_SG;
        }
        let socket_config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags)
            .build();
        let name = config.interface.name.parse().map_err(|_| invalid("interface name"))?;
        // SAFETY: the UMEM is new and used by this socket alone, and no XDP program is loaded by it.
        let opened = unsafe { Socket::new(socket_config, &umem, &name, config.queue) };
        let (transmit, mut receive, rings) =
            opened.map_err(|error| Error::AfXdp { what: "binding the socket", source: system_error(error.source()) })?;
        let Some((mut fill, completion)) = rings else {
            return Err(Error::AfXdp { what: "binding the socket", source: io::ErrorKind::AddrInUse.into() });
        };
        if zero_copy {
            // The card now receives this queue's packets into our frames, and passes them to the stack by copy: without frames the
            // machine would hear nothing on the queue. They circulate within the kernel.
            let for_receive = free.split_off(TRANSMIT_FRAMES as usize);
            // SAFETY: these frames belong to this UMEM and leave our hands here for good. The driver has looked before there were any, and
            // looks again only when it is told to.
            unsafe { fill.produce_and_wakeup(&for_receive, receive.fd_mut(), 0) }
                .map_err(|source| Error::AfXdp { what: "giving the card frames to receive into", source })?;
        }
        Ok(AfXdp {
            zero_copy,
            budget_raised: false,
            busy_poll: false,
            interface: config.interface.name.clone(),
            templates: templates.to_vec(),
            part_bytes: layout.part_bytes(),
            umem,
            transmit,
            completion,
            free,
            filled: Vec::with_capacity(TRANSMIT_FRAMES as usize),
            completed: vec![FrameDesc::default(); TRANSMIT_FRAMES as usize],
            _fill: fill,
            _receive: receive,
        })
    }

    /// Has the kernel leave the queue to this thread, whose kicks then run the driver (Documentation/networking/napi.rst).
    fn prefer_busy_poll(&mut self) -> Result<(), Error> {
        let options = [(SO_PREFER_BUSY_POLL, 1), (libc::SO_BUSY_POLL, BUSY_POLL_US), (SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET)];
        for (option, value) in options {
            if !self.set_option(libc::SOL_SOCKET, option, value) {
                return Err(Error::AfXdp { what: "busy polling", source: io::Error::last_os_error() });
            }
        }
        self.busy_poll = true;
        Ok(())
    }

    /// Lets one kick send a whole ring in copy mode, where the kernel can be told to.
    fn raise_limits(&mut self) {
        if self.zero_copy {
            return;
        }
        // Forced past net.core.wmem_max when privileged, else as far as that allows.
        if !self.set_option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER_BYTES) {
            self.set_option(libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER_BYTES);
        }
        self.budget_raised = self.set_option(libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, TRANSMIT_FRAMES as libc::c_int);
    }

    fn set_option(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> bool {
        // SAFETY: `value` lives across the call and its size is given.
        let outcome = unsafe {
            libc::setsockopt(
                self.transmit.fd().as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        outcome == 0
    }

    /// For the line at start.
    pub(super) fn details(&self) -> &'static str {
        match (self.zero_copy, self.budget_raised) {
            (true, _) if self.busy_poll => "no XDP program needed, busy polling",
            (true, _) => "no XDP program needed",
            (false, true) => "a whole batch per kick",
            (false, false) => "32 frames per kick",
        }
    }

    /// Takes back the frames that the kernel is done with.
    fn reap(&mut self) -> usize {
        // SAFETY: the descriptors are placeholders that are overwritten; every address read back belongs to our UMEM, because we
        // submitted it.
        let count = unsafe { self.completion.consume(&mut self.completed) };
        self.free.extend_from_slice(&self.completed[..count]);
        count
    }

    /// Builds frames for the first of `packets` that free frames suffice for, and hands them to the ring. Returns how many packets.
    fn submit(&mut self, packets: &[Packet<'_>]) -> Result<usize, Error> {
        // Read at each batch: a frame completes only after its ring slot was read, so slots never run out before frames do.
        let mut slots = self.free.len().min(self.transmit.nb_free_exact() as usize);
        let mut count = 0;
        self.filled.clear();
        for (at, packet) in packets.iter().enumerate() {
            if let Some(next) = packets.get(at + 1) {
                wire::prefetch(next.symbol.bytes());
            }
            match self.build(packet, slots) {
                Ok(0) => break,
                Ok(parts) => slots -= parts,
                Err(error) => {
                    self.free.append(&mut self.filled);
                    return Err(error);
                }
            }
            count += 1;
        }
        // SAFETY: the frames are of this UMEM and have left the free list; they come back through the completion ring.
        let produced = unsafe { self.transmit.produce(&self.filled) };
        if produced < self.filled.len() {
            // Cannot be: the room was counted above, and the ring takes all or nothing. Keep the rule that every frame is in one place.
            self.free.extend(self.filled.drain(produced..));
            count = 0;
        }
        Ok(count)
    }

    /// Builds a packet in frames from the free list, if it takes at most so many, and appends them to `filled`. Returns how many.
    fn build(&mut self, packet: &Packet<'_>, slots: usize) -> Result<usize, Error> {
        let stream = packet.header.stream;
        let Some(template) = self.templates.get(usize::from(stream.0)) else {
            return Err(Error::Unsuitable(format!("there is no stream {stream}")));
        };
        let bytes = template.header_bytes() + packet.payload_bytes();
        let parts = bytes.div_ceil(self.part_bytes);
        if parts > PARTS_MAX {
            return Err(Error::Unsuitable(format!("a packet of {bytes} bytes takes more than {PARTS_MAX} frames")));
        }
        if parts > slots {
            return Ok(0);
        }
        let mut rest = packet.symbol.bytes();
        for part in 0..parts {
            let Some(mut frame) = self.free.pop() else { break };
            {
                // SAFETY: the descriptor came from this UMEM and was in the free list, so nobody else reads or writes the frame.
                let mut data = unsafe { self.umem.data_mut(&mut frame) };
                data.cursor().set_pos((bytes - part * self.part_bytes).min(self.part_bytes));
                let out = data.contents_mut();
                let room = if part == 0 { write_start(template, packet, out) } else { Ok(out) };
                let room = match room {
                    Ok(room) => room,
                    Err(error) => {
                        self.free.push(frame);
                        return Err(error);
                    }
                };
                let (now, later) = rest.split_at(room.len().min(rest.len()));
                room[..now.len()].copy_from_slice(now);
                rest = later;
            }
            frame.set_options(if part + 1 < parts { XDP_PKT_CONTD } else { 0 });
            self.filled.push(frame);
        }
        Ok(parts)
    }

    /// Makes the kernel look at the ring; in copy mode until it has taken everything, or takes nothing more for now. Returns whether
    /// the ring is empty.
    fn kick(&mut self) -> Result<bool, Error> {
        let mut queued = TRANSMIT_FRAMES - self.transmit.nb_free_exact();
        loop {
            if self.busy_poll || self.transmit.needs_wakeup() {
                self.transmit.wakeup().map_err(|source| Error::Send { interface: self.interface.clone(), source })?;
            }
            let left = TRANSMIT_FRAMES - self.transmit.nb_free_exact();
            if left == 0 || self.zero_copy || left == queued {
                return Ok(left == 0);
            }
            queued = left;
        }
    }
}

impl Transmit for AfXdp {
    fn send(&mut self, packets: &[Packet<'_>]) -> Result<usize, Error> {
        let mut sent = 0;
        let mut stalled_since: Option<Instant> = None;
        loop {
            let mut progress = self.reap();
            let submitted = self.submit(&packets[sent..])?;
            sent += submitted;
            progress += submitted;
            let emptied = self.kick()?;
            if sent == packets.len() && (emptied || self.zero_copy) {
                return Ok(sent);
            }
            if progress > 0 {
                stalled_since = None;
                continue;
            }
            // The ring or the send buffer is full: the receiver side of a veth, or the link, is slower than we are.
            if stalled_since.get_or_insert_with(Instant::now).elapsed() >= STALL_LIMIT {
                return Ok(sent);
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    fn flush(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            self.reap();
            if self.free.len() >= TRANSMIT_FRAMES as usize {
                return true;
            }
            if self.kick().is_err() || Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn mode(&self) -> Mode {
        if self.zero_copy { Mode::AfXdpZeroCopy } else { Mode::AfXdpCopy }
    }
}

/// How packets lie in the UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    frame_bytes: usize,
    /// Frames of the longest packet.
    parts: usize,
}

impl Layout {
    /// For packets of up to `needed_bytes`; none when these are too long.
    fn new(needed_bytes: usize) -> Option<Layout> {
        let [small, page] = FRAME_BYTES_CHOICES;
        let frame_bytes = if needed_bytes + XDP_HEADROOM_BYTES <= small { small } else { page };
        let parts = needed_bytes.div_ceil(frame_bytes - XDP_HEADROOM_BYTES).max(1);
        (parts <= PARTS_MAX).then_some(Layout { frame_bytes, parts })
    }

    fn part_bytes(&self) -> usize {
        self.frame_bytes - XDP_HEADROOM_BYTES
    }
}

/// Writes all headers at the start of `frame`, and returns the room behind them, for the symbol or its first part.
fn write_start<'a>(template: &FrameTemplate, packet: &Packet<'_>, frame: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
    let too_long = || Error::Unsuitable(format!("a packet of {} bytes does not fit its frame", packet.payload_bytes()));
    let (headers, payload) = frame.split_at_mut_checked(template.header_bytes()).ok_or_else(too_long)?;
    let (header, room) = payload.split_first_chunk_mut::<HEADER_BYTES>().ok_or_else(too_long)?;
    packet.header.write(header, packet.symbol);
    template.write_headers(headers, header, packet.symbol).map_err(|_| too_long())?;
    Ok(room)
}

/// The operating system's error under one of xsk-rs's.
fn system_error(source: Option<&(dyn std::error::Error + 'static)>) -> io::Error {
    let code = source.and_then(|source| source.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    code.map_or_else(|| io::ErrorKind::Other.into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::frame::MacAddress;
    use wire::packet::Header;
    use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

    #[test]
    fn ordinary_packets_take_half_a_page_and_jumbo_ones_several() {
        let of = |needed_bytes| Layout::new(needed_bytes).map(|layout| (layout.frame_bytes, layout.parts));
        assert_eq!(of(1498), Some((2048, 1)));
        assert_eq!(of(1792), Some((2048, 1)));
        assert_eq!(of(1793), Some((4096, 1)));
        assert_eq!(of(3840), Some((4096, 1)));
        assert_eq!(of(3841), Some((4096, 2)));
        assert_eq!(of(9014), Some((4096, 3)));
        assert_eq!(of(PARTS_MAX * 3840), Some((4096, PARTS_MAX)));
        assert_eq!(of(PARTS_MAX * 3840 + 1), None);
    }

    #[test]
    fn a_frame_holds_headers_and_as_much_of_the_symbol_as_fits() {
        let template =
            FrameTemplate::new(MacAddress([2, 0, 0, 0, 0, 1]), "10.0.0.1:4700".parse().unwrap(), "239.0.0.1:4700".parse().unwrap(), 1)
                .unwrap();
        let header = Header {
            kind: wire::packet::Kind::Symbol,
            session: SessionId(1),
            chunk: ChunkId(2),
            symbol: SymbolIndex(3),
            source_symbols: 4,
            sequence: Sequence(5),
            stream: StreamId(6),
        };
        let symbol = [0xAB; 64];
        let mut frame = vec![0; template.header_bytes() + HEADER_BYTES + symbol.len()];
        let packet = Packet { header, symbol: Symbol::new(&symbol) };
        write_start(&template, &packet, &mut frame).unwrap().copy_from_slice(&symbol);
        assert_eq!(Header::parse(&frame[42..]), Ok((header, &symbol[..])));
        assert_eq!(&frame[..3], &[0x01, 0x00, 0x5E]);
        // Of a packet in several frames the first holds what fits.
        assert_eq!(write_start(&template, &packet, &mut frame[..90]).unwrap().len(), 90 - 42 - HEADER_BYTES);
        assert!(write_start(&template, &packet, &mut frame[..60]).is_err());
        assert!(write_start(&template, &packet, &mut frame[..20]).is_err());
    }
}
