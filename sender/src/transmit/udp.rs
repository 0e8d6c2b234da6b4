//! Transmission through a UDP socket: with segmentation offload (UDP_SEGMENT: one system call carries up to 64 packets) where the
//! kernel has it, else with sendmmsg.

use super::{Choice, Error, Mode, Packet, STALL_LIMIT, Transmit, TransmitConfig};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};
use wire::packet::HEADER_BYTES;

/// UDP_MAX_SEGMENTS of kernels before 6.9; later ones take 128.
const SEGMENTS_MAX: usize = 64;
/// A segmented buffer is one IP packet to the kernel at first: 65,535 bytes less IPv6 and UDP headers.
const SEGMENTED_BYTES_MAX: usize = 65_535 - 48;
/// Room for a few milliseconds of 10 Gbit/s; net.core.wmem_max may allow less.
const SEND_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A connected UDP socket for each stream.
pub struct Udp {
    /// By stream id.
    sockets: Vec<Socket>,
    interface: String,
    segmentation: bool,
    /// The headers of the packets of a system call; symbols are read from where they are.
    headers: Vec<[u8; HEADER_BYTES]>,
}

impl Udp {
    /// Opens the sockets on the interface of `config`.
    ///
    /// # Errors
    /// [`Error::UdpSetup`].
    pub fn open(config: &TransmitConfig) -> Result<Udp, Error> {
        let sockets = config.groups.iter().map(|&group| socket(config, group)).collect::<Result<_, _>>()?;
        Ok(Udp {
            sockets,
            interface: config.interface.name.clone(),
            segmentation: config.choice != Choice::UdpPlain && segmentation_works(config.payload_bytes),
            headers: Vec::with_capacity(SEGMENTS_MAX),
        })
    }

    /// For the line at start.
    pub(super) fn details(&self) -> &'static str {
        if self.segmentation { "with segmentation offload (GSO)" } else { "without segmentation offload" }
    }

    /// Sends the first of `packets` in one system call and returns how many it took.
    fn send_some(&mut self, packets: &[Packet<'_>]) -> io::Result<usize> {
        let Some(stream) = packets.first().map(|packet| packet.header.stream) else { return Ok(0) };
        let one_stream = packets.iter().take_while(|packet| packet.header.stream == stream).count();
        let count = one_stream.min(SEGMENTS_MAX);
        self.headers.clear();
        self.headers.extend(packets[..count].iter().map(|packet| {
            let mut header = [0; HEADER_BYTES];
            packet.header.write(&mut header, packet.symbol);
            header
        }));
        let Some(socket) = self.sockets.get(usize::from(stream.0)) else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
        if self.segmentation { self.send_segmented(socket, &packets[..count]) } else { self.send_separate(socket, &packets[..count]) }
    }

    fn send_segmented(&self, socket: &Socket, packets: &[Packet<'_>]) -> io::Result<usize> {
        let count = segments(packets);
        let Some(first) = packets.first() else { return Ok(0) };
        let mut buffers = [IoSlice::new(&[]); 2 * SEGMENTS_MAX];
        for (at, (packet, header)) in packets[..count].iter().zip(&self.headers).enumerate() {
            buffers[2 * at] = IoSlice::new(header);
            buffers[2 * at + 1] = IoSlice::new(packet.symbol.bytes());
        }
        let control = segment_control(first.payload_bytes() as u16);
        let message = MsgHdr::new().with_buffers(&buffers[..2 * count]);
        let message = if count > 1 { message.with_control(&control) } else { message };
        socket.sendmsg(&message, 0)?;
        Ok(count)
    }

    fn send_separate(&self, socket: &Socket, packets: &[Packet<'_>]) -> io::Result<usize> {
        let buffers: Vec<[IoSlice<'_>; 2]> =
            packets.iter().zip(&self.headers).map(|(packet, header)| [IoSlice::new(header), IoSlice::new(packet.symbol.bytes())]).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> = packets.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<MMsgHdr<'_>> =
            buffers.iter().zip(&mut controls).map(|(buffers, control)| MMsgHdr::new(buffers, control)).collect();
        Ok(sendmmsg(socket, &mut messages, SendFlags::empty())?)
    }
}

/// A socket that sends to `group`, from the source and interface of `config`.
pub(super) fn socket(config: &TransmitConfig, group: SocketAddr) -> Result<Socket, Error> {
    let failed = |what| {
        move |source| Error::UdpSetup { source_address: config.source, group, interface: config.interface.name.clone(), what, source }
    };
    let ipv4 = group.is_ipv4();
    let domain = if ipv4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.cloexec(), Some(Protocol::UDP)).map_err(failed("opening a socket"))?;
    socket.set_reuse_address(true).map_err(failed("sharing the port"))?;
    let index = config.interface.index;
    if let SocketAddr::V4(source) = config.source {
        socket.set_multicast_if_v4(source.ip()).map_err(failed("choosing the interface"))?;
        socket.set_multicast_ttl_v4(config.hops.into()).map_err(failed("setting the TTL"))?;
        socket.set_multicast_loop_v4(false).map_err(failed("switching loopback off"))?;
    } else {
        socket.set_multicast_if_v6(index).map_err(failed("choosing the interface"))?;
        socket.set_multicast_hops_v6(config.hops.into()).map_err(failed("setting the hop limit"))?;
        socket.set_multicast_loop_v6(false).map_err(failed("switching loopback off"))?;
    }
    // A limit below ours is no reason not to serve.
    let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
    socket.set_write_timeout(Some(STALL_LIMIT)).map_err(failed("setting a time limit"))?;
    // Two interfaces may have the same IPv4 address; binding to the device needs privilege on old kernels, so it is only tried.
    let _ = socket.bind_device(Some(config.interface.name.as_bytes()));
    socket.bind(&on_link(config.source, index)).map_err(failed("binding"))?;
    socket.connect(&on_link(group, index)).map_err(failed("connecting to the group"))?;
    Ok(socket)
}

impl Transmit for Udp {
    fn send(&mut self, packets: &[Packet<'_>]) -> Result<usize, Error> {
        let mut sent = 0;
        let mut stalled_since: Option<Instant> = None;
        while sent < packets.len() {
            let error = match self.send_some(&packets[sent..]) {
                Ok(count) => {
                    sent += count;
                    stalled_since = None;
                    continue;
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                // EIO: the interface cannot make checksums for segments; the others: a kernel without UDP_SEGMENT, or a route with
                // a smaller MTU.
                Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP | libc::EMSGSIZE) if self.segmentation => {
                    tracing::warn!("{}: segmentation offload refused ({error}); going on without it", self.interface);
                    self.segmentation = false;
                    continue;
                }
                // The queue is full, or the link is down or has just lost its address or route.
                Some(libc::EAGAIN | libc::ENOBUFS | libc::ENETDOWN | libc::ENETUNREACH | libc::EHOSTUNREACH) => {}
                _ => return Err(Error::Send { interface: self.interface.clone(), source: error }),
            }
            if stalled_since.get_or_insert_with(Instant::now).elapsed() >= STALL_LIMIT {
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(sent)
    }

    fn flush(&mut self, _limit: Duration) -> bool {
        // What a UDP socket has accepted is sent even when it is closed.
        true
    }

    fn mode(&self) -> Mode {
        if self.segmentation { Mode::UdpSegmentation } else { Mode::Udp }
    }
}

/// How many of `packets` can go as segments of one buffer: all of the first one's length, save a shorter last.
fn segments(packets: &[Packet<'_>]) -> usize {
    let Some(first) = packets.first() else { return 0 };
    let segment_bytes = first.payload_bytes();
    let limit = (SEGMENTED_BYTES_MAX / segment_bytes).clamp(1, SEGMENTS_MAX);
    let mut count = 0;
    for packet in packets.iter().take(limit) {
        if packet.payload_bytes() > segment_bytes {
            break;
        }
        count += 1;
        if packet.payload_bytes() < segment_bytes {
            break;
        }
    }
    count
}

/// The control message UDP_SEGMENT with its length: `struct cmsghdr` (size_t length, int level, int type), then the value, padded to a word.
fn segment_control(segment_bytes: u16) -> [u8; CONTROL_BYTES] {
    const WORD: usize = size_of::<usize>();
    let mut control = [0; CONTROL_BYTES];
    control[..WORD].copy_from_slice(&(WORD + 8 + 2).to_ne_bytes());
    control[WORD..WORD + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[WORD + 4..WORD + 8].copy_from_slice(&UDP_SEGMENT.to_ne_bytes());
    control[WORD + 8..WORD + 10].copy_from_slice(&segment_bytes.to_ne_bytes());
    control
}

const CONTROL_BYTES: usize = size_of::<usize>() + 8 + size_of::<usize>();
/// linux/udp.h; the libc crate has it for some C libraries only.
const UDP_SEGMENT: libc::c_int = 103;

/// Whether this kernel cuts a buffer into datagrams: two of them, from and to the loopback interface.
fn segmentation_works(payload_bytes: usize) -> bool {
    let probe = || -> io::Result<bool> {
        let receiver = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
        let sender = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        sender.connect(&receiver.local_addr()?.into())?;
        let bytes = payload_bytes.min(1024);
        let data = vec![0; 2 * bytes];
        sender.sendmsg(&MsgHdr::new().with_buffers(&[IoSlice::new(&data)]).with_control(&segment_control(bytes as u16)), 0)?;
        Ok(receiver.recv(&mut vec![0; 4 * bytes])? == bytes)
    };
    // A machine whose loopback is down finds out with the first batch.
    probe().unwrap_or_else(|error| error.kind() == io::ErrorKind::NetworkUnreachable)
}

/// `address` with the interface as its scope, which link-local addresses need.
fn on_link(address: SocketAddr, index: u32) -> SockAddr {
    match address {
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, index).into(),
        v4 => v4.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::packet::Header;
    use wire::{Sequence, SessionId, StreamId, Symbol};

    fn packets(lengths: &[usize]) -> Vec<Packet<'static>> {
        static SYMBOL: [u8; 9000] = [0x5A; 9000];
        let header = |sequence| Header::sync(SessionId(1), 1, StreamId(0), Sequence(sequence));
        lengths.iter().enumerate().map(|(at, &bytes)| Packet { header: header(at as u32), symbol: Symbol::new(&SYMBOL[..bytes]) }).collect()
    }

    #[test]
    fn segments_are_equal_and_only_the_last_is_shorter() {
        assert_eq!(segments(&packets(&[1408, 1408, 1408])), 3);
        assert_eq!(segments(&packets(&[1408, 0, 1408])), 2, "a sync ends the buffer");
        assert_eq!(segments(&packets(&[0, 1408])), 1, "a longer one starts the next");
        assert_eq!(segments(&packets(&[0, 0])), 2);
        assert_eq!(segments(&packets(&[1408; 100])), 45, "64 KiB");
        assert_eq!(segments(&packets(&[100; 100])), 64);
        assert_eq!(segments(&packets(&[8768; 20])), 7);
        assert_eq!(segments(&[]), 0);
    }

    /// A sender connected to a receiver over loopback, which needs no privilege; multicast itself is tested in namespaces.
    fn pair(segmentation: bool) -> (Udp, std::net::UdpSocket) {
        let receiver = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.connect(&receiver.local_addr().unwrap().into()).unwrap();
        (Udp { sockets: vec![socket], interface: "lo".to_owned(), segmentation, headers: Vec::new() }, receiver)
    }

    #[test]
    fn what_is_sent_arrives_packet_by_packet_in_order_with_and_without_segmentation() {
        for segmentation in [false, segmentation_works(1436)] {
            let (mut udp, receiver) = pair(segmentation);
            let packets = packets(&[1408, 1408, 1408, 0, 1408, 0]);
            assert_eq!(udp.send(&packets).unwrap(), packets.len());
            for packet in &packets {
                let mut datagram = [0; 2000];
                let bytes = receiver.recv(&mut datagram).unwrap();
                assert_eq!(Header::parse(&datagram[..bytes]), Ok((packet.header, packet.symbol.bytes())));
            }
        }
    }
}
