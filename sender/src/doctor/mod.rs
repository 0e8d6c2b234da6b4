//! What stands between this machine and a good transfer: the interface, the card, the kernel, the way onto the network, and whether somebody queries
//! for memberships; the probe stream ([`probe`]) by which receivers' doctors see what arrives; and the control port that they ask for this sender ([`ControlPort`]).

mod control;
mod probe;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use wire::doctor::{Finding, USUAL_CHUNK_BYTES, probe_symbol_bytes};
use wire::packet::HEADER_BYTES;
use wire::session::symbol_bytes_for_mtu;

use crate::interface::Interface;
use crate::transmit::{self, Choice, Mode, Opened, TransmitConfig};
use crate::tune::{Wishes, survey};

pub use control::{ControlPort, reached_at};
pub use probe::{Sent, run as probe};

/// Several buffers for one packet in XDP, and AF_XDP that uses them.
const KERNEL_WANTED: (u32, u32) = (6, 6);

/// What can be seen on this machine alone, and the open way onto the network if there is one.
pub struct Examined {
    /// Line by line.
    pub findings: Vec<Finding>,
    /// For the probe stream.
    pub ready: Option<Ready>,
}

/// A way onto the network.
pub struct Ready {
    /// It.
    pub opened: Opened,
    /// What full packets carry.
    pub symbol_bytes: u16,
    /// The group's address decides the length of headers.
    pub group: SocketAddr,
}

/// A `discus serve` that runs on this machine, as far as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// The name of the [`Mode`] in which its packets leave, and its line about it.
    pub transmit: (String, String),
    /// Receivers on its list.
    pub listed: usize,
}

/// Looks at everything but the network behind the interface. `serving`: who may have the card's queue.
pub fn examine(interface: &str, group: SocketAddr, hops: u8, choice: Choice, serving: Option<&Serving>) -> Examined {
    let mut findings = vec![kernel()];
    let found = match Interface::find(interface) {
        Ok(found) => found,
        Err(error) => {
            findings.push(Finding::fail(
                "interface",
                error.to_string(),
                "give the interface that machines are installed over: --interface",
            ));
            return Examined { findings, ready: None };
        }
    };
    findings.push(state(&found));
    findings.push(Finding::ok("card", format!("driver {}, {} transmit queues", driver(interface), found.transmit_queues)));
    findings.push(tuning(interface));
    let ready = match open(found, group, hops, choice) {
        Ok(ready) => {
            findings.push(mode(&ready.opened, serving));
            Some(ready)
        }
        Err(why) => {
            findings.push(Finding::fail("transmit", why, "an address of the group's family on the interface and root are needed"));
            None
        }
    };
    Examined { findings, ready }
}

fn open(interface: Interface, group: SocketAddr, hops: u8, choice: Choice) -> Result<Ready, String> {
    let symbol_bytes = probe_symbol_bytes(interface.mtu_bytes).map_err(|error| error.to_string())?;
    let source = interface.source_for(group.ip()).map_err(|error| error.to_string())?;
    let config = TransmitConfig {
        busy_poll: false,
        interface,
        queue: 0,
        source: SocketAddr::new(source, group.port()),
        groups: vec![group],
        hops,
        payload_bytes: HEADER_BYTES + usize::from(symbol_bytes),
        choice,
    };
    let opened = transmit::open(&config).map_err(|error| error.to_string())?;
    Ok(Ready { opened, symbol_bytes, group })
}

fn state(interface: &Interface) -> Finding {
    let addresses: Vec<String> = interface.addresses.iter().map(|address| address.ip.to_string()).collect();
    let found = format!("{}: MTU {}, {}", interface.name, interface.mtu_bytes, addresses.join(", "));
    match (interface.up, interface.carrier) {
        (false, _) => Finding::fail("interface", format!("{found}, down"), format!("ip link set {} up", interface.name)),
        (true, false) => Finding::fail("interface", format!("{found}, no carrier"), "is the cable in, the switch port on?"),
        (true, true) => match symbol_bytes_for_mtu(interface.mtu_bytes, USUAL_CHUNK_BYTES) {
            Ok(_) => Finding::ok("interface", found),
            Err(error) => Finding::warn("interface", found, error.to_string()),
        },
    }
}

/// The card's driver, as sysfs names it.
fn driver(interface: &str) -> String {
    let link = fs::read_link(Path::new("/sys/class/net").join(interface).join("device/driver"));
    let name = link.ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    name.unwrap_or_else(|| "none (a virtual interface)".to_owned())
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_WANTED {
        Finding::ok("kernel", format!("Linux {release}"))
    } else {
        Finding::warn("kernel", format!("Linux {release}"), "from Linux 6.6 on jumbo packets go through AF_XDP; before they go by UDP")
    }
}

fn mode(opened: &Opened, serving: Option<&Serving>) -> Finding {
    match (opened.queue_is_taken, serving) {
        (false, _) => judged(opened.transmit.mode().name(), opened.description.clone()),
        // Two programs cannot have it; what is asked is how images leave.
        (true, Some(Serving { transmit: (mode, line), .. })) => {
            judged(mode, format!("discus serve has the queue: {line}. Probes would leave by UDP beside it"))
        }
        (true, None) => Finding::warn(
            "transmit",
            opened.description.clone(),
            "AF_XDP cannot be looked at while another program has the queue. If that is discus serve, its first lines say how its packets leave, \
             and here --state-dir has to name its directory; `ss --xdp --processes` says who it is",
        ),
    }
}

/// What a way onto the network is worth, by the name of its mode.
fn judged(mode: &str, found: String) -> Finding {
    // Several, where queues ended up in different ones: the least counts.
    let (zero_copy, copy) = (Mode::AfXdpZeroCopy.name(), Mode::AfXdpCopy.name());
    if mode == zero_copy {
        Finding::ok("transmit", found)
    } else if mode.split('+').all(|mode| mode == zero_copy || mode == copy) {
        Finding::warn("transmit", found, "a card whose driver has AF_XDP zero-copy (ice, i40e, ixgbe, mlx5, …) sends faster with less")
    } else {
        Finding::warn("transmit", found, "the line says why not AF_XDP; UDP takes more of the processor")
    }
}

fn tuning(interface: &str) -> Finding {
    match survey(Path::new("/"), interface, &Wishes::default()) {
        Ok(settings) => {
            let due: Vec<&str> = settings.iter().filter(|setting| setting.is_due()).map(|setting| setting.name.as_str()).collect();
            if due.is_empty() {
                Finding::ok("settings", "as discus tune would have them")
            } else {
                Finding::warn(
                    "settings",
                    due.join(", "),
                    format!("discus tune check --interface {interface}; apply changes them, undo puts them back"),
                )
            }
        }
        Err(error) => Finding::warn("settings", error.to_string(), "discus tune check says more"),
    }
}

/// That nothing is probed beside a transfer to so many receivers.
pub fn not_probed(listed: usize) -> Finding {
    let found = format!(
        "not sent: discus serve has {listed} on its list. Probes would slow them down, and what they lost would not be the network's alone"
    );
    Finding::warn("probes", found, "when discus status lists none any more, or with the sender stopped")
}

/// What a probe stream of that many rounds was.
pub fn probed(sent: &Sent) -> Finding {
    let rounds = if sent.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", sent.rounds) };
    let mut found = format!("{rounds} up to {:.2} Gbit/s", sent.fastest_bits_per_second as f64 / 1e9);
    if sent.fastest_bits_per_second * 10 >= sent.asked_bits_per_second * 9 {
        found += "; receivers' doctors say what arrived";
        return Finding::ok("probes", found);
    }
    let advice = "this machine is not faster: see `transmit` and `settings`, and discus-bench limits";
    Finding::warn("probes", format!("{found}, {:.2} were asked for", sent.asked_bits_per_second as f64 / 1e9), advice)
}
