//! `discus-bench swarm`: the real programs in a real (if virtual) network, beside what the simulator predicts for the same delivery.
//!
//! Receivers of four images that have 70 % in common, each in a network namespace of its own behind one bridge, join one after the other during the
//! transfer; every second one loses packets. Their targets are compared byte by byte, and the symbols sent with those of the prediction.

mod prediction;
mod run;

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::lab::{Programs, unavailable};
use crate::provenance::Provenance;
use crate::report::{Page, ReportArgs};
use crate::scratch::Scratch;
use run::Delivery;

/// By how much the prediction may be wrong.
const TOLERANCE: f64 = 0.10;

/// Arguments of `discus-bench swarm`.
#[derive(Args, Clone, Debug)]
pub struct SwarmArgs {
    /// Receivers
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    receivers: u32,
    /// Size of each of the four images in MiB; 1.9 times as much is stored
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: u32,
    /// Rate of the sender in Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    rate: u32,
    /// Loss at every second receiver, in percent
    #[arg(long, default_value_t = 1.0)]
    loss_percent: f64,
    /// The last receiver joins this many transfer times after the first
    #[arg(long, default_value_t = 1.0)]
    spread: f64,
    /// Directory on a disk for images, pack and targets
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// What is printed.
#[derive(Debug, serde::Serialize)]
struct Figures {
    #[serde(flatten)]
    provenance: Provenance,
    receivers: u32,
    rate_mbit: u32,
    loss_percent: f64,
    /// Seconds after the first, on the list.
    joined_seconds: Vec<f64>,
    /// From there to the end of the program.
    took_seconds: Vec<f64>,
    predicted_seconds: Vec<f64>,
    symbols_needed: u64,
    symbols_sent: u64,
    predicted_sent: u64,
    /// Left to unicast in the end.
    symbols_by_unicast: u64,
    predicted_by_unicast: u64,
    /// Sent over needed.
    overhead: f64,
    /// At the rate that was kept.
    predicted_overhead: f64,
    /// … and if the sender had kept to its cap.
    predicted_overhead_at_cap: f64,
    /// Mean rate of what was sent: programs, disks and bridge share the cores, and the sender gives way to receivers that fall behind.
    kept_mbit: f64,
    /// Packets that receivers without impairment did not see, of all that passed them, at the worst of them.
    unasked_loss: f64,
    transmit: String,
}

/// Runs the delivery and its prediction, and prints both.
///
/// # Errors
/// When a program fails, a target differs, or the prediction is more than a tenth off.
pub fn run(args: &SwarmArgs) -> Result<()> {
    if let Some(reason) = unavailable() {
        bail!("{reason}");
    }
    ensure!((0.0..50.0).contains(&args.loss_percent), "--loss-percent must be at least 0 and less than 50");
    ensure!((0.0..10.0).contains(&args.spread), "--spread must be at least 0 and less than 10");
    let programs = Programs::built()?;
    let scratch = Scratch::new(&args.directory)?;
    let delivery = run::deliver(args, &programs, &scratch.path)?;
    let cap_bits_per_second = u64::from(args.rate) * 1_000_000;
    let kept_bits_per_second = (delivery.bits_per_second as u64).min(cap_bits_per_second);
    let at_cap = prediction::predict(args, &delivery, cap_bits_per_second)?;
    // Arrivals are moments of the clock on the wall: how many chunks a latecomer has missed depends on how fast they really went out.
    let predicted = prediction::predict(args, &delivery, kept_bits_per_second)?;
    let figures = figures(args, &delivery, &at_cap, &predicted);
    let (title, text) = ("Many receivers behind one bridge, beside the prediction", figures.table());
    let provenance = &figures.provenance;
    args.report.publish(&Page { name: "swarm", title, figures: &figures, provenance, text: &text, plots: Vec::new() })?;
    let relative = figures.overhead / figures.predicted_overhead;
    ensure!((relative - 1.0).abs() <= TOLERANCE, "sent {relative:.3} times what the simulator predicts");
    Ok(())
}

fn figures(args: &SwarmArgs, delivery: &Delivery, at_cap: &prediction::Prediction, predicted: &prediction::Prediction) -> Figures {
    let unimpaired = delivery.machines.iter().filter(|machine| !machine.is_lossy);
    Figures {
        provenance: Provenance::of_this_run(),
        receivers: args.receivers,
        rate_mbit: args.rate,
        loss_percent: args.loss_percent,
        joined_seconds: delivery.machines.iter().map(|machine| machine.joined.as_secs_f64()).collect(),
        took_seconds: delivery.machines.iter().map(|machine| machine.took.as_secs_f64()).collect(),
        predicted_seconds: predicted.took_seconds.clone(),
        symbols_needed: delivery.symbols_needed,
        symbols_sent: delivery.symbols_sent,
        predicted_sent: predicted.symbols_sent,
        symbols_by_unicast: delivery.symbols_by_unicast,
        predicted_by_unicast: predicted.symbols_by_unicast,
        overhead: delivery.symbols_sent as f64 / delivery.symbols_needed.max(1) as f64,
        predicted_overhead: predicted.symbols_sent as f64 / predicted.symbols_needed.max(1) as f64,
        predicted_overhead_at_cap: at_cap.symbols_sent as f64 / at_cap.symbols_needed.max(1) as f64,
        kept_mbit: delivery.bits_per_second / 1e6,
        unasked_loss: unimpaired.map(|machine| machine.stream_loss).fold(0.0, f64::max),
        transmit: delivery.transmit.clone(),
    }
}

impl Figures {
    fn table(&self) -> String {
        let mut text = format!(
            "Sender, bridge and receivers on these cores; {}, MTU 1500\n\n\
             | {} receivers of 4 images at {} Mbit/s, {} % loss at every second one | measured | predicted at the rate that was kept |\n| --- | --- | --- |\n",
            self.transmit, self.receivers, self.rate_mbit, self.loss_percent
        );
        let mut row = |what: &str, measured: String, predicted: String| text.push_str(&format!("| {what} | {measured} | {predicted} |\n"));
        let longest = |seconds: &[f64]| format!("{:.2} s", seconds.iter().copied().fold(0.0, f64::max));
        row("targets equal to their images", format!("{} of {0}", self.receivers), String::new());
        row("symbols needed: each chunk once", self.symbols_needed.to_string(), String::new());
        row("symbols sent", self.symbols_sent.to_string(), self.predicted_sent.to_string());
        row("symbols left to unicast", self.symbols_by_unicast.to_string(), self.predicted_by_unicast.to_string());
        row("sent over needed", format!("{:.4}", self.overhead), format!("{:.4}", self.predicted_overhead));
        row("mean rate that was kept, Mbit/s", format!("{:.0}", self.kept_mbit), String::new());
        row("sent over needed, had the cap been kept", String::new(), format!("{:.4}", self.predicted_overhead_at_cap));
        row("measured over predicted", format!("{:.4}", self.overhead / self.predicted_overhead), String::new());
        row("last receiver joins after", longest(&self.joined_seconds), String::new());
        row("longest time from joining to the end", longest(&self.took_seconds), longest(&self.predicted_seconds));
        row("loss that nobody made, at the worst receiver", format!("{:.4} %", self.unasked_loss * 100.0), String::new());
        text
    }
}
