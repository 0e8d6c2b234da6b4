//! The impairment in the kernel: loading, attaching, counting.

use std::fmt;
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, ensure};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle, TC_EGRESS, TcHook, TcHookBuilder};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use serde::Serialize;

use super::link::TcxLink;
use super::skeleton::{ImpairSkelBuilder, types};

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImpairConfig {
    /// First UDP destination port of the multicast packets that can be lost.
    pub first_port: u16,
    /// Number of consecutive ports, at least 1.
    pub port_count: u16,
    /// Every IP packet can be lost, whatever its port and destination, for comparisons with programs that do not multicast.
    pub everything: bool,
    /// Share of packets lost at random and independently, from 0 to 1.
    pub loss: f64,
    /// Packets lost in a row.
    pub burst: Option<Burst>,
    /// Decides which packets are lost at random: the same seed loses the same ones.
    pub seed: u64,
}

/// Packets lost in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// Number of packets lost in a row.
    pub packets: u64,
    /// Number of packets before the first burst.
    pub after_packets: u64,
    /// Number of packets from the start of a burst to the start of the next; without it there is one burst.
    pub every_packets: Option<u64>,
}

/// What has happened to the matching packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets that matched, lost or not.
    pub matched: u64,
    /// Packets lost at random.
    pub lost_at_random: u64,
    /// Packets lost in bursts.
    pub lost_in_bursts: u64,
}

impl Counts {
    /// All lost packets.
    pub fn lost(&self) -> u64 {
        self.lost_at_random + self.lost_in_bursts
    }
}

/// Packets are lost as long as this value lives.
#[derive(Debug)]
pub struct Impairment {
    counts: MapHandle,
    hold: Hold,
    _program: OwnedFd,
}

/// What keeps the program attached.
#[derive(Debug)]
enum Hold {
    Link {
        _link: TcxLink,
    },
    /// Kernels before 6.6: a tc filter, which this process must remove itself.
    Hook(TcHook),
}

impl Impairment {
    /// Begins to lose packets that leave `interface`, a name in the network namespace of the calling thread.
    ///
    /// Packets that an AF_XDP socket sends from this very interface do not come by here; attach to the next
    /// interface on their way (the bridge's side of a veth).
    ///
    /// # Errors
    /// Without the right to load BPF programs, without such an interface, or for a configuration out of range.
    pub fn attach(interface: &str, config: &ImpairConfig) -> anyhow::Result<Self> {
        let constants = constants(config)?;
        let index = interface_index(interface).with_context(|| format!("finding interface {interface:?}"))?;
        let (program, counts) =
            load(constants).context("loading the impairment into the kernel (needs root, or CAP_BPF and CAP_NET_ADMIN)")?;
        let hold = match TcxLink::egress(program.as_fd(), index) {
            Ok(link) => Hold::Link { _link: link },
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Hold::Hook(attach_hook(&program, index)?),
            Err(error) => return Err(error).with_context(|| format!("attaching the impairment to {interface}")),
        };
        Ok(Self { counts, hold, _program: program })
    }

    /// What has happened so far.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn counts(&self) -> anyhow::Result<Counts> {
        let value = self.counts.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)?.context("the impairment has no counts")?;
        let number = |offset_bytes: usize| {
            let bytes = value.get(offset_bytes..).and_then(|rest| rest.first_chunk());
            bytes.map(|bytes| u64::from_ne_bytes(*bytes)).context("the impairment's counts are too short")
        };
        Ok(Counts {
            matched: number(offset_of!(types::impair_counts, matched))?,
            lost_at_random: number(offset_of!(types::impair_counts, lost_at_random))?,
            lost_in_bursts: number(offset_of!(types::impair_counts, lost_in_bursts))?,
        })
    }
}

impl Drop for Impairment {
    fn drop(&mut self) {
        if let Hold::Hook(hook) = &mut self.hold {
            // The clsact qdisc stays: somebody else may use it by now.
            if let Err(error) = hook.detach() {
                eprintln!("the impairment is still attached: {error:#}");
            }
        }
    }
}

/// How the impairment is attached.
impl fmt::Display for Impairment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.hold {
            Hold::Link { .. } => "tcx link",
            Hold::Hook(_) => "tc filter, which stays if this process is killed (kernel before 6.6)",
        })
    }
}

fn constants(config: &ImpairConfig) -> anyhow::Result<types::impair_config> {
    ensure!((0.0..=1.0).contains(&config.loss), "loss must be between 0 and 1, is {}", config.loss);
    ensure!(
        config.port_count > 0 && u32::from(config.first_port) + u32::from(config.port_count) <= 1 << 16,
        "{} ports from {} are not between 0 and 65535",
        config.port_count,
        config.first_port
    );
    if let Some(burst) = config.burst {
        ensure!(
            burst.packets > 0 && burst.every_packets.is_none_or(|every| every >= burst.packets),
            "a burst loses at least one packet and ends before the next begins"
        );
    }
    Ok(types::impair_config {
        seed: config.seed,
        loss_of_2_32: (config.loss * (1_u64 << 32) as f64).round() as u64,
        burst_packets: config.burst.map_or(0, |burst| burst.packets),
        burst_after_packets: config.burst.map_or(0, |burst| burst.after_packets),
        burst_every_packets: config.burst.and_then(|burst| burst.every_packets).unwrap_or(0),
        first_port: config.first_port,
        port_count: config.port_count,
        everything: config.everything.into(),
    })
}

fn load(constants: types::impair_config) -> anyhow::Result<(OwnedFd, MapHandle)> {
    let mut object = MaybeUninit::uninit();
    let mut skeleton = ImpairSkelBuilder::default().open(&mut object)?;
    skeleton.maps.rodata_data.as_deref_mut().context("the program has no constants")?.config = constants;
    let skeleton = skeleton.load()?;
    Ok((skeleton.progs.discus_impair.as_fd().try_clone_to_owned()?, MapHandle::try_from(&skeleton.maps.counts)?))
}

fn attach_hook(program: &OwnedFd, interface: i32) -> anyhow::Result<TcHook> {
    let mut hook = TcHookBuilder::new(program.as_fd()).ifindex(interface).handle(1).priority(1).hook(TC_EGRESS);
    hook.create().context("making a clsact qdisc")?;
    hook.attach().context("attaching the impairment as a tc filter")
}

fn interface_index(interface: &str) -> anyhow::Result<i32> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(i32::try_from(netdevice::name_to_index(any, interface)?)?)
}
