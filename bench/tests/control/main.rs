//! The control plane of both ends together, over the loopback interface: the sender's server and the receiver's link. What hostile
//! clients do to the server is tested beside it.

#![allow(clippy::unwrap_used)]

mod lost;

use image::Pack;
use image::pack::{ImageSpec, PackOptions, build};
use image::signature::{PublicKey, SecretKey};
use receiver::control::{ConnectOptions, ControlError, ControlLink, Enrolled, FromSender, Profile, ServerAddress, ToSender, Trust, enrol};
use receiver::trust::checked_manifest;
use sender::control::{
    ControlConfig, ControlEvent, ControlServer, ImageInfo, Limits, OperatorAccess, OperatorToken, Outcome, Priorities, ReceiverState,
    ServerIdentity, SessionInfo, Settings, StreamInfo,
};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wire::report::{ChunkRange, Deficit, Report};
use wire::session::SessionParameters;
use wire::{ChunkId, Fingerprint, Sequence, SessionId, StreamId, SymbolIndex};

/// Every wait ends in a panic after this.
const DEADLINE: Duration = Duration::from_secs(30);
const CHUNK_COUNT: u32 = 200_000;
/// Several parts, the last of them short.
const MANIFEST_BYTES: usize = 1_000_001;
const PROOF_BYTES: usize = 100_001;

fn range(first: u32, count: u32) -> ChunkRange {
    ChunkRange { first: ChunkId(first), count }
}

fn manifest(image: u8) -> Vec<u8> {
    (0..MANIFEST_BYTES).map(|i| (i % 251) as u8 ^ image).collect()
}

fn session(pack_root: u8) -> SessionInfo {
    let image =
        |name: &str, index, first, count| ImageInfo { name: name.to_owned(), manifest: manifest(index), chunks: vec![range(first, count)] };
    SessionInfo {
        parameters: SessionParameters {
            session: SessionId(pack_root.into()),
            symbol_bytes: 1408,
            chunk_count: CHUNK_COUNT,
            chunk_bytes_max: 256 * 1024,
        },
        pack_root: [pack_root; 32],
        proof: vec![pack_root; PROOF_BYTES],
        chunk_source: None,
        images: vec![image("web", 0, 0, 150_000), image("db", 1, 100_000, 100_000)],
        streams: vec![StreamInfo { id: StreamId(0), group: ([239, 192, 68, 1], 4700).into(), source: [127, 0, 0, 1].into() }],
        descriptive: None,
        report_interval_us: 10_000,
    }
}

struct Server {
    control: ControlServer,
    events: crossbeam_channel::Receiver<ControlEvent>,
    fingerprint: Fingerprint,
}

impl Server {
    fn start(state_dir: &Path, listen: SocketAddr, info: SessionInfo) -> Server {
        let identity = ServerIdentity::load_or_create(state_dir).unwrap();
        let (sender, events) = crossbeam_channel::unbounded();
        let config = ControlConfig {
            listen,
            limits: Limits::default(),
            settings: Settings { rate_cap_bits_per_second: 1_000_000_000, priorities: Priorities::default() },
            access: OperatorAccess { token: OperatorToken::load_or_create(state_dir).unwrap(), public_status: false },
        };
        let control = ControlServer::start(config, &identity, info, Arc::default(), sender).unwrap();
        Server { control, events, fingerprint: identity.fingerprint() }
    }

    fn anywhere(state_dir: &Path) -> Server {
        Server::start(state_dir, ([127, 0, 0, 1], 0).into(), session(1))
    }

    fn next(&self) -> ControlEvent {
        self.events.recv_timeout(DEADLINE).unwrap()
    }

    fn options(&self) -> ConnectOptions {
        ConnectOptions {
            server: ServerAddress::from(self.control.local_addr()),
            trust: Trust::Pin(self.fingerprint),
            name: "node-1".to_owned(),
            group: String::new(),
            image: "web".to_owned(),
            interface_index: None,
            give_up_after: DEADLINE,
        }
    }
}

fn enrolled(options: &ConnectOptions) -> (Enrolled, ControlLink) {
    let (enrolled, link) = enrol(options).unwrap();
    assert_eq!(heard(&link), FromSender::NeedReady);
    (enrolled, link)
}

/// Enrolled and on the list.
fn listed(options: &ConnectOptions, want: ChunkRange) -> (Enrolled, ControlLink) {
    let (enrolled, link) = enrolled(options);
    link.send(ready(vec![want]));
    until(&link, &FromSender::Listed);
    (enrolled, link)
}

fn ready(want: Vec<ChunkRange>) -> ToSender {
    ToSender::Ready { want, profile: Profile::default() }
}

fn heard(link: &ControlLink) -> FromSender {
    link.events().recv_timeout(DEADLINE).unwrap()
}

/// Waits for one thing to be heard, passing over others, which are returned.
fn until(link: &ControlLink, wanted: &FromSender) -> Vec<FromSender> {
    let mut others = Vec::new();
    loop {
        match link.events().recv_timeout(DEADLINE) {
            Ok(event) if event == *wanted => return others,
            Ok(event) => others.push(event),
            Err(error) => panic!("{wanted:?} was not heard ({error}); {others:?} was"),
        }
    }
}

fn until_lost(link: &ControlLink) -> String {
    loop {
        if let FromSender::Lost(reason) = heard(link) {
            return reason;
        }
    }
}

#[test]
fn a_receiver_enrols_reports_completes_and_is_acknowledged() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let group = "rack 7".to_owned();
    let (enrolled, link) = enrolled(&ConnectOptions { image: "db".to_owned(), group: group.clone(), ..server.options() });
    assert_eq!(enrolled.manifest, manifest(1));
    let served = session(1);
    assert_eq!(enrolled.proof, served.proof);
    assert_eq!((enrolled.parameters, enrolled.pack_root), (served.parameters, served.pack_root));
    assert_eq!(enrolled.streams.len(), 1);
    assert_eq!((enrolled.streams[0].group, enrolled.streams[0].source), (served.streams[0].group, served.streams[0].source));
    assert_eq!((enrolled.report_interval_us, enrolled.server_fingerprint), (10_000, server.fingerprint));
    assert!(server.events.is_empty(), "enrolment alone is nothing to the engine");

    let profile = Profile { restore_bytes_per_second: 77, unicast: true };
    link.send(ToSender::Ready { want: vec![range(100_000, 5), range(150_000, 10)], profile });
    let joined = server.next();
    let ControlEvent::Joined { receiver, image: 1, ref want, profile: ref told } = joined else { panic!("{joined:?}") };
    assert_eq!(*want, [range(100_000, 5), range(150_000, 10)]);
    assert_eq!((told.group.as_str(), told.restore_bytes_per_second, told.unicast), (group.as_str(), 77, true));
    assert_eq!(receiver.0, enrolled.receiver_id);
    assert_eq!(heard(&link), FromSender::Listed);
    assert_eq!(heard(&link), FromSender::Pace(10_000));

    let report = Report {
        passed: vec![(StreamId(0), Sequence(77))],
        completed: vec![range(100_000, 5)],
        deficits: vec![Deficit { chunk: ChunkId(150_000), symbols: 2, missing: vec![SymbolIndex(3), SymbolIndex(9)] }],
        packets_seen: 99,
        packets_sent: 100,
        loss_runs: 1,
        restore_bytes_per_second: 0,
        corrupt: vec![ChunkId(99)],
        backlog_permille: 250,
    };
    link.send(ToSender::Report(report.clone()));
    assert_eq!(server.next(), ControlEvent::Reported { receiver, report });
    let row = &server.control.roster().receivers[0];
    assert_eq!((row.state, row.chunks_wanted, row.chunks_remaining), (ReceiverState::Listed, 15, 10));
    assert_eq!((row.name.as_str(), row.image.as_str(), row.loss), ("node-1", "db", 0.01));

    server.control.set_report_interval_us(50_000);
    assert_eq!(heard(&link), FromSender::Pace(50_000));

    link.send(ToSender::Complete { image_bytes: 1 << 31, duration_ms: 5000 });
    assert_eq!(server.next(), ControlEvent::Left { receiver, outcome: Outcome::Completed });
    assert_eq!(heard(&link), FromSender::Acknowledged);
    let row = &server.control.roster().receivers[0];
    assert_eq!((row.state, row.image_bytes, row.duration_ms), (ReceiverState::Completed, Some(1 << 31), Some(5000)));
    link.close();
    assert!(server.events.is_empty());
}

/// The sender's answer about a real pack, signed, passes a receiver that trusts the key, and nothing else does.
#[test]
fn a_receiver_with_a_key_follows_only_what_the_key_has_signed() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("web.raw"), vec![7; 100_000]).unwrap();
    let key = Arc::new(SecretKey::generate().unwrap());
    let pack = |name: &str, key: Option<&Arc<SecretKey>>| {
        let images = ["web", "db"].map(|image| ImageSpec { name: image.to_owned(), path: at("web.raw") });
        let options = PackOptions { key: key.cloned(), chunk_pages: if key.is_some() { 64 } else { 32 }, ..PackOptions::default() };
        build(&images, &at(name), &options, &image::Progress::default()).unwrap()
    };
    let (signed, unsigned) = (pack("signed.pack", Some(&key)), pack("unsigned.pack", None));
    let info = |manifest_of: &Pack, image, proof: Vec<u8>| {
        let web = ImageInfo { name: "web".into(), manifest: manifest_of.manifest_section(image).unwrap(), chunks: vec![range(0, 1)] };
        SessionInfo { pack_root: signed.root(), proof, images: vec![web], ..session(1) }
    };
    let outcome = |info, key: Option<&PublicKey>| {
        let state = tempfile::tempdir().unwrap();
        let server = Server::start(state.path(), ([127, 0, 0, 1], 0).into(), info);
        let (enrolled, link) = enrolled(&server.options());
        let outcome = checked_manifest(&enrolled, "web", key);
        link.close();
        outcome
    };
    let proof = signed.proof_bytes().unwrap();
    let trusted = key.public_key();
    let manifest = outcome(info(&signed, 0, proof.clone()), Some(&trusted)).unwrap();
    assert_eq!(manifest, signed.manifest(0).unwrap());
    assert_eq!(outcome(info(&signed, 0, Vec::new()), None).unwrap(), manifest);

    let stranger = SecretKey::generate().unwrap().public_key();
    let mut altered = proof.clone();
    altered[20] ^= 1;
    for (what, info, key) in [
        ("another key", info(&signed, 0, proof.clone()), stranger),
        ("not signed", info(&signed, 0, Vec::new()), trusted),
        ("not signed", info(&unsigned, 0, unsigned.proof_bytes().unwrap()), trusted),
        ("damaged", info(&signed, 0, altered), trusted),
        ("not one of the pack", info(&unsigned, 0, proof.clone()), trusted),
        ("manifest of db instead of web", info(&signed, 1, proof.clone()), trusted),
        ("another pack", SessionInfo { pack_root: unsigned.root(), ..info(&signed, 0, proof) }, trusted),
    ] {
        match outcome(info, Some(&key)) {
            Err(image::Error::Untrusted(why)) => assert!(why.contains(what), "{why}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn another_certificate_is_refused_at_once_and_both_fingerprints_are_shown() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let expected = Fingerprint([0xAB; 32]);
    let start = Instant::now();
    let error = enrol(&ConnectOptions { trust: Trust::Pin(expected), ..server.options() }).err().unwrap();
    assert!(start.elapsed() < DEADLINE / 2, "trying again would not help");
    assert!(matches!(error, ControlError::Fingerprint { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&expected.to_string()) && text.contains(&server.fingerprint.to_string()), "{text}");
}

#[test]
fn an_unpinned_sender_is_shown_and_stays_the_same_one() {
    let (state, other_state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::anywhere(state.path());
    let (enrolled, link) = listed(&ConnectOptions { trust: Trust::AnyServer, ..server.options() }, range(0, 10));
    assert_eq!(enrolled.server_fingerprint, server.fingerprint);
    let address = server.control.local_addr();
    server.control.stop();
    until_lost(&link);
    let impostor = Server::start(other_state.path(), address, session(1));
    let gave_up = heard(&link);
    let FromSender::GaveUp(reason) = gave_up else { panic!("{gave_up:?}") };
    assert!(reason.contains(&impostor.fingerprint.to_string()), "{reason}");
}

#[test]
fn an_unknown_image_is_refused_with_the_names_of_those_served() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let error = enrol(&ConnectOptions { image: "mail".to_owned(), ..server.options() }).err().unwrap();
    assert!(matches!(&error, ControlError::Refused { reason, .. } if reason.contains("web, db")), "{error}");
}

#[test]
fn a_receiver_may_start_before_its_sender() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let (address, options) = (server.control.local_addr(), server.options());
    server.control.stop();
    let receiver = std::thread::spawn(move || enrol(&options).map(drop));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!receiver.is_finished());
    let _server = Server::start(state.path(), address, session(1));
    receiver.join().unwrap().unwrap();
}

#[test]
fn a_sender_that_is_not_there_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let options = ConnectOptions {
        server: address.into(),
        trust: Trust::AnyServer,
        name: "node-1".to_owned(),
        group: String::new(),
        image: "web".to_owned(),
        interface_index: None,
        give_up_after: Duration::from_secs(1),
    };
    let start = Instant::now();
    let error = enrol(&options).err().unwrap();
    assert!(matches!(error, ControlError::Unreachable { .. }), "{error}");
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn the_acknowledgement_reaches_a_receiver_though_the_sender_stops_at_once() {
    let state = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        let server = Server::anywhere(state.path());
        let (_, link) = listed(&server.options(), range(0, 10));
        link.send(ToSender::Complete { image_bytes: 1, duration_ms: 1 });
        loop {
            if let ControlEvent::Left { outcome, .. } = server.next() {
                assert_eq!(outcome, Outcome::Completed);
                break;
            }
        }
        server.control.stop();
        let others = until(&link, &FromSender::Acknowledged);
        assert!(!others.iter().any(|event| matches!(event, FromSender::Lost(_))), "{others:?}");
    }
}

#[test]
fn stopping_with_receivers_listed_takes_no_longer_than_it_must() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let _links: Vec<_> = (0..10).map(|_| listed(&server.options(), range(0, 10))).collect();
    let start = Instant::now();
    server.control.stop();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_receiver_that_cannot_get_ready_says_why() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let (enrolled, link) = enrolled(&server.options());
    link.send(ToSender::Failed("/dev/sda is mounted".to_owned()));
    link.close();
    let ControlEvent::Left { receiver, outcome: Outcome::Failed(reason) } = server.next() else { panic!() };
    assert_eq!((receiver.0, reason.as_str()), (enrolled.receiver_id, "/dev/sda is mounted"));
    let row = &server.control.roster().receivers[0];
    assert_eq!((row.state, row.reason.as_deref()), (ReceiverState::Failed, Some("/dev/sda is mounted")));
}

#[test]
fn a_failure_in_the_middle_is_recorded_and_acknowledged() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let (_, link) = listed(&server.options(), range(0, 10));
    link.send(ToSender::Failed("/dev/sda: no space".to_owned()));
    assert!(matches!(server.next(), ControlEvent::Joined { .. }));
    assert!(matches!(server.next(), ControlEvent::Left { outcome: Outcome::Failed(reason), .. } if reason == "/dev/sda: no space"));
    until(&link, &FromSender::Acknowledged);
}

#[test]
fn an_operator_can_dismiss_a_receiver() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let (_, link) = listed(&server.options(), range(0, 10));
    let ControlEvent::Joined { receiver, .. } = server.next() else { panic!() };
    assert!(server.control.dismiss(receiver, "wrong rack".to_owned()));
    until(&link, &FromSender::Dismissed("wrong rack".to_owned()));
    assert!(matches!(server.next(), ControlEvent::Left { outcome: Outcome::Failed(reason), .. } if reason.contains("wrong rack")));
    assert!(link.events().recv_timeout(DEADLINE).is_err(), "it does not come back by itself");
    assert!(!server.control.dismiss(receiver, String::new()), "it is not listed");
}

#[test]
fn a_scattered_want_set_arrives_whole() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::anywhere(state.path());
    let (_, link) = enrolled(&server.options());
    let want: Vec<_> = (0..75_000).map(|i| range(2 * i, 1)).collect();
    link.send(ready(want.clone()));
    let ControlEvent::Joined { want: joined, .. } = server.next() else { panic!() };
    assert!(joined == want);
}
