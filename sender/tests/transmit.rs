//! Transmission through real sockets between network namespaces: every mode sends the same packets, and what cannot work falls back.
//!
//! | test | what it proves |
//! | --- | --- |
//! | `*_arrives_whole_and_in_order` | frames, checksums and headers are such that another machine's kernel accepts them |
//! | `more_packets_than_frames` | UMEM frames come back and are used again |
//! | `zero_copy_falls_back` | a driver without zero-copy is served in copy mode, and the line says so |
//! | `jumbo_packets_*_arrive_whole` | packets of several UMEM frames, and their frames come back too |
//! | `the_queue_is_free_after_drop` | nothing stays bound |
//! | `a_link_that_goes_down_stalls_and_recovers` | no packet is taken twice or lost silently while the link is down, and no call hangs |

mod support;

use libtest_mimic::{Arguments, Failed, Trial};
use sender::interface::Interface;
use sender::transmit::{self, Choice, Mode, Opened, Packet, TransmitConfig};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use support::{Namespace, Pair};
use wire::packet::{HEADER_BYTES, Header, Kind};
use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

const SYMBOL_BYTES: usize = 1408;
const GROUP_V4: &str = "239.192.68.1:4700";
const GROUP_V6: &str = "[ff18::d15c]:4700";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let obstacle = if arguments.list { None } else { support::obstacle() };
    if let Some(reason) = &obstacle {
        eprintln!("skipped: {reason}");
    }
    type Test = fn() -> Result<(), Failed>;
    let tests: [(&str, Test); 10] = [
        ("af_xdp_over_ipv4_arrives_whole_and_in_order", || arrives(GROUP_V4, Choice::AfXdpCopy, Mode::AfXdpCopy)),
        ("af_xdp_over_ipv6_arrives_whole_and_in_order", || arrives(GROUP_V6, Choice::AfXdpCopy, Mode::AfXdpCopy)),
        ("udp_over_ipv4_arrives_whole_and_in_order", || arrives(GROUP_V4, Choice::Udp, Mode::UdpSegmentation)),
        ("udp_over_ipv6_arrives_whole_and_in_order", || arrives(GROUP_V6, Choice::Udp, Mode::UdpSegmentation)),
        ("more_packets_than_frames", more_packets_than_frames),
        ("zero_copy_falls_back", zero_copy_falls_back),
        ("jumbo_packets_over_ipv4_arrive_whole", || jumbo_packets_arrive(GROUP_V4)),
        ("jumbo_packets_over_ipv6_arrive_whole", || jumbo_packets_arrive(GROUP_V6)),
        ("the_queue_is_free_after_drop", the_queue_is_free_after_drop),
        ("a_link_that_goes_down_stalls_and_recovers", a_link_that_goes_down_stalls_and_recovers),
    ];
    let trials = tests.into_iter().map(|(name, test)| Trial::test(name, test).with_ignored_flag(obstacle.is_some())).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn open(sender: &Namespace, group: &str, choice: Choice, symbol_bytes: usize) -> Result<Opened, Failed> {
    let group: SocketAddr = group.parse()?;
    let opened = sender.inside(|| {
        let interface = Interface::find("eth0").map_err(|error| error.to_string())?;
        let source = interface.source_for(group.ip()).map_err(|error| error.to_string())?;
        let config = TransmitConfig {
            busy_poll: false,
            interface,
            queue: 0,
            source: SocketAddr::new(source, group.port()),
            groups: vec![group],
            hops: 1,
            payload_bytes: HEADER_BYTES + symbol_bytes,
            choice,
        };
        transmit::open(&config).map_err(|error| error.to_string())
    })?;
    Ok(opened?)
}

fn join(receiver: &Namespace, group: &str) -> Result<UdpSocket, Failed> {
    let group: SocketAddr = group.parse()?;
    let joined = receiver.inside(move || -> std::io::Result<UdpSocket> {
        let index = Interface::find("eth0").map_err(std::io::Error::other)?.index;
        let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_recv_buffer_size(4 * 1024 * 1024)?;
        socket.bind(&SocketAddr::new(if group.is_ipv4() { [0, 0, 0, 0].into() } else { IpAddr::from([0u16; 8]) }, group.port()).into())?;
        match group.ip() {
            IpAddr::V4(v4) => socket.join_multicast_v4_n(&v4, &socket2::InterfaceIndexOrAddress::Index(index))?,
            IpAddr::V6(v6) => socket.join_multicast_v6(&v6, index)?,
        }
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket.into())
    })?;
    Ok(joined?)
}

/// Different bytes for every symbol.
fn symbol(number: u32) -> Vec<u8> {
    (0..SYMBOL_BYTES as u32).map(|at| (at.wrapping_mul(31).wrapping_add(number.wrapping_mul(7))) as u8).collect()
}

fn header(number: u32) -> Header {
    Header {
        kind: Kind::Symbol,
        session: SessionId(0xD15C),
        chunk: ChunkId(number / 16),
        symbol: SymbolIndex((number % 16) as u16),
        source_symbols: 16,
        sequence: Sequence(number),
        stream: StreamId(0),
    }
}

fn send_all(opened: &mut Opened, packets: &[Packet<'_>]) -> Result<(), Failed> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut sent = 0;
    while sent < packets.len() {
        sent += opened.transmit.send(&packets[sent..])?;
        if Instant::now() > deadline {
            return Err(format!("{sent} of {} packets within 20 s", packets.len()).into());
        }
    }
    Ok(())
}

fn arrives(group: &str, choice: Choice, mode: Mode) -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    let socket = join(&pair.receiver, group)?;
    let mut opened = open(&pair.sender, group, choice, SYMBOL_BYTES)?;
    if opened.transmit.mode() != mode {
        return Err(format!("not {mode:?}: {}", opened.description).into());
    }
    let symbols: Vec<Vec<u8>> = (0..200).map(symbol).collect();
    let packets = |numbers: std::ops::Range<u32>| -> Vec<Packet<'_>> {
        let mut packets: Vec<Packet<'_>> =
            numbers.clone().map(|number| Packet { header: header(number), symbol: Symbol::new(&symbols[number as usize]) }).collect();
        packets.push(Packet { header: Header::sync(SessionId(0xD15C), 99, StreamId(0), Sequence(numbers.end)), symbol: Symbol::empty() });
        packets
    };
    // In batches with a short last packet, and one of a single packet: what a stream sends.
    for numbers in [0..50, 50..51, 51..200] {
        let packets = packets(numbers);
        send_all(&mut opened, &packets)?;
        for packet in &packets {
            let mut datagram = [0; 2000];
            let (bytes, from) = socket.recv_from(&mut datagram)?;
            let parsed = Header::parse(&datagram[..bytes]);
            if parsed != Ok((packet.header, packet.symbol.bytes())) {
                return Err(format!("instead of {:?}: {:?}", packet.header, parsed.map(|(header, _)| header)).into());
            }
            if from.port() != 4700 {
                return Err(format!("from {from}").into());
            }
        }
    }
    if !opened.transmit.flush(Duration::from_secs(5)) {
        return Err("frames did not come back".into());
    }
    Ok(())
}

fn more_packets_than_frames() -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    let mut opened = open(&pair.sender, GROUP_V4, Choice::AfXdpCopy, SYMBOL_BYTES)?;
    let symbol = symbol(0);
    let packets: Vec<Packet<'_>> = (0..10_000).map(|number| Packet { header: header(number), symbol: Symbol::new(&symbol) }).collect();
    send_all(&mut opened, &packets)?;
    if !opened.transmit.flush(Duration::from_secs(5)) {
        return Err("frames did not come back".into());
    }
    let statistics = pair.receiver.ip(&["-json", "-statistics", "link", "show", "eth0"])?;
    let statistics: serde_json::Value = serde_json::from_str(&statistics)?;
    let received = &statistics[0]["stats64"]["rx"];
    let total = received["packets"].as_u64().unwrap_or(0) + received["dropped"].as_u64().unwrap_or(0);
    if total < 10_000 {
        return Err(format!("10,000 packets sent, {received} received").into());
    }
    Ok(())
}

fn zero_copy_falls_back() -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    for choice in [Choice::Auto, Choice::AfXdpZeroCopy] {
        let opened = open(&pair.sender, GROUP_V4, choice, SYMBOL_BYTES)?;
        if opened.transmit.mode() != Mode::AfXdpCopy || !opened.description.contains("no zero-copy") {
            return Err(opened.description.into());
        }
    }
    Ok(())
}

fn jumbo_packets_arrive(group: &str) -> Result<(), Failed> {
    let pair = Pair::new(9000)?;
    let socket = join(&pair.receiver, group)?;
    let mut opened = open(&pair.sender, group, Choice::AfXdpCopy, 8768)?;
    if opened.transmit.mode() != Mode::AfXdpCopy {
        return Err(opened.description.into());
    }
    // Each differs in all three frames that it takes; more packets than the UMEM holds at a time.
    let symbols: Vec<Vec<u8>> = (0..8_u8).map(|seed| (0..8768_u32).map(|at| (at / 7) as u8 ^ seed).collect()).collect();
    for round in 0..150_u32 {
        let packets = || (round * 8..).zip(&symbols);
        let batch: Vec<Packet<'_>> =
            packets().map(|(number, symbol)| Packet { header: header(number), symbol: Symbol::new(symbol) }).collect();
        send_all(&mut opened, &batch)?;
        for (number, symbol) in packets() {
            let mut datagram = vec![0; 10_000];
            let bytes = socket.recv(&mut datagram)?;
            if Header::parse(&datagram[..bytes]) != Ok((header(number), &symbol[..])) {
                return Err(format!("packet {number} differs").into());
            }
        }
    }
    Ok(())
}

fn the_queue_is_free_after_drop() -> Result<(), Failed> {
    let pair = Pair::new(1500)?;
    for _ in 0..5 {
        let opened = open(&pair.sender, GROUP_V4, Choice::AfXdpCopy, SYMBOL_BYTES)?;
        if opened.transmit.mode() != Mode::AfXdpCopy {
            return Err(opened.description.into());
        }
    }
    Ok(())
}

fn a_link_that_goes_down_stalls_and_recovers() -> Result<(), Failed> {
    for choice in [Choice::AfXdpCopy, Choice::Udp] {
        let pair = Pair::new(1500)?;
        let socket = join(&pair.receiver, GROUP_V4)?;
        let mut opened = open(&pair.sender, GROUP_V4, choice, SYMBOL_BYTES)?;
        let symbol = symbol(0);
        pair.sender.ip(&["link", "set", "eth0", "down"])?;
        let began = Instant::now();
        // Taken or not, the call returns soon and without an error.
        opened.transmit.send(&[Packet { header: header(0), symbol: Symbol::new(&symbol) }])?;
        if began.elapsed() > Duration::from_secs(2) {
            return Err(format!("{choice:?}: the call took {:?}", began.elapsed()).into());
        }
        pair.sender.ip(&["link", "set", "eth0", "up"])?;
        let deadline = Instant::now() + Duration::from_secs(10);
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        loop {
            opened.transmit.send(&[Packet { header: header(1), symbol: Symbol::new(&symbol) }])?;
            let mut datagram = [0; 2000];
            match socket.recv(&mut datagram) {
                Ok(bytes) if Header::parse(&datagram[..bytes]) == Ok((header(1), &symbol[..])) => break,
                _ if Instant::now() > deadline => return Err(format!("{choice:?}: nothing arrives after the link is back").into()),
                _ => {}
            }
        }
    }
    Ok(())
}
