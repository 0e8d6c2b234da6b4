//! `discus serve` as a program, on the loopback interface and without receivers: what it says and how it exits. Needs no root.
// Helpers outside test functions, too: what is unexpected here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A directory with a small pack in it.
    fn new() -> Scratch {
        let scratch = Scratch(tempfile::tempdir().unwrap());
        std::fs::write(scratch.path("image.raw"), (0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
        let packed = discus().args(["pack", "--json", "-o"]).arg(scratch.pack()).arg("image=image.raw").current_dir(&scratch.0).output();
        assert!(packed.unwrap().status.success());
        scratch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn pack(&self) -> PathBuf {
        self.path("test.pack")
    }

    /// `discus serve` on the loopback interface and a free port, with its key in the directory.
    fn serve(&self, pack: &Path, interface: &str, listen: &str) -> Command {
        let mut command = discus();
        command.arg("serve").arg("--pack").arg(pack).args(["--interface", interface, "--listen", listen]);
        command.arg("--state-dir").arg(self.path("state"));
        command
    }
}

fn discus() -> Command {
    Command::new(env!("CARGO_BIN_EXE_discus"))
}

/// Runs a command that is to fail, and returns its exit code and what it said.
fn failure(mut command: Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

/// Kills a child that a failing test leaves behind.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guard {
    fn exit_code(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(Instant::now() < deadline, "it ends");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_missing_interface_is_a_network_failure_that_lists_those_there_are() {
    let scratch = Scratch::new();
    let (code, said) = failure(scratch.serve(&scratch.pack(), "nosuch0", "127.0.0.1:0"));
    assert_eq!(code, 7, "{said}");
    assert!(said.contains("nosuch0") && said.contains("lo"), "{said}");
}

#[test]
fn a_port_in_use_is_a_network_failure_that_names_the_flag() {
    let scratch = Scratch::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, said) = failure(scratch.serve(&scratch.pack(), "lo", &taken.local_addr().unwrap().to_string()));
    assert_eq!(code, 7, "{said}");
    assert!(said.contains("--listen"), "{said}");
}

#[test]
fn an_mtu_that_the_interface_does_not_have_is_a_network_failure() {
    let scratch = Scratch::new();
    let mut command = scratch.serve(&scratch.pack(), "lo", "127.0.0.1:0");
    command.args(["--mtu", "100000"]);
    let (code, said) = failure(command);
    assert_eq!(code, 7, "{said}");
    assert!(said.contains("ip link set lo mtu"), "{said}");
}

#[test]
fn a_damaged_pack_is_refused_at_the_start() {
    let scratch = Scratch::new();
    let mut bytes = std::fs::read(scratch.pack()).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    std::fs::write(scratch.path("bad.pack"), bytes).unwrap();
    let (code, said) = failure(scratch.serve(&scratch.path("bad.pack"), "lo", "127.0.0.1:0"));
    assert_eq!(code, 4, "{said}");
}

#[test]
fn a_rate_that_is_none_is_wrong_usage() {
    let scratch = Scratch::new();
    let mut command = scratch.serve(&scratch.pack(), "lo", "127.0.0.1:0");
    command.args(["--rate", "fast"]);
    let (code, said) = failure(command);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("2.5G"), "{said}");
}

#[test]
fn failures_are_json_too_when_asked_for() {
    let scratch = Scratch::new();
    let mut command = scratch.serve(&scratch.pack(), "nosuch0", "127.0.0.1:0");
    let output = command.arg("--json").output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["outcome"], "failed");
    assert!(report["error"].as_str().unwrap().contains("nosuch0"));
}

#[test]
fn a_signal_stops_it_in_good_order_with_the_code_that_shells_expect() {
    for (signal, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        let scratch = Scratch::new();
        let mut command = scratch.serve(&scratch.pack(), "lo", "127.0.0.1:0");
        let child = command.args(["--json", "--once", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut guard = Guard(child);
        let mut said = BufReader::new(guard.0.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().starts_with("waiting   for 1 receiver")));
        // Read on, so that it never blocks on a full pipe.
        let rest = std::thread::spawn(move || said.map_while(Result::ok).collect::<Vec<_>>().join("\n"));
        rustix::process::kill_process(rustix::process::Pid::from_child(&guard.0), signal).unwrap();
        assert_eq!(guard.exit_code(), code);
        let mut json = String::new();
        guard.0.stdout.take().unwrap().read_to_string(&mut json).unwrap();
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&report["outcome"], report["symbols_sent"].as_u64()), (&"stopped".into(), Some(0)));
        assert!(rest.join().unwrap().contains("stopping; receivers are told"));
    }
}

#[test]
fn warnings_have_no_colours_where_there_is_no_terminal() {
    let scratch = Scratch::new();
    let mut command = scratch.serve(&scratch.pack(), "lo", "127.0.0.1:0");
    let mut guard = Guard(command.env("RUST_LOG", "debug").stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(guard.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let listening = lines.find(|line| line.starts_with("listen")).unwrap();
    let address = listening.split_whitespace().nth(1).unwrap();
    // What is no handshake is worth a line.
    std::net::TcpStream::connect(address).unwrap().write_all(b"no handshake").unwrap();
    let said = lines.find(|line| line.contains("handshake failed")).unwrap();
    assert!(!said.contains('\u{1b}'), "{said}");
}

#[test]
fn a_core_that_is_not_there_is_wrong_usage() {
    let scratch = Scratch::new();
    let mut command = scratch.serve(&scratch.pack(), "lo", "127.0.0.1:0");
    command.args(["--cores", "0,5000"]);
    let (code, message) = failure(command);
    assert!(code == 2 && message.contains("may run on 0"), "{code} {message}");
}

#[test]
fn queues_that_cannot_be_are_said_at_once() {
    let scratch = Scratch::new();
    let refused = |arguments: &[&str]| {
        let mut command = scratch.serve(&scratch.pack(), "lo", "127.0.0.1:0");
        command.args(arguments);
        failure(command)
    };
    let (code, said) = refused(&["--queue", "0,0"]);
    assert!(code == 2 && said.contains("queue 0 is named twice"), "{code} {said}");
    let (code, said) = refused(&["--queue", "0,1", "--streams", "1"]);
    assert!(code == 2 && said.contains("--streams"), "{code} {said}");
    // The loopback interface has one.
    let (code, said) = refused(&["--queue", "0,1"]);
    assert!(code == 7 && said.contains("--queue 1: lo has one transmit queue"), "{code} {said}");
}

#[test]
fn a_restarted_sender_keeps_its_session_and_its_certificate() {
    let scratch = Scratch::new();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut command = scratch.serve(&scratch.pack(), "lo", "127.0.0.1:0");
        let mut guard = Guard(command.stderr(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(guard.0.stderr.take().unwrap()).lines().map_while(Result::ok);
        let wanted =
            lines.take_while(|line| !line.starts_with("receive ")).filter(|line| line.starts_with("session") || line.contains("sha256"));
        let wanted = wanted.map(|line| line.rsplit("certificate").next().unwrap_or_default().to_owned());
        seen.push(wanted.collect::<Vec<_>>());
    }
    assert_eq!(seen[0].len(), 2);
    assert_eq!(seen[0], seen[1]);
}
