//! The server against clients that misbehave, spoken to over raw TLS and raw gRPC; each test ends by seeing that a good receiver is
//! still served. The good path with the real client is in `bench/tests/control.rs`.

mod connections;
mod fetch;
mod manifests;
mod operator;

use super::*;
use crossbeam_channel::Receiver;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use wire::proto::v1::provision_client::ProvisionClient;
use wire::proto::v1::{self, receiver_message, sender_message};
use wire::proto::{MESSAGE_BYTES_MAX, PROTOCOL_VERSION};
use wire::session::SessionParameters;
use wire::trust::{Trust, client_config};
use wire::{ChunkId, SessionId, StreamId};

const DEADLINE: Duration = Duration::from_secs(20);
const MANIFEST_BYTES: usize = 3_000_000;
const CHUNK_COUNT: u32 = 1000;

fn range(first: u32, count: u32) -> ChunkRange {
    ChunkRange { first: ChunkId(first), count }
}

/// Two images: chunks 0..600 are of `web`, 400..1000 of `db`.
fn session() -> SessionInfo {
    let image = |name: &str, chunks| ImageInfo { name: name.to_owned(), manifest: vec![7; MANIFEST_BYTES], chunks: vec![chunks] };
    SessionInfo {
        parameters: SessionParameters { session: SessionId(1), symbol_bytes: 1408, chunk_count: CHUNK_COUNT, chunk_bytes_max: 256 * 1024 },
        pack_root: [1; 32],
        proof: Vec::new(),
        chunk_source: Some(Arc::new(fetch::Pattern)),
        images: vec![image("web", range(0, 600)), image("db", range(400, 600))],
        streams: vec![StreamInfo { id: StreamId(0), group: ([239, 192, 68, 1], 4700).into(), source: [127, 0, 0, 1].into() }],
        descriptive: None,
        report_interval_us: 10_000,
    }
}

fn config(state_dir: &std::path::Path) -> ControlConfig {
    ControlConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        limits: Limits::default(),
        settings: Settings { rate_cap_bits_per_second: 1_000_000_000, priorities: Priorities::default() },
        access: OperatorAccess { token: OperatorToken::load_or_create(state_dir).unwrap(), public_status: false },
    }
}

struct Bench {
    server: ControlServer,
    events: Receiver<ControlEvent>,
    state: tempfile::TempDir,
}

fn serve(limits: Limits) -> Bench {
    serve_with(|config| config.limits = limits)
}

fn serve_with(change: impl FnOnce(&mut ControlConfig)) -> Bench {
    serve_session(change, session())
}

fn serve_session(change: impl FnOnce(&mut ControlConfig), info: SessionInfo) -> Bench {
    let state = tempfile::tempdir().unwrap();
    let identity = ServerIdentity::load_or_create(state.path()).unwrap();
    let (sender, events) = crossbeam_channel::unbounded();
    let mut config = config(state.path());
    change(&mut config);
    let server = ControlServer::start(config, &identity, info, Arc::default(), sender).unwrap();
    Bench { server, events, state }
}

type Attendance = (tokio::sync::mpsc::Sender<v1::ReceiverMessage>, Streaming<v1::SenderMessage>);

struct Client {
    calls: ProvisionClient<Channel>,
    receiver_id: u64,
}

impl Bench {
    async fn tls(&self, alpn: &str) -> TlsStream<TcpStream> {
        let config = client_config(Trust::AnyServer, alpn.as_bytes()).unwrap();
        let stream = TcpStream::connect(self.server.local_addr()).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect("discus".try_into().unwrap(), stream).await.unwrap()
    }

    async fn calls(&self) -> ProvisionClient<Channel> {
        let mut stream = Some(TokioIo::new(self.tls("h2").await));
        let once = tower::service_fn(move |_| {
            let stream = stream.take().ok_or(std::io::Error::other("used"));
            async move { stream }
        });
        ProvisionClient::new(Endpoint::from_static("http://discus").connect_with_connector(once).await.unwrap())
    }

    async fn enrolled(&self, image: &str) -> Client {
        let mut calls = self.calls().await;
        let receiver_id = calls.enrol(enrol_request(image)).await.unwrap().into_inner().receiver_id;
        Client { calls, receiver_id }
    }

    /// A receiver that is served as ever: the last step of each test.
    async fn serves(&self) {
        let mut client = self.enrolled("web").await;
        let (to_server, mut from_server) = client.attend().await;
        to_server.send(client.ready(&[range(0, 600)])).await.unwrap();
        assert!(matches!(said(&mut from_server).await, sender_message::Message::Listed(_)));
        let id = ReceiverId(client.receiver_id);
        self.expect(|event| matches!(event, ControlEvent::Joined { receiver, .. } if *receiver == id)).await;
        to_server.send(message(receiver_message::Message::Complete(v1::Complete::default()))).await.unwrap();
        while !matches!(said(&mut from_server).await, sender_message::Message::Acknowledged(_)) {}
        self.expect(|event| *event == ControlEvent::Left { receiver: id, outcome: Outcome::Completed }).await;
    }

    /// Waits for an event, passing over others.
    async fn expect(&self, wanted: impl Fn(&ControlEvent) -> bool) -> ControlEvent {
        let start = Instant::now();
        let mut others = Vec::new();
        while start.elapsed() < DEADLINE {
            match self.events.try_recv() {
                Ok(event) if wanted(&event) => return event,
                Ok(event) => others.push(event),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        panic!("the event did not come; others did: {others:?}");
    }
}

impl Client {
    async fn attend(&mut self) -> Attendance {
        let (to_server, messages) = tokio::sync::mpsc::channel(64);
        let from_server = self.calls.attend(ReceiverStream::new(messages)).await.unwrap().into_inner();
        (to_server, from_server)
    }

    fn ready(&self, want: &[ChunkRange]) -> v1::ReceiverMessage {
        let want = want.iter().map(|&run| run.into()).collect();
        message(receiver_message::Message::Ready(v1::Ready {
            receiver_id: self.receiver_id,
            want,
            more: false,
            restore_bytes_per_second: 0,
            unicast: false,
        }))
    }
}

fn enrol_request(image: &str) -> v1::EnrolRequest {
    v1::EnrolRequest {
        protocol_version: PROTOCOL_VERSION,
        receiver_name: "host".to_owned(),
        image: image.to_owned(),
        instance: 0,
        group: String::new(),
    }
}

fn message(message: receiver_message::Message) -> v1::ReceiverMessage {
    v1::ReceiverMessage { message: Some(message) }
}

async fn said(from_server: &mut Streaming<v1::SenderMessage>) -> sender_message::Message {
    timeout(DEADLINE, from_server.message()).await.unwrap().unwrap().unwrap().message.unwrap()
}

/// The reason of a dismissal, passing over what comes before it.
async fn dismissal(from_server: &mut Streaming<v1::SenderMessage>) -> String {
    loop {
        if let sender_message::Message::Dismissed(dismissed) = said(from_server).await {
            return dismissed.reason;
        }
    }
}

#[tokio::test]
async fn an_enrolment_that_cannot_be_is_refused_with_its_reason() {
    let bench = serve(Limits::default());
    let mut calls = bench.calls().await;
    let mut refusal = async |request| {
        let status = calls.enrol(request).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let (code, reason) = refusal(enrol_request("mail")).await;
    assert!(code == Code::NotFound && reason.contains("web, db"), "{reason}");
    let (code, reason) = refusal(v1::EnrolRequest { protocol_version: 2, ..enrol_request("web") }).await;
    assert!(code == Code::FailedPrecondition && reason.contains("version 1") && reason.contains("version 2"), "{reason}");
    for name in ["", "a\nb", "\u{1b}[2J", &"x".repeat(256)] {
        let (code, _) = refusal(v1::EnrolRequest { receiver_name: name.to_owned(), ..enrol_request("web") }).await;
        assert_eq!(code, Code::InvalidArgument, "{name:?}");
    }
    assert!(bench.server.roster().receivers.is_empty());
    bench.serves().await;
}

#[tokio::test]
async fn calls_before_enrolment_or_for_another_receiver_are_refused() {
    let bench = serve(Limits::default());
    let victim = bench.enrolled("db").await;
    let mut calls = bench.calls().await;
    let manifest = v1::ManifestRequest { receiver_id: victim.receiver_id, ..v1::ManifestRequest::default() };
    assert_eq!(calls.fetch_manifest(manifest.clone()).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(calls.attend(tokio_stream::empty()).await.unwrap_err().code(), Code::FailedPrecondition);

    let mut impostor = bench.enrolled("web").await;
    assert!(impostor.calls.fetch_manifest(manifest).await.is_err());
    let (to_server, mut from_server) = impostor.attend().await;
    to_server.send(victim.ready(&[range(400, 1)])).await.unwrap();
    assert!(dismissal(&mut from_server).await.contains("not 1"));
    bench.serves().await;
}

#[tokio::test]
async fn a_want_set_outside_the_image_is_dismissed_and_never_reaches_the_engine() {
    let bench = serve(Limits::default());
    for want in [range(599, 2), range(700, 1), range(1000, 1), range(0, u32::MAX)] {
        let mut client = bench.enrolled("web").await;
        let (to_server, mut from_server) = client.attend().await;
        to_server.send(client.ready(&[want])).await.unwrap();
        let reason = dismissal(&mut from_server).await;
        assert!(reason.contains("image") || reason.contains("outside the pack"), "{reason}");
    }
    assert!(bench.events.is_empty());
    bench.serves().await;
}

#[tokio::test]
async fn an_endless_want_set_is_dismissed() {
    let bench = serve(Limits::default());
    let mut client = bench.enrolled("web").await;
    let (to_server, mut from_server) = client.attend().await;
    let want = vec![range(0, 1).into(); 601];
    let ready = v1::Ready { receiver_id: client.receiver_id, want, more: true, restore_bytes_per_second: 0, unicast: false };
    to_server.send(message(receiver_message::Message::Ready(ready))).await.unwrap();
    assert!(dismissal(&mut from_server).await.contains("more runs"));
    bench.serves().await;
}

#[tokio::test]
async fn a_want_set_with_repetitions_is_a_set_when_the_engine_sees_it() {
    let bench = serve(Limits::default());
    let mut client = bench.enrolled("web").await;
    let (to_server, _from_server) = client.attend().await;
    to_server.send(client.ready(&[range(5, 3), range(0, 2), range(6, 4), range(2, 1)])).await.unwrap();
    let event = bench.expect(|event| matches!(event, ControlEvent::Joined { .. })).await;
    let want = vec![range(0, 3), range(5, 5)];
    assert_eq!(event, ControlEvent::Joined { receiver: ReceiverId(client.receiver_id), image: 0, want, profile: Profile::default() });
    bench.serves().await;
}

#[tokio::test]
async fn a_report_on_the_chunks_of_others_ends_the_attendance() {
    let bench = serve(Limits::default());
    let completed = v1::Report { completed: vec![range(650, 1).into()], ..v1::Report::default() };
    let deficit = v1::Deficit { chunk: 650, symbols: 1, missing: Vec::new() };
    let deficits = v1::Report { deficits: vec![deficit], ..v1::Report::default() };
    for report in [completed, deficits] {
        let mut client = bench.enrolled("web").await;
        let (to_server, mut from_server) = client.attend().await;
        to_server.send(client.ready(&[range(0, 10)])).await.unwrap();
        to_server.send(message(receiver_message::Message::Report(report))).await.unwrap();
        assert!(dismissal(&mut from_server).await.contains("chunk 650 is not of its image"));
        let id = ReceiverId(client.receiver_id);
        let left = |event: &ControlEvent| matches!(event, ControlEvent::Left { receiver, outcome: Outcome::Failed(_) } if *receiver == id);
        bench.expect(left).await;
    }
    bench.serves().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_attendance() {
    let bench = serve(Limits::default());
    let mut client = bench.enrolled("web").await;
    let (to_server, mut from_server) = client.attend().await;
    to_server.send(client.ready(&[range(0, 10)])).await.unwrap();
    let reason = "x".repeat(MESSAGE_BYTES_MAX + 1);
    to_server.send(message(receiver_message::Message::Failed(v1::Failed { reason }))).await.unwrap();
    let ends = async { while let Ok(Some(_)) = from_server.message().await {} };
    timeout(DEADLINE, ends).await.unwrap();
    bench.expect(|event| matches!(event, ControlEvent::Left { outcome: Outcome::Lost(_), .. })).await;
    bench.serves().await;
}

#[tokio::test]
async fn the_order_of_an_attendance_is_kept() {
    let bench = serve(Limits::default());
    let mut early = bench.enrolled("web").await;
    let (to_server, mut from_server) = early.attend().await;
    to_server.send(message(receiver_message::Message::Report(v1::Report::default()))).await.unwrap();
    assert!(dismissal(&mut from_server).await.contains("must be `ready`"));

    let mut twice = bench.enrolled("web").await;
    let (to_server, mut from_server) = twice.attend().await;
    to_server.send(twice.ready(&[range(0, 10)])).await.unwrap();
    to_server.send(twice.ready(&[range(0, 10)])).await.unwrap();
    assert!(dismissal(&mut from_server).await.contains("twice"));
    bench.serves().await;
}

#[tokio::test]
async fn what_a_receiver_says_cannot_command_a_terminal() {
    let bench = serve(Limits::default());
    let mut client = bench.enrolled("web").await;
    let (to_server, _from_server) = client.attend().await;
    let reason = "\u{1b}[2Jdisk\nfull".repeat(1000);
    to_server.send(message(receiver_message::Message::Failed(v1::Failed { reason }))).await.unwrap();
    let event = bench.expect(|event| matches!(event, ControlEvent::Left { .. })).await;
    let ControlEvent::Left { outcome: Outcome::Failed(reason), .. } = event else { panic!("{event:?}") };
    assert!(reason.starts_with(" [2Jdisk full") && reason.len() <= REASON_CHARACTERS_MAX);
    bench.serves().await;
}

#[tokio::test]
async fn receivers_that_do_not_read_their_manifest_do_not_hold_up_others() {
    let bench = serve(Limits::default());
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut client = bench.enrolled("web").await;
        let request = v1::ManifestRequest { receiver_id: client.receiver_id, ..v1::ManifestRequest::default() };
        let manifest = client.calls.fetch_manifest(request).await.unwrap();
        slow.push((client, manifest));
    }
    let mut good = bench.enrolled("db").await;
    let request = v1::ManifestRequest { receiver_id: good.receiver_id, ..v1::ManifestRequest::default() };
    let mut parts = good.calls.fetch_manifest(request).await.unwrap().into_inner();
    let mut bytes = 0;
    while let Some(part) = timeout(DEADLINE, parts.message()).await.unwrap().unwrap() {
        assert!(part.data.len() <= 256 * 1024);
        bytes += part.data.len();
    }
    assert_eq!(bytes, MANIFEST_BYTES);
    bench.serves().await;
}

#[tokio::test]
async fn a_receiver_that_only_enrolled_leaves_the_list_with_its_connection() {
    let bench = serve(Limits::default());
    let mut client = bench.enrolled("web").await;
    assert_eq!(bench.server.roster().count(ReceiverState::Enrolled), 1);
    // Enrolling again and again on one connection does not fill the list.
    for _ in 0..10 {
        client.calls.enrol(enrol_request("db")).await.unwrap();
    }
    assert_eq!(bench.server.roster().receivers.len(), 1);
    drop(client);
    let start = Instant::now();
    while !bench.server.roster().receivers.is_empty() {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.serves().await;
}

#[tokio::test]
async fn an_engine_that_is_behind_holds_receivers_back_and_loses_nothing() {
    let state = tempfile::tempdir().unwrap();
    let identity = ServerIdentity::load_or_create(state.path()).unwrap();
    let (sender, events) = crossbeam_channel::bounded(1);
    let config = config(state.path());
    let info = SessionInfo { report_interval_us: 0, ..session() };
    let server = ControlServer::start(config, &identity, info, Arc::default(), sender).unwrap();
    let bench = Bench { server, events, state };
    let mut client = bench.enrolled("web").await;
    let (to_server, _from_server) = client.attend().await;
    to_server.send(client.ready(&[range(0, 600)])).await.unwrap();
    let reporting = tokio::spawn(async move {
        for chunk in 0..500 {
            let report = v1::Report { completed: vec![range(chunk, 1).into()], ..v1::Report::default() };
            to_server.send(message(receiver_message::Message::Report(report))).await.unwrap();
        }
        to_server
    });
    bench.expect(|event| matches!(event, ControlEvent::Joined { .. })).await;
    for chunk in 0..500 {
        let event = bench.expect(|_| true).await;
        let ControlEvent::Reported { report, .. } = event else { panic!("{event:?}") };
        assert_eq!(report.completed, [range(chunk, 1)]);
    }
    assert_eq!(bench.server.roster().receivers[0].chunks_remaining, 100);
    drop((reporting.await.unwrap(), client));
    bench.expect(|event| matches!(event, ControlEvent::Left { .. })).await;
    bench.serves().await;
}

#[tokio::test]
async fn a_machine_that_starts_again_and_again_is_on_the_list_once() {
    let bench = serve(Limits::default());
    for _ in 0..100 {
        let mut client = bench.enrolled("web").await;
        let (to_server, mut from_server) = client.attend().await;
        to_server.send(client.ready(&[range(0, 600)])).await.unwrap();
        assert!(matches!(said(&mut from_server).await, sender_message::Message::Listed(_)));
        let id = ReceiverId(client.receiver_id);
        drop((client, to_server, from_server));
        let left = |event: &ControlEvent| matches!(event, ControlEvent::Left { receiver, outcome: Outcome::Lost(_) } if *receiver == id);
        bench.expect(left).await;
    }
    // Each replaced the lost one before it.
    assert_eq!(bench.server.roster().receivers.len(), 1);
    bench.serves().await;
}
