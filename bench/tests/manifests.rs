//! Manifests by multicast, end to end: the real control server and real links, over loopback, with what happens to packets on the way.

#![allow(clippy::unwrap_used)]

use receiver::control::{ConnectOptions, ControlLink, Enrolled, ServerAddress, Trust, enrol};
use sender::control::{
    ControlConfig, ControlServer, DescriptiveStream, ImageInfo, Limits, ManifestCounts, OperatorAccess, OperatorToken, Priorities,
    ServerIdentity, SessionInfo, Settings, StreamInfo,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wire::packet::{HEADER_BYTES, Header};
use wire::report::ChunkRange;
use wire::session::SessionParameters;
use wire::{ChunkId, SessionId, StreamId, Symbol};

const DEADLINE: Duration = Duration::from_secs(30);
/// The first interface of every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// Three blocks, the last of which is not full.
const MANIFEST_BYTES: usize = 600_000;
const PROOF_BYTES: usize = 3000;

/// What becomes of one packet on its way.
type Fate = fn(u64, &[u8]) -> Option<Vec<u8>>;

fn manifest(image: u8) -> Vec<u8> {
    (0..MANIFEST_BYTES).map(|at| (at ^ at >> 8 ^ at >> 16) as u8 ^ image).collect()
}

fn proof() -> Vec<u8> {
    vec![0x5A; PROOF_BYTES]
}

/// A sender whose descriptive stream goes through a relay that decides over each packet.
struct Stage {
    control: ControlServer,
    _state: TempDir,
}

impl Stage {
    fn new(group: SocketAddr, fate: Fate) -> Stage {
        let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(relay.local_addr().unwrap()).unwrap();
        let onward = to_group(group);
        // It ends with the test's process.
        thread::spawn(move || {
            let mut packet = [0; 2048];
            for number in 0.. {
                let Ok(bytes) = relay.recv(&mut packet) else { return };
                if let Some(packet) = fate(number, &packet[..bytes]) {
                    onward.send(&packet).unwrap();
                }
            }
        });
        let state = tempfile::tempdir().unwrap();
        let identity = ServerIdentity::load_or_create(state.path()).unwrap();
        let config = ControlConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            limits: Limits::default(),
            settings: Settings { rate_cap_bits_per_second: 1_000_000_000, priorities: Priorities::default() },
            access: OperatorAccess { token: OperatorToken::load_or_create(state.path()).unwrap(), public_status: false },
        };
        let source = IpAddr::from([127, 0, 0, 1]);
        let chunks = vec![ChunkRange { first: ChunkId(0), count: 10 }];
        let image =
            |(index, name): (usize, &str)| ImageInfo { name: name.to_owned(), manifest: manifest(index as u8), chunks: chunks.clone() };
        let info = SessionInfo {
            parameters: SessionParameters { session: SessionId(1), symbol_bytes: 1408, chunk_count: 10, chunk_bytes_max: 256 * 1024 },
            pack_root: [1; 32],
            proof: proof(),
            chunk_source: None,
            images: ["web", "db"].into_iter().enumerate().map(image).collect(),
            streams: vec![StreamInfo { id: StreamId(0), group: ([239, 192, 68, 1], 4700).into(), source }],
            // Long enough for all receivers of a test to ask on a busy machine.
            descriptive: Some(Arc::new(DescriptiveStream { group, source, socket, gather: Duration::from_secs(1) })),
            report_interval_us: 10_000,
        };
        let (events, _) = crossbeam_channel::unbounded();
        Stage { control: ControlServer::start(config, &identity, info, Arc::default(), events).unwrap(), _state: state }
    }

    fn enrol(&self, name: &str, image: &str, interface_index: Option<u32>) -> (Enrolled, ControlLink) {
        let options = ConnectOptions {
            server: ServerAddress::from(self.control.local_addr()),
            trust: Trust::AnyServer,
            name: name.to_owned(),
            group: String::new(),
            image: image.to_owned(),
            interface_index,
            give_up_after: DEADLINE,
        };
        enrol(&options).unwrap()
    }

    /// Receivers of these images at once. Each has the right manifest and proof, whichever way they came; answers how many by multicast.
    fn enrol_together(&self, images: &[&str]) -> usize {
        thread::scope(|scope| {
            let enrolling: Vec<_> = images
                .iter()
                .enumerate()
                .map(|(index, image)| scope.spawn(move || self.enrol(&format!("node-{index}"), image, Some(LOOPBACK_INDEX)).0))
                .collect();
            let enrolled: Vec<_> = enrolling.into_iter().map(|thread| thread.join().unwrap()).collect();
            for (enrolled, image) in enrolled.iter().zip(images) {
                assert!(enrolled.manifest == manifest(u8::from(*image == "db")) && enrolled.proof == proof());
            }
            enrolled.iter().filter(|enrolled| enrolled.manifest_by_multicast).count()
        })
    }
}

/// A socket that multicasts on loopback.
fn to_group(group: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    socket.set_multicast_loop_v4(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.connect(&group.into()).unwrap();
    socket.into()
}

/// A group that no other test has.
fn group(last: u8) -> SocketAddr {
    ([239, 192, 69, last], 4711).into()
}

#[test]
fn many_get_their_manifests_from_one_transmission_of_each() {
    let stage = Stage::new(group(1), |_, packet| Some(packet.to_vec()));
    assert_eq!(stage.enrol_together(&["web", "db", "web", "db", "web", "db"]), 6);
    let counts = stage.control.manifests();
    assert_eq!(counts, ManifestCounts { multicasts: 2, by_multicast: 6, ..ManifestCounts::default() });
}

#[test]
fn losses_are_mended_by_repair_symbols() {
    let stage = Stage::new(group(2), |number, packet| (number % 100 != 7).then(|| packet.to_vec()));
    assert_eq!(stage.enrol_together(&["web"; 3]), 3);
    assert_eq!(stage.control.manifests().blocks_fetched, 0);
}

#[test]
fn blocks_that_lost_too_much_are_fetched() {
    let lossy: Fate = |_, packet| {
        let (header, _) = Header::parse(packet).unwrap();
        (header.chunk.0 != 1 || header.symbol.0 % 8 != 0).then(|| packet.to_vec())
    };
    let stage = Stage::new(group(3), lossy);
    assert_eq!(stage.enrol_together(&["web"; 3]), 3);
    let counts = stage.control.manifests();
    assert_eq!(counts, ManifestCounts { multicasts: 1, by_multicast: 3, blocks_fetched: 3, by_unicast: 0 });
}

#[test]
fn without_a_single_packet_everything_is_fetched() {
    let stage = Stage::new(group(4), |_, _| None);
    assert_eq!(stage.enrol_together(&["db"; 3]), 0);
    assert_eq!(stage.control.manifests().blocks_fetched, 9);
}

#[test]
fn a_forged_packet_costs_one_unicast_manifest() {
    let forged: Fate = |number, packet| {
        let (header, symbol) = Header::parse(packet).unwrap();
        let mut symbol = symbol.to_vec();
        symbol[5] ^= u8::from(number == 20);
        let mut head = [0; HEADER_BYTES];
        header.write(&mut head, Symbol::new(&symbol));
        Some([&head[..], &symbol].concat())
    };
    let stage = Stage::new(group(5), forged);
    assert_eq!(stage.enrol_together(&["web"; 3]), 0);
    assert_eq!(stage.control.manifests().by_unicast, 3);
}

#[test]
fn a_flood_of_strangers_packets_stops_nobody() {
    let stage = Stage::new(group(7), |_, packet| Some(packet.to_vec()));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (socket, began) = (to_group(group(7)), Instant::now());
            while !stop.load(Ordering::Relaxed) && began.elapsed() < 2 * DEADLINE {
                // A full queue is no failure of a flood.
                let _ = socket.send(&[0x55; 1400]);
            }
        });
        stage.enrol_together(&["web"; 3]);
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn one_alone_and_one_that_does_not_listen_get_theirs_by_unicast() {
    let stage = Stage::new(group(6), |_, packet| Some(packet.to_vec()));
    assert_eq!(stage.enrol_together(&["web"]), 0);
    let (deaf, _link) = stage.enrol("deaf", "db", None);
    assert!(!deaf.manifest_by_multicast && deaf.manifest == manifest(1));
    // An interface that does not exist cannot be listened on.
    let (lost, _link) = stage.enrol("lost", "db", Some(u32::MAX >> 1));
    assert!(!lost.manifest_by_multicast && lost.manifest == manifest(1));
    assert_eq!(stage.control.manifests(), ManifestCounts { by_unicast: 3, ..ManifestCounts::default() });
}
