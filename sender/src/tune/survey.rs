//! Reads the settings that matter for a transfer over one interface, and says what each should be.

use std::fs;
use std::path::{Path, PathBuf};

use super::ethtool::{self, Range};
use super::knob::VALUE;
use super::{Knob, Setting};
use crate::interface::{Interface, InterfaceError};

/// Socket buffers that hold some milliseconds of 25 Gbit/s, for transfers that go through UDP sockets.
const SOCKET_BUFFER_BYTES: u64 = 16 << 20;
/// Packets that may wait for a core where packets pass from one interface to another (generic XDP, veth).
const BACKLOG_PACKETS: u64 = 10_000;
/// Descriptors of a queue: more only add memory that falls out of the cache.
const RING_MAX: u32 = 4096;
/// Number of the rule that steers the streams' packets: high, so that an administrator's own rules come first.
const FLOW_RULE_LOCATION: u32 = 1000;

/// What the operator asks for beyond what is always right.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// MTU of the interface.
    pub mtu_bytes: Option<u32>,
    /// Cores that the interface's interrupts go to.
    pub interrupt_cores: Option<String>,
    /// Whether a kernel thread fetches packets, rather than interrupts on whichever core.
    pub threaded_napi: bool,
    /// UDP port and receive queue that its packets are steered to.
    pub steer: Option<(u16, u32)>,
}

/// The settings of `interface` and of the machine, read below the root directory `root` (`/`).
///
/// # Errors
/// When there is no such interface.
pub fn survey(root: &Path, interface: &str, wishes: &Wishes) -> Result<Vec<Setting>, InterfaceError> {
    let found = Interface::find(interface)?;
    let mut settings = Vec::new();
    machine(root, &mut settings);
    let directory = root.join("sys/class/net").join(interface);
    let features = ethtool::features(interface);
    for (name, side, range) in [("ring rx", "rx", features.ring_rx), ("ring tx", "tx", features.ring_tx)] {
        if let Some(Range { current, max }) = range {
            settings.push(Setting {
                name: format!("{interface} {name}"),
                current: current.to_string(),
                wanted: Some(current.max(max.min(RING_MAX)).to_string()),
                why: "descriptors absorb the time in which the receiver is elsewhere",
                knob: command("ethtool", &["-G", interface, side, VALUE]),
            });
        }
    }
    for feature in ["large-receive-offload", "rx-gro-hw"] {
        if features.on.iter().any(|on| on == feature) {
            settings.push(Setting {
                name: format!("{interface} {feature}"),
                current: "on".to_owned(),
                wanted: Some("off".to_owned()),
                why: "the card joins packets before XDP sees them; many drivers refuse XDP while it is on",
                knob: command("ethtool", &["-K", interface, feature, VALUE]),
            });
        }
    }
    if let Some((port, queue)) = wishes.steer {
        if features.ntuple == Some(false) {
            settings.push(Setting {
                name: format!("{interface} ntuple-filters"),
                current: "off".to_owned(),
                wanted: Some("on".to_owned()),
                why: "needed to steer packets to a queue",
                knob: command("ethtool", &["-K", interface, "ntuple", VALUE]),
            });
        }
        let knob = Knob::FlowRule { interface: interface.to_owned(), port, queue, location: FLOW_RULE_LOCATION };
        settings.push(Setting {
            name: format!("{interface} flow rule {FLOW_RULE_LOCATION}"),
            current: "none".to_owned(),
            wanted: Some(format!("UDP port {port} to queue {queue}")),
            why: "the streams' packets stay on the queue whose core is free for them",
            knob,
        });
    }
    if wishes.threaded_napi {
        let why = "a kernel thread that can be pinned fetches packets; on veth it can be set only while an XDP program is attached";
        file(&directory.join("threaded"), format!("{interface} threaded NAPI"), |_| "1".to_owned(), why, &mut settings);
    }
    if let Some(cores) = &wishes.interrupt_cores {
        for irq in interrupts(&directory) {
            let path = root.join("proc/irq").join(&irq).join("smp_affinity_list");
            let why = "interrupts of the card on the cores that fetch packets (stop irqbalance, which moves them)";
            file(&path, format!("{interface} interrupt {irq}"), |_| cores.clone(), why, &mut settings);
        }
    }
    settings.push(Setting {
        name: format!("{interface} MTU"),
        current: found.mtu_bytes.to_string(),
        wanted: wishes.mtu_bytes.map(|mtu_bytes| mtu_bytes.to_string()),
        why: "larger packets cost less per byte; sender, switches and receivers must agree (ask for it with --mtu)",
        knob: command("ip", &["link", "set", "dev", interface, "mtu", VALUE]),
    });
    Ok(settings)
}

/// Settings that are not of one interface.
fn machine(root: &Path, settings: &mut Vec<Setting>) {
    let at_least = |least: u64| move |current: &str| current.parse().unwrap_or(0).max(least).to_string();
    let core = root.join("proc/sys/net/core");
    let buffers = "room for UDP sockets, where AF_XDP cannot be had";
    for name in ["rmem_max", "wmem_max"] {
        file(&core.join(name), format!("net.core.{name}"), at_least(SOCKET_BUFFER_BYTES), buffers, settings);
    }
    let backlog = "packets that wait for a core with generic XDP and between virtual interfaces";
    file(&core.join("netdev_max_backlog"), "net.core.netdev_max_backlog".to_owned(), at_least(BACKLOG_PACKETS), backlog, settings);
    let mut governors: Vec<PathBuf> = fs::read_dir(root.join("sys/devices/system/cpu"))
        .map(|entries| entries.flatten().map(|entry| entry.path().join("cpufreq/scaling_governor")).filter(|path| path.exists()).collect())
        .unwrap_or_default();
    governors.sort();
    for path in governors {
        let core = path.components().rev().nth(2).map(|core| core.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
        let why = "cores that slow down between bursts lose the next burst";
        file(&path, format!("{core} scaling governor"), |_| "performance".to_owned(), why, settings);
    }
}

/// A setting that is a file, if it is there.
fn file(path: &Path, name: String, wanted: impl FnOnce(&str) -> String, why: &'static str, settings: &mut Vec<Setting>) {
    if let Ok(current) = fs::read_to_string(path) {
        let current = current.trim().to_owned();
        let wanted = Some(wanted(&current));
        settings.push(Setting { name, current, wanted, why, knob: Knob::File(path.to_owned()) });
    }
}

fn command(program: &str, arguments: &[&str]) -> Knob {
    Knob::Command { program: program.to_owned(), arguments: arguments.iter().map(|&argument| argument.to_owned()).collect() }
}

/// The interface's interrupts, ascending.
fn interrupts(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory.join("device/msi_irqs")).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_enough_stays() {
        let root = tempfile::tempdir().unwrap();
        let core = root.path().join("proc/sys/net/core");
        fs::create_dir_all(&core).unwrap();
        fs::write(core.join("rmem_max"), "212992\n").unwrap();
        fs::write(core.join("wmem_max"), "67108864\n").unwrap();
        let cpu = root.path().join("sys/devices/system/cpu/cpu3/cpufreq");
        fs::create_dir_all(&cpu).unwrap();
        fs::write(cpu.join("scaling_governor"), "powersave\n").unwrap();
        let mut settings = Vec::new();
        machine(root.path(), &mut settings);
        let due: Vec<(&str, &str)> = settings
            .iter()
            .filter(|setting| setting.is_due())
            .map(|setting| (setting.name.as_str(), setting.wanted.as_deref().unwrap_or("")))
            .collect();
        assert_eq!(due, [("net.core.rmem_max", "16777216"), ("cpu3 scaling governor", "performance")]);
        assert_eq!(settings.len(), 3, "what this machine does not have is no setting");
    }
}
