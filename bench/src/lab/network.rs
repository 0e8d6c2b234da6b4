//! The namespaces, brought up and down by `scripts/netlab`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::leavings::{Undo, succeed};

/// A frame on a narrow link, as tbf counts it.
const FRAME_BYTES: u64 = 1514;
/// What may leave a narrow link back to back.
const BURST_BYTES: u64 = 16 * 1024;

/// What a lab should look like.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// How many receivers.
    pub receivers: usize,
    /// MTU of every interface.
    pub mtu_bytes: u32,
    /// Whether the machines have IPv6 addresses too.
    pub ipv6: bool,
    /// One receiver, wired straight to the sender without a bridge.
    pub cable: bool,
    /// Queues each way of the sender's link.
    pub queues: u32,
}

impl Default for LabOptions {
    fn default() -> LabOptions {
        LabOptions { receivers: 1, mtu_bytes: 1500, ipv6: false, cable: false, queues: 1 }
    }
}

/// One machine of a lab.
#[derive(Clone, Debug, Deserialize)]
pub struct Machine {
    /// Its network namespace.
    pub namespace: String,
    /// The bridge's port that leads to it, in [`Lab::bridge`].
    pub port: String,
    /// Its IPv4 address.
    pub ipv4: std::net::Ipv4Addr,
    /// Its IPv6 address, in a lab that has them.
    pub ipv6: Option<std::net::Ipv6Addr>,
}

/// A running lab; taken down on drop, and when a signal ends this program.
#[derive(Debug, Deserialize)]
pub struct Lab {
    #[serde(skip)]
    taking_down: Option<Undo>,
    /// The interface of sender and receivers, in their namespaces.
    pub interface: String,
    /// The namespace of the bridge.
    pub bridge: String,
    /// The sender.
    pub sender: Machine,
    /// The receivers.
    pub receivers: Vec<Machine>,
}

impl Lab {
    /// Brings a lab up, under a prefix that no other lab of this machine has.
    ///
    /// # Errors
    /// When `scripts/netlab` fails; its message is in the error.
    pub fn up(options: &LabOptions) -> Result<Lab> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| {
            if let Err(error) = remove_abandoned() {
                eprintln!("labs of earlier runs: {error:#}");
            }
        });
        let prefix = format!("lab-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(netlab()?);
        command.args(["up", "--json", "--prefix", &prefix]);
        command.args(["--receivers", &options.receivers.to_string(), "--mtu", &options.mtu_bytes.to_string()]);
        if options.ipv6 {
            command.arg("--ipv6");
        }
        if options.cable {
            command.arg("--cable");
        }
        command.args(["--queues", &options.queues.to_string()]);
        // Before there is anything of it.
        let taking_down = Undo::later(move || {
            if let Err(error) = down(&prefix) {
                eprintln!("{error:#}");
            }
        })?;
        let mut lab: Lab = serde_json::from_slice(&succeed(&mut command)?).context("reading what netlab made")?;
        lab.taking_down = Some(taking_down);
        Ok(lab)
    }

    /// Puts the machines of `behind` behind a narrow link: a second bridge, joined to the first by a pair of interfaces with a queue of
    /// `queue_packets` full frames.
    ///
    /// # Errors
    /// When `ip` or `tc` fails.
    pub fn narrow(&self, behind: &[&Machine], megabits: u64, queue_packets: u64) -> Result<()> {
        let ip = |arguments: &str| self.ip(&self.bridge, &arguments.split(' ').collect::<Vec<_>>());
        ip(
            "link add far type bridge stp_state 0 forward_delay 0 mcast_snooping 1 mcast_igmp_version 3 mcast_query_response_interval 20 mcast_query_interval 200",
        )?;
        ip("link set far type bridge mcast_querier 1")?;
        ip("link set far up")?;
        ip("link add near-end numrxqueues 1 numtxqueues 1 type veth peer name far-end numrxqueues 1 numtxqueues 1")?;
        ip("link set near-end master bridge up")?;
        ip("link set far-end master far up")?;
        // Reports of the members behind it reach the near bridge, whoever is the querier.
        ip("link set far-end type bridge_slave mcast_router 2")?;
        for machine in behind {
            ip(&format!("link set {} master far", machine.port))?;
        }
        let limit_bytes = queue_packets * FRAME_BYTES;
        let queue =
            format!("-n {} qdisc add dev near-end root tbf rate {megabits}mbit burst {BURST_BYTES} limit {limit_bytes}", self.bridge);
        succeed(Command::new("tc").args(queue.split(' '))).context("making the narrow link (needs the tbf queue of the kernel)")?;
        Ok(())
    }

    /// What `ip` prints when run with `arguments` in `namespace`.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, namespace: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new("ip").args(["-n", namespace]).args(arguments).output().context("running ip")?;
        if !output.status.success() {
            bail!("ip -n {namespace} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether an XDP program is attached to the machine's interface.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn has_xdp(&self, machine: &Machine) -> Result<bool> {
        // Attached programs show as `xdp`, `xdpgeneric` or `xdpoffload` among the link's details, and as `prog/xdp id N`.
        Ok(self.ip(&machine.namespace, &["-details", "link", "show", "dev", &self.interface])?.contains("xdp"))
    }

    /// Packets and bytes that the machine's interface has transmitted since it was made.
    ///
    /// # Errors
    /// When `ip` fails or prints something else than its JSON.
    pub fn transmitted(&self, machine: &Machine) -> Result<Traffic> {
        let text = self.ip(&machine.namespace, &["-json", "-statistics", "link", "show", "dev", &self.interface])?;
        let links: Vec<Link> = serde_json::from_str(&text).context("reading the interface's counters")?;
        links.into_iter().next().map(|link| link.stats64.tx).context("the interface is gone")
    }
}

/// What an interface has transmitted.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Traffic {
    /// Frames.
    pub packets: u64,
    /// Bytes of the frames, from the Ethernet header on, without checksum.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Link {
    stats64: Stats,
}

#[derive(Deserialize)]
struct Stats {
    tx: Traffic,
}

/// Takes a lab down, with whoever is still in it: nobody comes there but by its maker.
fn down(prefix: &str) -> Result<()> {
    for id in inhabitants(prefix) {
        // An error: it has just ended by itself.
        let _ = kill_process(id, Signal::KILL);
    }
    // A group of its own: the signal that ends this program does not end it.
    let mut command = Command::new(netlab()?);
    command.args(["down", "--prefix", prefix]).process_group(0).stdin(Stdio::null());
    let output = command.output().context("running scripts/netlab")?;
    if !output.status.success() {
        bail!("netlab down: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Takes down the labs of programs that were killed: a signal drops nothing.
fn remove_abandoned() -> Result<()> {
    let output = Command::new(netlab()?).arg("list").output().context("running scripts/netlab")?;
    for prefix in String::from_utf8_lossy(&output.stdout).lines() {
        let owner = prefix.strip_prefix("lab-").and_then(|rest| rest.split_once('-')).and_then(|(id, _)| id.parse::<u32>().ok());
        if owner.is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists()) {
            down(prefix)?;
        }
    }
    Ok(())
}

/// The processes in the namespaces of a lab but this one, whose threads may be there.
fn inhabitants(prefix: &str) -> Vec<Pid> {
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let of_lab = |name: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'));
    let names = namespaces.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| of_lab(name));
    let ids = names.flat_map(|name| {
        let output = Command::new("ip").args(["netns", "pids", &name]).process_group(0).stdin(Stdio::null()).output();
        let ids = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        ids.lines().filter_map(|id| id.parse().ok().and_then(Pid::from_raw)).collect::<Vec<_>>()
    });
    ids.filter(|&id| id != rustix::process::getpid()).collect()
}

/// The script, in the checkout that this program was built from.
fn netlab() -> Result<PathBuf> {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = bench.parent().unwrap_or(bench).join("scripts/netlab");
    if !script.exists() {
        bail!("{} is missing: this runs from a checkout of the project only", script.display());
    }
    Ok(script)
}

/// Polls `condition` until it holds or `deadline` has passed; says which.
pub(crate) fn holds_before(deadline: Instant, mut condition: impl FnMut() -> bool) -> bool {
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
