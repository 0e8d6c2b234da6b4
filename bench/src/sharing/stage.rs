//! The network with its narrow link, and who sends through it.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::content::{Part, write_image};
use crate::lab::{Lab, LabOptions, Machine, Process, Programs, inside};
use crate::leavings::succeed;
use crate::scratch::Scratch;

/// A frame on the link, as tbf counts it.
const FRAME_BYTES: u64 = 1514;
/// What it carries of TCP: less 14 of Ethernet, 20 of IP, 32 of TCP with timestamps.
const SEGMENT_BYTES: u64 = 1448;
const TCP_PORT: u16 = 5001;
const START_LIMIT: Duration = Duration::from_secs(20);

/// Machines of the lab by what they do here. `Lab::sender` is the first session's sender and that of TCP; it and the second sender are on the near side.
const SECOND_SENDER: usize = 0;
const RECEIVERS: [usize; 2] = [1, 2];
const TCP_SINK: usize = 3;

/// See the module's text. All ends with it.
pub(super) struct Stage {
    // Dropped in this order: programs, threads, network, files.
    sessions: Vec<(Process, Process)>,
    flows: Option<Flows>,
    lab: Lab,
    programs: Programs,
    scratch: Scratch,
}

impl Stage {
    pub(super) fn set(link_megabits: u64, queue_packets: u64, size_mib: u64, directory: &Path) -> Result<Stage> {
        let programs = Programs::built()?;
        let lab = Lab::up(&LabOptions { receivers: 4, ..LabOptions::default() })?;
        let behind: Vec<&Machine> = RECEIVERS.iter().chain(&[TCP_SINK]).map(|&machine| &lab.receivers[machine]).collect();
        lab.narrow(&behind, link_megabits, queue_packets)?;
        let scratch = Scratch::new(directory)?;
        let source = scratch.path.join("source");
        write_image(&source, &[Part::Noise { seed: 1, bytes: size_mib << 20 }])?;
        let mut pack = Command::new(&programs.discus);
        pack.arg("pack").arg("--output").arg(scratch.path.join("pack")).arg(format!("source={}", source.display()));
        succeed(&mut pack)?;
        Ok(Stage { sessions: Vec::new(), flows: None, lab, programs, scratch })
    }

    /// Starts a sender and its receiver.
    pub(super) fn start_session(&mut self, index: usize) -> Result<()> {
        let Stage { lab, programs, scratch, .. } = self;
        let sender = if index == 0 { &lab.sender } else { &lab.receivers[SECOND_SENDER] };
        let receiver = &lab.receivers[RECEIVERS[index]];
        let path = |name: &str| scratch.path.join(format!("{name}{index}")).to_string_lossy().into_owned();
        let (pack, state) = (scratch.path.join("pack").to_string_lossy().into_owned(), path("state"));
        let group = format!("239.192.68.{}:4700", index + 1);
        let serve = ["serve", "--pack", &pack, "--interface", &lab.interface, "--rate", "10G", "--state-dir", &state, "--group", &group];
        let mut serving = Process::start(&format!("serve{index}"), &scratch.path, &sender.namespace, &programs.discus, serve)?;
        let fingerprint = serving.wait_for_fingerprint(START_LIMIT)?;
        let (server, target) = (format!("{}:4700", sender.ipv4), path("target"));
        let receive =
            ["source", "--server", &server, "--server-fingerprint", &fingerprint, "--interface", &lab.interface, "--target", &target];
        let receiving = Process::start(&format!("receive{index}"), &scratch.path, &receiver.namespace, &programs.receive, receive)?;
        self.sessions.push((serving, receiving));
        // Its first packets are on the way when its receiver has had a megabyte.
        let deadline = Instant::now() + START_LIMIT;
        while port_bytes(&self.lab, &self.lab.receivers[RECEIVERS[index]])? < 1 << 20 {
            ensure!(Instant::now() < deadline, "session {index} sends nothing");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Starts `flows` TCP flows.
    pub(super) fn start_tcp(&mut self, flows: usize, congestion: &str) -> Result<()> {
        self.flows = Some(Flows::start(&self.lab.sender, &self.lab.receivers[TCP_SINK], flows, congestion)?);
        Ok(())
    }

    /// What each has had through the link so far.
    pub(super) fn bytes(&self) -> Result<Vec<(String, u64)>> {
        let session = |index: usize| -> Result<(String, u64)> {
            Ok((format!("discus session {}", index + 1), port_bytes(&self.lab, &self.lab.receivers[RECEIVERS[index]])?))
        };
        let mut bytes = (0..self.sessions.len()).map(session).collect::<Result<Vec<_>>>()?;
        for (index, count) in self.flows.iter().flat_map(|flows| &flows.counts).enumerate() {
            let frames_bytes = count.load(Ordering::Relaxed) * FRAME_BYTES / SEGMENT_BYTES;
            bytes.push((format!("TCP flow {}", index + 1), frames_bytes));
        }
        Ok(bytes)
    }

    /// Whether everybody still sends.
    pub(super) fn ensure_all_run(&mut self) -> Result<()> {
        for (serving, receiving) in &mut self.sessions {
            if let Some(ended) = receiving.ended()? {
                bail!(
                    "the image was delivered before the time was over (a larger --size lasts longer), or the receiver failed:\n{}",
                    ended.stderr
                );
            }
            ensure!(serving.ended()?.is_none(), "the sender ended:\n{}", serving.stderr());
        }
        Ok(())
    }
}

/// Bytes that the bridge has sent to a machine.
fn port_bytes(lab: &Lab, machine: &Machine) -> Result<u64> {
    let text = lab.ip(&lab.bridge, &["-json", "-statistics", "link", "show", "dev", &machine.port])?;
    let links: serde_json::Value = serde_json::from_str(&text).context("reading the port's counters")?;
    links[0]["stats64"]["tx"]["bytes"].as_u64().context("the port has no counters")
}

/// TCP flows, each a writing and a reading thread of this process.
struct Flows {
    counts: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Flows {
    fn start(source: &Machine, sink: &Machine, flows: usize, congestion: &str) -> Result<Flows> {
        let listener = inside(&sink.namespace, || TcpListener::bind((sink.ipv4, TCP_PORT)).context("listening for TCP"))?;
        let mut all = Flows { counts: Vec::new(), stop: Arc::default(), threads: Vec::new() };
        for _ in 0..flows {
            let writing = inside(&source.namespace, || TcpStream::connect((sink.ipv4, TCP_PORT)).context("connecting by TCP"))?;
            // By the socket and not for the namespace, which only takes what an administrator has allowed to everybody.
            rustix::net::sockopt::set_tcp_congestion(&writing, congestion)
                .with_context(|| format!("choosing the congestion control {congestion} for TCP"))?;
            let (reading, _) = listener.accept().context("accepting TCP")?;
            for stream in [&writing, &reading] {
                stream.set_read_timeout(Some(Duration::from_millis(100)))?;
                stream.set_write_timeout(Some(Duration::from_millis(100)))?;
            }
            let count = Arc::new(AtomicU64::new(0));
            let (stop, counted) = (Arc::clone(&all.stop), Arc::clone(&count));
            all.threads.push(thread::spawn(move || until(&stop, || (&writing).write(&[0; 65_536]).map(|_| ()))));
            let stop = Arc::clone(&all.stop);
            let mut buffer = vec![0; 262_144];
            all.threads.push(thread::spawn(move || {
                until(&stop, || (&reading).read(&mut buffer).map(|bytes| _ = counted.fetch_add(bytes as u64, Ordering::Relaxed)));
            }));
            all.counts.push(count);
        }
        Ok(all)
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}

/// Repeats `step` until it is time to stop or it fails for good.
fn until(stop: &AtomicBool, mut step: impl FnMut() -> std::io::Result<()>) {
    while !stop.load(Ordering::Relaxed) {
        match step() {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => return,
        }
    }
}
