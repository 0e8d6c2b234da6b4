//! A lab with its scratch directory, and the sender and the receivers that run in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::lab::{Ended, Lab, LabOptions, Machine, Process, Programs};
use serde::Deserialize;
use tempfile::TempDir;

/// Port of the sender's control plane and, by default, of the stream.
pub(crate) const PORT: u16 = 4700;
/// The group that the stream goes to by default.
pub(crate) const GROUP: &str = "239.192.68.1";
/// Within this a transfer of these tests ends, even on a busy machine; it is a limit for what hangs, not a target.
pub(crate) const TRANSFER_LIMIT: Duration = Duration::from_secs(90);
/// Within this a program says what it is asked for at its start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A lab, a directory on a disk, and the programs under test.
pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) scratch: TempDir,
    programs: Programs,
}

/// A running `discus serve`.
pub(crate) struct Sender {
    pub(crate) process: Process,
    pub(crate) fingerprint: String,
    server: String,
}

/// What a sender is asked beside its pack.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServeOptions<'a> {
    /// End after this many receivers.
    pub(crate) once: Option<usize>,
    /// Further arguments.
    pub(crate) arguments: &'a [&'a str],
}

/// What `discus serve --json` prints, as far as these tests ask.
#[derive(Debug, Deserialize)]
pub(crate) struct ServeSummary {
    pub(crate) symbols_sent: u64,
    pub(crate) symbols_needed: u64,
    pub(crate) symbol_bytes: u64,
    pub(crate) syncs_sent: u64,
    pub(crate) receivers: Vec<ServedReceiver>,
    pub(crate) transmit: String,
    pub(crate) transmitters: Vec<ServedTransmitter>,
}

/// One transmitter as the sender saw it.
#[derive(Debug, Deserialize)]
pub(crate) struct ServedTransmitter {
    pub(crate) queue: Option<u32>,
    pub(crate) mode: String,
    pub(crate) packets_sent: u64,
}

/// One receiver as the sender saw it.
#[derive(Debug, Deserialize)]
pub(crate) struct ServedReceiver {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) ended_unix_ms: Option<u64>,
}

/// What `discus-receive --json` prints, as far as these tests ask.
#[derive(Debug, Deserialize)]
pub(crate) struct ReceiveSummary {
    pub(crate) seconds: f64,
    pub(crate) chunks_given_up: u64,
    pub(crate) packets: PacketCounts,
    pub(crate) chunks: u64,
    pub(crate) resumed_chunks: u64,
    pub(crate) chunks_by_unicast: u64,
}

/// What a receiver's filter did with the packets of the session.
#[derive(Debug, Deserialize)]
pub(crate) struct PacketCounts {
    pub(crate) seen: u64,
    pub(crate) accepted: u64,
    pub(crate) dropped: u64,
}

/// A rate at which a busy two-core machine in the development profile loses nothing by itself.
pub(crate) const EASY_RATE: &str = "400M";

impl World {
    /// A lab with so many receivers, without IPv6.
    pub(crate) fn new(receivers: usize) -> Result<World> {
        World::with(&LabOptions { receivers, ..LabOptions::default() })
    }

    pub(crate) fn with(options: &LabOptions) -> Result<World> {
        Ok(World { programs: Programs::built()?, lab: Lab::up(options)?, scratch: scratch()? })
    }

    /// A path in the scratch directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn receiver(&self, index: usize) -> &Machine {
        &self.lab.receivers[index]
    }

    /// Starts the sender and waits until it can be enrolled with.
    pub(crate) fn serve(&self, pack: &Path, options: &ServeOptions<'_>) -> Result<Sender> {
        self.serve_at(pack, options, &format!("{}:{PORT}", self.lab.sender.ipv4), EASY_RATE)
    }

    /// The same, where receivers reach it at `server`, with a rate of its own.
    pub(crate) fn serve_at(&self, pack: &Path, options: &ServeOptions<'_>, server: &str, rate: &str) -> Result<Sender> {
        let state = self.path("state");
        let mut arguments: Vec<String> = ["serve", "--json", "--interface", &self.lab.interface, "--rate", rate].map(str::to_owned).into();
        arguments.extend(["--pack".to_owned(), text(pack), "--state-dir".to_owned(), text(&state)]);
        if let Some(receivers) = options.once {
            arguments.extend(["--once".to_owned(), receivers.to_string()]);
        }
        arguments.extend(options.arguments.iter().map(|&argument| argument.to_owned()));
        let mut process = Process::start("serve", self.scratch.path(), &self.lab.sender.namespace, &self.programs.discus, &arguments)?;
        let fingerprint = process.wait_for_fingerprint(START_LIMIT)?;
        Ok(Sender { process, fingerprint, server: server.to_owned() })
    }

    /// Runs a subcommand that asks the sender, on the sender's machine; it has to succeed. Returns what it prints.
    pub(crate) fn operate(&self, arguments: &[&str]) -> Result<String> {
        let (server, state) = (format!("{}:{PORT}", self.lab.sender.ipv4), text(&self.path("state")));
        let all = arguments.iter().copied().chain(["--server", &server, "--state-dir", &state]);
        let asking = Process::start(arguments[0], self.scratch.path(), &self.lab.sender.namespace, &self.programs.discus, all)?;
        let ended = asking.wait(START_LIMIT)?;
        ensure!(ended.code == Some(0), "discus {arguments:?} ended with {:?}:\n{}", ended.code, ended.stderr);
        Ok(ended.stdout)
    }

    /// Starts the receiver with number `index`, as the machine `machineINDEX`.
    pub(crate) fn receive(&self, sender: &Sender, index: usize, image: &str, target: &Path, arguments: &[&str]) -> Result<Process> {
        let name = format!("machine{index}");
        let target = text(target);
        let mut all =
            vec![image, "--server", &sender.server, "--server-fingerprint", &sender.fingerprint, "--interface", &self.lab.interface];
        all.extend(["--target", &target, "--name", &name, "--json"]);
        all.extend(arguments);
        Process::start(&name, self.scratch.path(), &self.receiver(index).namespace, &self.programs.receive, all)
    }

    /// Drops packets of the stream on their way to the machine, as `discus-bench impair` is told; until the process is dropped.
    pub(crate) fn impair(&self, index: usize, arguments: &[&str]) -> Result<Process> {
        let port = PORT.to_string();
        let mut all = vec!["impair", "--interface", &self.receiver(index).port, "--port", &port, "--json"];
        all.extend(arguments);
        let mut process = Process::start(&format!("impair{index}"), self.scratch.path(), &self.lab.bridge, &self.programs.bench, all)?;
        // It says one line when it is attached.
        process.wait_for_line("attaching the impairment", START_LIMIT, |_| Some(()))?;
        Ok(process)
    }

    /// Waits until the sender's machine has transmitted `bytes` bytes.
    pub(crate) fn wait_until_transmitted(&self, bytes: u64) -> Result<()> {
        wait_until(&format!("{bytes} bytes on the wire"), || Ok(self.lab.transmitted(&self.lab.sender)?.bytes >= bytes))
    }
}

impl Sender {
    /// Waits for its end, which has to be a success, and returns its summary.
    pub(crate) fn finish(self) -> Result<ServeSummary> {
        let ended = self.process.wait(TRANSFER_LIMIT)?;
        ensure!(ended.code == Some(0), "the sender ended with {:?}:\n{}", ended.code, ended.stderr);
        summary_of(&ended)
    }
}

/// Waits for the receiver's end, which has to be a success, and returns its summary.
pub(crate) fn finish(receiver: Process) -> Result<ReceiveSummary> {
    let ended = receiver.wait(TRANSFER_LIMIT)?;
    ensure!(ended.code == Some(0), "the receiver ended with {:?}:\n{}", ended.code, ended.stderr);
    summary_of(&ended)
}

/// The JSON object that a program printed at its end.
pub(crate) fn summary_of<T: for<'de> Deserialize<'de>>(ended: &Ended) -> Result<T> {
    serde_json::from_str(&ended.stdout).with_context(|| format!("reading the summary {:?}; it wrote:\n{}", ended.stdout, ended.stderr))
}

/// Polls `condition` until it holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = std::time::Instant::now() + TRANSFER_LIMIT;
    while !condition()? {
        ensure!(std::time::Instant::now() < deadline, "{what}: not within {TRANSFER_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A directory on a disk: /tmp may be in memory, where O_DIRECT does not exist.
pub(crate) fn scratch() -> Result<TempDir> {
    let parent = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    tempfile::Builder::new()
        .prefix("discus-test-")
        .tempdir_in(&parent)
        .with_context(|| format!("making a directory in {}", parent.display()))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
