//! What stands between this machine and a good transfer: interface, kernel, filter, intake, memory, disk, whether somebody queries for memberships;
//! what arrives of the probes that a sender's doctor sends ([`Arrivals`]); and what the sender answers over its control connection.

mod arrivals;
mod control;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use wire::doctor::{Finding, Probe, USUAL_CHUNK_BYTES, probe_symbol_bytes};
use wire::packet::{HEADER_BYTES, Header};
use wire::session::symbol_bytes_for_mtu;

use crate::intake::{self, IntakeMode, IntakeOptions, Opened, XdpMode};
use crate::interface::Interface;
use crate::restore_rate;

pub use arrivals::Arrivals;
pub use control::{control_findings, look_until};

/// Several buffers for one packet in XDP.
const KERNEL_WANTED: (u32, u32) = (6, 6);
/// Memory that may be locked by who is not root: the intake's rings and the default buffers.
const MEMLOCK_BYTES_WANTED: u64 = 256 << 20;
/// Below this a disk is slower than 1 Gbit/s.
const DISK_BYTES_PER_SECOND_WANTED: u64 = 125_000_000;
/// Longest sleep while probes are waited for.
const WAIT: Duration = Duration::from_millis(20);

/// What can be seen on this machine alone, and the open intake if there is one.
pub struct Examined {
    /// Line by line.
    pub findings: Vec<Finding>,
    /// For probes.
    pub opened: Option<Opened>,
}

/// Looks at everything but the network behind the interface. `groups`: those that images come in; `target`: where an image is to go.
pub fn examine(interface: &str, groups: &[SocketAddr], mode: IntakeMode, xdp: XdpMode, target: Option<&Path>) -> Examined {
    let mut findings = vec![kernel(), io_uring(), memlock()];
    if let Some(target) = target {
        findings.push(disk(target));
    }
    let found = match Interface::find(interface) {
        Ok(found) => found,
        Err(error) => {
            findings.push(Finding::fail(
                "interface",
                format!("{interface}: {error}"),
                "give the interface on which the multicast arrives: --interface",
            ));
            return Examined { findings, opened: None };
        }
    };
    findings.push(state(&found));
    let opened = match open(&found, groups, mode, xdp) {
        Ok(opened) => opened,
        Err(why) => {
            findings.push(Finding::fail(
                "intake",
                why,
                "root, and an interface that is up with an address of the group's family, are needed",
            ));
            return Examined { findings, opened: None };
        }
    };
    findings.push(filter(&opened));
    findings.push(intake_line(&opened));
    let addresses: Vec<String> = groups.iter().map(|group| group.ip().to_string()).collect();
    // The kernel has listed it, or it could not have been opened.
    findings.push(Finding::ok("membership", format!("{} joined on {interface}, in force", addresses.join(", "))));
    Examined { findings, opened: Some(opened) }
}

/// Watches probes until a round of them is over, `limit` has passed, or `stopped` says so.
///
/// # Errors
/// When the interface can no longer be read from.
pub fn watch(opened: &mut Opened, limit: Duration, stopped: impl Fn() -> bool) -> std::io::Result<Arrivals> {
    let wants = opened.filter.want_set();
    wants.set_all();
    let mut arrivals = Arrivals::default();
    let began = Instant::now();
    while began.elapsed() < limit && !arrivals.is_over(Instant::now()) && !stopped() {
        let Opened { intake, filter, .. } = &mut *opened;
        let mut take = |payload: &[u8]| {
            let Ok((header, symbol)) = Header::parse(payload) else { return };
            if let (true, Some(probe)) = (filter.admits(payload), Probe::parse(&header, symbol)) {
                arrivals.note(&probe, HEADER_BYTES + symbol.len(), Instant::now());
            }
        };
        if intake.receive(&mut take)? == 0 {
            intake.wait(WAIT)?;
        }
    }
    arrivals.overruns = opened.intake.overruns();
    Ok(arrivals)
}

fn open(interface: &Interface, groups: &[SocketAddr], mode: IntakeMode, xdp: XdpMode) -> Result<Opened, String> {
    let mtu_bytes = interface.mtu_bytes().map_err(|error| error.to_string())?;
    let symbol_bytes = probe_symbol_bytes(mtu_bytes).map_err(|error| error.to_string())?;
    intake::open(interface, &Probe::parameters(symbol_bytes), groups, groups, IntakeOptions { mode, xdp, busy_poll: false })
        .map_err(|error| error.to_string())
}

fn state(interface: &Interface) -> Finding {
    let mtu = interface.mtu_bytes().map_or_else(|error| error.to_string(), |mtu_bytes| mtu_bytes.to_string());
    let found = format!("{}: MTU {mtu}, {} receive queues", interface.name(), interface.receive_queues());
    match interface.is_running() {
        Ok(true) => match interface.mtu_bytes().ok().map(|mtu_bytes| symbol_bytes_for_mtu(mtu_bytes, USUAL_CHUNK_BYTES)) {
            Some(Err(error)) => Finding::warn("interface", found, error.to_string()),
            _ => Finding::ok("interface", found),
        },
        _ => Finding::fail(
            "interface",
            format!("{found}, down or without carrier"),
            format!("ip link set {} up; is the cable in?", interface.name()),
        ),
    }
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let has_types = Path::new("/sys/kernel/btf/vmlinux").exists();
    let found = format!("Linux {release}, {} type information (BTF)", if has_types { "with" } else { "without" });
    if version >= KERNEL_WANTED {
        Finding::ok("kernel", found)
    } else {
        Finding::warn("kernel", found, "from Linux 6.6 on the filter sees jumbo packets and AF_XDP carries them; before they come by UDP")
    }
}

fn io_uring() -> Finding {
    match image::restore::io_uring_available() {
        Ok(()) => Finding::ok("io_uring", "available"),
        Err(error) => Finding::fail("io_uring", error.to_string(), "sysctl kernel.io_uring_disabled must be 0; containers often forbid it"),
    }
}

fn memlock() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    match limit {
        Some(bytes) if bytes < MEMLOCK_BYTES_WANTED && !rustix::process::geteuid().is_root() => Finding::warn(
            "memlock",
            format!("{} KiB may be locked", bytes >> 10),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity for a service",
        ),
        Some(bytes) => Finding::ok("memlock", format!("limit {} MiB; root is not bound by it", bytes >> 20)),
        None => Finding::ok("memlock", "unlimited"),
    }
}

fn disk(target: &Path) -> Finding {
    match restore_rate::write_rate_beside(target) {
        Ok(rate) if rate >= DISK_BYTES_PER_SECOND_WANTED => {
            Finding::ok("disk", format!("takes {:.0} MB/s ({:.1} Gbit/s)", rate as f64 / 1e6, rate as f64 * 8e-9))
        }
        Ok(rate) => Finding::warn(
            "disk",
            format!("takes {:.0} MB/s ({:.2} Gbit/s)", rate as f64 / 1e6, rate as f64 * 8e-9),
            "it holds a stream back that it follows: discus serve --straggler slow-stream gives slow machines streams of their own",
        ),
        Err(why) => Finding::warn("disk", why, "its rate is measured before a transfer too"),
    }
}

fn filter(opened: &Opened) -> Finding {
    let found = opened.filter.describe();
    match opened.filter.is_in_kernel() {
        true => Finding::ok("filter", found),
        false => Finding::warn(
            "filter",
            found,
            "the line says why; every packet of the session crosses the network stack then, which the filter in the kernel spares",
        ),
    }
}

fn intake_line(opened: &Opened) -> Finding {
    let found = opened.intake.describe().to_owned();
    if found.starts_with("AF_XDP zero-copy") {
        Finding::ok("intake", found)
    } else {
        Finding::warn("intake", found, "a card whose driver has AF_XDP zero-copy (ice, i40e, ixgbe, mlx5, …) receives faster with less")
    }
}
