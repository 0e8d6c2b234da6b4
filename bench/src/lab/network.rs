//! The namespaces, brought up and down by `scripts/netlab`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

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
}

impl Default for LabOptions {
    fn default() -> LabOptions {
        LabOptions { receivers: 1, mtu_bytes: 1500, ipv6: false, cable: false }
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

/// A running lab; taken down on drop.
#[derive(Debug, Deserialize)]
pub struct Lab {
    prefix: String,
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
        let output = command.stdin(Stdio::null()).output().context("running scripts/netlab")?;
        if !output.status.success() {
            bail!("netlab up: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("reading what netlab made")
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

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = down(&self.prefix) {
            eprintln!("{error:#}");
        }
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

fn down(prefix: &str) -> Result<()> {
    let output = Command::new(netlab()?).args(["down", "--prefix", prefix]).output().context("running scripts/netlab")?;
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
