//! `discus status`, `set` and `dismiss` as programs against a control server. Needs no root.
// Helpers outside test functions, too: what is unexpected here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crossbeam_channel::Receiver;
use sender::control::{
    ControlConfig, ControlEvent, ControlServer, ImageInfo, Limits, OperatorAccess, OperatorToken, Priorities, ServerIdentity, SessionInfo,
    Settings, StreamInfo,
};
use serde_json::Value;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use wire::report::ChunkRange;
use wire::session::SessionParameters;
use wire::{ChunkId, Fingerprint, SessionId, StreamId};

const DEADLINE: Duration = Duration::from_secs(20);

struct Server {
    control: ControlServer,
    events: Receiver<ControlEvent>,
    fingerprint: Fingerprint,
    state: tempfile::TempDir,
}

impl Server {
    fn start(public_status: bool) -> Server {
        let state = tempfile::tempdir().unwrap();
        let identity = ServerIdentity::load_or_create(state.path()).unwrap();
        let image = |name: &str| ImageInfo {
            name: name.to_owned(),
            manifest: vec![7; 100],
            chunks: vec![ChunkRange { first: ChunkId(0), count: 100 }],
        };
        let info = SessionInfo {
            parameters: SessionParameters { session: SessionId(1), symbol_bytes: 1408, chunk_count: 100, chunk_bytes_max: 256 * 1024 },
            pack_root: [1; 32],
            proof: Vec::new(),
            chunk_source: None,
            images: vec![image("web"), image("db")],
            streams: vec![StreamInfo { id: StreamId(0), group: ([239, 192, 68, 1], 4700).into(), source: [127, 0, 0, 1].into() }],
            descriptive: None,
            report_interval_us: 10_000,
        };
        let config = ControlConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            limits: Limits::default(),
            settings: Settings { rate_cap_bits_per_second: 1_000_000_000, priorities: Priorities::default() },
            access: OperatorAccess { token: OperatorToken::load_or_create(state.path()).unwrap(), public_status },
        };
        let (sender, events) = crossbeam_channel::unbounded();
        let control = ControlServer::start(config, &identity, info, Default::default(), sender).unwrap();
        Server { control, events, fingerprint: identity.fingerprint(), state }
    }

    /// A subcommand that asks this server; everything else is the test's choice.
    fn asked(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_discus"));
        command.args(arguments).args(["--server", &self.control.local_addr().to_string()]);
        command
    }

    /// The same on the sender's own machine.
    fn asked_here(&self, arguments: &[&str]) -> Command {
        let mut command = self.asked(arguments);
        command.arg("--state-dir").arg(self.state.path());
        command
    }
}

/// Exit code, standard output, standard error.
fn run(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn settings_are_changed_and_seen_on_the_senders_machine() {
    let server = Server::start(false);
    let (code, said, error) = run(server.asked_here(&["set", "--rate", "5G", "--priority", "db=10", "--priority", "group:rack-1=-5"]));
    assert_eq!((code, said.as_str()), (0, "settings  at most 5.00 Gbit/s; priorities db=10, group:rack-1=-5\n"), "{error}");
    let ControlEvent::Settings(settings) = server.events.recv_timeout(DEADLINE).unwrap() else { panic!("nothing else happened") };
    assert_eq!(settings.rate_cap_bits_per_second, 5_000_000_000);
    assert_eq!([settings.priorities.of("db", ""), settings.priorities.of("db", "rack-1")], [10, -5]);

    let (code, said, _) = run(server.asked_here(&["set", "--priority", "db=none", "--json"]));
    let settings: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &settings["priorities"]["images"]), (0, &serde_json::json!({})));

    let (code, said, _) = run(server.asked_here(&["status"]));
    assert_eq!(code, 0);
    assert!(said.contains("settings  at most 5.00 Gbit/s; priorities group:rack-1=-5\n"), "{said}");
    assert!(said.contains("images    web, db\n") && said.contains("receivers 0 listed, 0 completed\n"), "{said}");
    let (_, said, _) = run(server.asked_here(&["status", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["images"][1]["name"], "db");
}

#[test]
fn what_the_sender_refuses_is_said_in_its_words() {
    let server = Server::start(false);
    let (code, _, error) = run(server.asked_here(&["set", "--rate", "2G", "--priority", "mail=1"]));
    assert_eq!(code, 1);
    assert!(error.contains("no image \"mail\"") && error.contains("web, db"), "{error}");
    assert_eq!(server.control.settings().rate_cap_bits_per_second, 1_000_000_000, "all or nothing");
    let (code, _, error) = run(server.asked_here(&["dismiss", "7", "--reason", "wrong rack"]));
    assert_eq!(code, 1);
    assert!(error.contains("receiver 7 is not listed"), "{error}");
    for wrong in [&["set"][..], &["set", "--priority", "db=high"], &["set", "--rate", "fast"], &["dismiss"], &["dismiss", "web"]] {
        assert_eq!(run(server.asked_here(wrong)).0, 2, "{wrong:?}");
    }
    assert!(server.events.is_empty());
}

#[test]
fn from_elsewhere_fingerprint_and_token_are_given() {
    let server = Server::start(false);
    let fingerprint = server.fingerprint.to_string();
    let elsewhere = |arguments: &[&str], token: Option<&Path>| {
        let mut command = server.asked(arguments);
        command.args(["--server-fingerprint", &fingerprint]);
        command.args(token.into_iter().flat_map(|token| ["--token-file".as_ref(), token.as_os_str()]));
        run(command)
    };
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::copy(server.state.path().join("operator-token"), &token).unwrap();
    let (code, _, error) = elsewhere(&["set", "--rate", "2G"], Some(&token));
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = elsewhere(&["status"], None);
    assert!(code == 1 && error.contains("--token-file"), "{error}");
    std::fs::write(&token, "0".repeat(64)).unwrap();
    let (code, _, error) = elsewhere(&["set", "--rate", "3G"], Some(&token));
    assert!(code == 1 && error.contains("does not take this token"), "{error}");
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o644)).unwrap();
    let (code, _, error) = elsewhere(&["set", "--rate", "3G"], Some(&token));
    assert!(code == 1 && error.contains("chmod 600"), "{error}");
    assert_eq!(server.control.settings().rate_cap_bits_per_second, 2_000_000_000);
}

#[test]
fn a_public_status_needs_no_token() {
    let server = Server::start(true);
    let fingerprint = server.fingerprint.to_string();
    let asked = |arguments: &[&str]| {
        let mut command = server.asked(arguments);
        command.args(["--server-fingerprint", &fingerprint]);
        run(command).0
    };
    assert_eq!(asked(&["status"]), 0);
    assert_eq!(asked(&["set", "--rate", "2G"]), 1);
}

#[test]
fn another_sender_or_none_is_a_failure_of_the_network() {
    let (server, other) = (Server::start(false), Server::start(false));
    let mut command = server.asked(&["status"]);
    let (code, _, error) = {
        command.arg("--state-dir").arg(other.state.path());
        run(command)
    };
    assert_eq!(code, 7, "{error}");
    assert!(error.contains(&server.fingerprint.to_string()) && error.contains(&other.fingerprint.to_string()), "{error}");

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_discus"));
    command.args(["status", "--server", &free.to_string(), "--state-dir"]).arg(server.state.path());
    let (code, _, error) = run(command);
    assert_eq!(code, 7, "{error}");
    assert!(error.contains("cannot reach a sender"), "{error}");

    let nothing = tempfile::tempdir().unwrap();
    let mut command = server.asked(&["status"]);
    command.arg("--state-dir").arg(nothing.path());
    let (code, _, error) = run(command);
    assert!(code == 1 && error.contains("--server-fingerprint"), "{error}");
}
