//! `discus-bench limits`: what this machine, its link and its disk can do at best, so that a transfer can be judged against it; and `limits rx`, `limits tx`:
//! the same for a real link between two hosts, with the highest rate that loses nothing per frame size (RFC 2544, section 26.1).

mod disk;
mod hosts;
pub(crate) mod network;
mod processor;
mod search;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bpf::measure;
use clap::{Args, Subcommand};
use receiver::intake::IntakeMode;
use sender::transmit::Choice;

use crate::lab::{Lab, LabOptions, inside};
use crate::provenance::{Provenance, install_peers};
use crate::report::{Page, ReportArgs};
use network::{Arrived, Link, Load, Sent, Sink, Take};

/// Arguments of `discus-bench limits`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LimitsArgs {
    #[command(subcommand)]
    end: Option<End>,
    /// Seconds of each trial
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "network,filter,processor,disk")]
    only: Vec<Part>,
    /// Directory on the disk that is measured
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// One end of a real link.
#[derive(Subcommand, Clone, Debug)]
enum End {
    /// Receive what `limits tx` on another host sends, and tell it what arrived; until Ctrl-C
    Rx(hosts::RxArgs),
    /// Send to `limits rx` on another host and find the highest rate without loss for each frame size
    Tx(hosts::TxArgs),
}

/// Of the veth pair: one for each thread that transmits side by side.
const QUEUES: u32 = 2;

/// A group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Transmitting and receiving over a veth pair
    Network,
    /// The receiver's filter, per packet
    Filter,
    /// One core's work with the bytes of a transfer
    Processor,
    /// Writing and reading with O_DIRECT
    Disk,
}

#[derive(Debug, serde::Serialize)]
struct Report {
    #[serde(flatten)]
    provenance: Provenance,
    /// What the receiving end was, in words.
    link: String,
    network: Vec<Flow>,
    filter: Vec<Verdict>,
    processor: Vec<processor::Rate>,
    disk: Vec<disk::Rate>,
}

/// One trial over the link.
#[derive(Debug, serde::Serialize)]
struct Flow {
    what: &'static str,
    queues: u32,
    frame_bytes: usize,
    batch: usize,
    sent: Sent,
    arrived: Arrived,
}

#[derive(Debug, serde::Serialize)]
struct Verdict {
    packet: &'static str,
    verdict: String,
    per_packet_ns: u128,
}

/// Measures and prints.
///
/// # Errors
/// Without root, or when a part cannot be measured.
pub fn run(args: &LimitsArgs) -> Result<()> {
    match &args.end {
        Some(End::Rx(rx)) => return hosts::rx(rx),
        Some(End::Tx(tx)) => return hosts::tx(tx),
        None => {}
    }
    ensure!(args.seconds > 0.0 && args.seconds <= 60.0, "a trial takes up to 60 seconds");
    let limit = Duration::from_secs_f64(args.seconds);
    let mut report = Report::new();
    if args.only.contains(&Part::Disk) {
        install_peers(&["fio"])?;
    }
    for part in &args.only {
        match part {
            Part::Network => over_a_veth_pair(limit, &mut report)?,
            Part::Filter => {
                let rows = measure::table(5_000, 50)?;
                report.filter.extend(rows.iter().map(|row| Verdict {
                    packet: row.fixture.name,
                    verdict: row.fixture.verdict.to_string(),
                    per_packet_ns: row.per_packet.as_nanos(),
                }));
            }
            Part::Processor => report.processor = processor::measure(limit / 2)?,
            Part::Disk => report.disk = disk::measure(&args.directory, 1024, args.seconds.ceil() as u64)?,
        }
    }
    let (title, text) = ("What the machine can do at best", report.markdown());
    args.report.publish(&Page { name: "limits", title, figures: &report, provenance: &report.provenance, text: &text, plots: Vec::new() })
}

/// The trials: what is compared, how it is sent, how it is received.
fn trials(limit: Duration) -> Vec<(&'static str, Load, Take)> {
    let load =
        |choice, frame_bytes, batch| Load { choice, queues: 1, frame_bytes, batch, rate: None, duration: limit, wanted_percent: 100 };
    let mut trials = Vec::new();
    for frame_bytes in [128, 512, 1478] {
        for (what, choice) in [
            ("AF_XDP, dropped by the filter", Choice::Auto),
            ("UDP with segmentation offload, dropped by the filter", Choice::Udp),
            ("UDP with sendmmsg, dropped by the filter", Choice::UdpPlain),
        ] {
            trials.push((what, load(choice, frame_bytes, 32), Take::new(IntakeMode::Auto, Sink::Filter)));
        }
    }
    for batch in [8, 128] {
        trials.push(("AF_XDP, dropped by the filter", load(Choice::Auto, 1478, batch), Take::new(IntakeMode::Auto, Sink::Filter)));
    }
    for batch in [1, 128] {
        trials.push((
            "UDP with sendmmsg, dropped by the filter",
            load(Choice::UdpPlain, 1478, batch),
            Take::new(IntakeMode::Auto, Sink::Filter),
        ));
    }
    let on_all = Load { queues: QUEUES, ..load(Choice::Auto, 1478, 32) };
    trials.push(("AF_XDP on two queues, dropped by the filter", on_all, Take::new(IntakeMode::Auto, Sink::Filter)));
    trials.push(("AF_XDP to AF_XDP, fetched", load(Choice::Auto, 1478, 32), Take::new(IntakeMode::Auto, Sink::Ring)));
    trials.push(("AF_XDP to AF_XDP, checked and copied", load(Choice::Auto, 1478, 32), Take::new(IntakeMode::Auto, Sink::Copy)));
    let busy = Take { busy_poll: true, ..Take::new(IntakeMode::Auto, Sink::Copy) };
    trials.push(("AF_XDP to AF_XDP with busy polling, checked and copied", load(Choice::Auto, 1478, 32), busy));
    trials.push(("UDP to AF_XDP, checked and copied", load(Choice::Udp, 1478, 32), Take::new(IntakeMode::Auto, Sink::Copy)));
    trials.push(("UDP to UDP, checked and copied", load(Choice::Udp, 1478, 32), Take::new(IntakeMode::Udp, Sink::Copy)));
    let mostly_unwanted = Load { wanted_percent: 10, ..load(Choice::Auto, 1478, 32) };
    trials.push(("AF_XDP to AF_XDP, 90 % dropped by the filter", mostly_unwanted, Take::new(IntakeMode::Auto, Sink::Copy)));
    trials
}

fn over_a_veth_pair(limit: Duration, report: &mut Report) -> Result<()> {
    if let Some(reason) = crate::lab::unavailable() {
        bail!("{reason}");
    }
    for (what, load, take) in trials(limit) {
        // A UDP socket would take any queue of several.
        let lab = Lab::up(&LabOptions { cable: true, queues: load.queues, ..LabOptions::default() })?;
        let interface = lab.interface.clone();
        let link = Link { transmit_interface: interface.clone(), receive_interface: interface, group: network::default_group() };
        let (sent, arrived, description) =
            network::trial(&lab, &link, load.frame_bytes, take, || inside(&lab.sender.namespace, || network::send(&link, &load)))?;
        eprintln!("{what}, {} bytes: {:.3} Mpps sent", load.frame_bytes, sent.packets as f64 / sent.seconds / 1e6);
        report.link = format!("veth pair (AF_XDP in copy mode), MTU 1500; receiving: {description}");
        report.network.push(Flow { what, queues: load.queues, frame_bytes: load.frame_bytes, batch: load.batch, sent, arrived });
    }
    Ok(())
}

impl Report {
    fn new() -> Report {
        let (network, filter, processor, disk) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Report { provenance: Provenance::of_this_run(), link: String::new(), network, filter, processor, disk }
    }

    fn markdown(&self) -> String {
        let mut text = String::new();
        if !self.network.is_empty() {
            text += &format!("\n{}\n\n", self.link);
            text += "| path | transmit | queues | frame, bytes | batch | sent, Mpps | sent, Gbit/s | arrived | dropped by the filter | fetched | receiver's thread, ns a packet | per packet sent |\n";
            text += "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
        }
        for flow in &self.network {
            let rate = flow.sent.packets as f64 / flow.sent.seconds;
            let share = |packets: u64| format!("{:.1} %", 100.0 * packets as f64 / flow.sent.packets.max(1) as f64);
            let per_fetched = 1e9 * flow.arrived.processor_seconds / flow.arrived.fetched.max(1) as f64;
            let counts = flow.sent.counts.iter().flat_map(|counts| &counts.events);
            let counts: Vec<String> =
                counts.map(|(name, count)| format!("{name} {:.2}", *count as f64 / flow.sent.packets.max(1) as f64)).collect();
            text += &format!(
                "| {} | {} | {} | {} | {} | {:.3} | {:.2} | {} | {} | {} | {} | {} |\n",
                flow.what,
                flow.sent.mode,
                flow.queues,
                flow.frame_bytes,
                flow.batch,
                rate / 1e6,
                rate * flow.frame_bytes as f64 * 8.0 / 1e9,
                share(flow.arrived.seen),
                share(flow.arrived.dropped),
                share(flow.arrived.fetched),
                if flow.arrived.fetched == 0 { "-".to_owned() } else { format!("{per_fetched:.0}") },
                counts.join(", "),
            );
        }
        if !self.filter.is_empty() {
            text += "\n| filter: packet | verdict | ns a packet |\n| --- | --- | --- |\n";
            self.filter.iter().for_each(|row| text += &format!("| {} | {} | {} |\n", row.packet, row.verdict, row.per_packet_ns));
        }
        if !self.processor.is_empty() {
            text += "\n| one core | GB/s |\n| --- | --- |\n";
            self.processor.iter().for_each(|row| text += &format!("| {} | {:.2} |\n", row.what, row.gigabytes_per_second));
        }
        if !self.disk.is_empty() {
            text += "\n| io_uring, O_DIRECT (fio) | block, KiB | depth | GB/s |\n| --- | --- | --- | --- |\n";
            let row = |row: &disk::Rate| {
                format!("| {} | {} | {} | {:.2} |\n", row.direction, row.block_bytes >> 10, row.depth, row.gigabytes_per_second)
            };
            text.extend(self.disk.iter().map(row));
        }
        text
    }
}
