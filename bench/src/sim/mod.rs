//! `discus-bench sim`: the delivery protocol without network, disks and time.
//!
//! The real scheduler of the sender and the real assemblers of the receivers, driven by a queue of events over a modelled network; symbols are
//! counted, not carried. A seed determines a run down to the last packet, so that whatever fails can be looked at again.
//!
//! * `scenario`: what is simulated, given or drawn from a seed.
//! * `world`: the run and the invariants.
//! * `member`, `node`, `path`: a receiver's life, its program, and the way to it.
//! * `wire`: packets on their way; `carried`: the bytes in them, where a run has some.
//! * `bound`: the least that could have been sent; `simpler`: what simpler schemes send in the same scenario.
//! * `contention`: sessions and TCP flows at one bottleneck.
//! * `figures`: what delivery costs, as tables and plots.
//! * `random`: the source of all chance.

mod bound;
mod carried;
mod contention;
mod figures;
mod member;
mod node;
mod path;
mod random;
mod scenario;
mod simpler;
mod wire;
mod world;

pub use bound::{least_overhead, least_overhead_of_runs};
pub use contention::{Bottleneck, Party, Shares, Window, contend};
pub use figures::FiguresArgs;
pub use random::Random;
pub use scenario::{Conduct, Disconnect, Receiver, Scenario};
pub use simpler::{Simpler, simpler_schemes};
pub use world::{Outcome, World};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

/// Arguments of `discus-bench sim`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SimArgs {
    #[command(subcommand)]
    command: Option<SimCommand>,
    /// What to simulate without a subcommand.
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum SimCommand {
    /// Measure what delivery costs beside the bound and beside simpler schemes
    Figures(FiguresArgs),
}

/// Arguments of a run.
#[derive(Args, Clone, Debug)]
struct RunArgs {
    /// Seed of the run; of several runs, the first one's.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs that many random scenarios, with this seed and the following ones.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Instead of a random scenario, this many receivers of one image on a LAN.
    #[arg(long)]
    receivers: Option<usize>,
    /// With `--receivers`: chunks of 187 symbols in the pack.
    #[arg(long, default_value_t = 200, requires = "receivers")]
    chunks: usize,
    /// With `--receivers`: independent loss, in percent.
    #[arg(long, default_value_t = 0.0, requires = "receivers")]
    loss_percent: f64,
    /// With `--receivers`: mean number of packets that are lost in a row; 1: independent loss.
    #[arg(long, default_value_t = 1.0, requires = "receivers")]
    burst_packets: f64,
    /// With `--receivers`: the rate is the cap, whatever receivers say, so that repair can be looked at by itself.
    #[arg(long, requires = "receivers")]
    fixed_rate: bool,
    /// Symbols carry bytes through the real erasure code, and what is decoded is compared.
    #[arg(long)]
    carry_bytes: bool,
    /// Prints the scenario before it is run.
    #[arg(long)]
    show: bool,
    /// Prints outcomes as JSON, one a line.
    #[arg(long)]
    json: bool,
}

/// Runs what `args` ask for and prints the outcomes.
///
/// # Errors
/// The first run that breaks an invariant, with the command that runs it again.
pub fn run(args: &SimArgs) -> anyhow::Result<()> {
    match &args.command {
        Some(SimCommand::Figures(args)) => figures::run(args),
        None => run_scenarios(&args.run),
    }
}

fn run_scenarios(args: &RunArgs) -> anyhow::Result<()> {
    for seed in args.seed..args.seed.saturating_add(args.count.max(1)) {
        let mut scenario = match args.receivers {
            Some(receivers) => on_lan(seed, args, receivers)?,
            None => Scenario::random(seed),
        };
        scenario.carry_bytes |= args.carry_bytes;
        if args.show {
            println!("{scenario:#?}");
        }
        let outcome = World::new(&scenario).run().map_err(anyhow::Error::msg).with_context(|| replay(seed, args))?;
        print_outcome(seed, args, &scenario, &outcome)?;
    }
    Ok(())
}

fn on_lan(seed: u64, args: &RunArgs, receivers: usize) -> anyhow::Result<Scenario> {
    if !(0.0..100.0).contains(&args.loss_percent) {
        bail!("--loss-percent must be at least 0 and less than 100");
    }
    let mut scenario = Scenario::on_lan(seed, args.chunks.max(1), receivers.max(1));
    lose(&mut scenario.receivers, args.loss_percent / 100.0, args.burst_packets);
    if args.fixed_rate {
        scenario.fix_rate();
    }
    Ok(scenario)
}

/// Lets receivers lose packets: `burst_packets` in a row on average.
fn lose(receivers: &mut [Receiver], loss: f64, burst_packets: f64) {
    for receiver in receivers {
        if burst_packets > 1.0 {
            *receiver = receiver.clone().with_bursts(loss, burst_packets);
        } else {
            receiver.loss_ppm = (loss * 1e6).round() as u32;
        }
    }
}

/// The command that runs a scenario again.
fn replay(seed: u64, args: &RunArgs) -> String {
    let lan = args.receivers.map(|receivers| {
        let (chunks, loss_percent, burst_packets) = (args.chunks, args.loss_percent, args.burst_packets);
        let fixed = if args.fixed_rate { " --fixed-rate" } else { "" };
        format!(" --receivers {receivers} --chunks {chunks} --loss-percent {loss_percent} --burst-packets {burst_packets}{fixed}")
    });
    let bytes = if args.carry_bytes { " --carry-bytes" } else { "" };
    format!("run again with: discus-bench sim --seed {seed}{}{bytes}", lan.unwrap_or_default())
}

fn print_outcome(seed: u64, args: &RunArgs, scenario: &Scenario, outcome: &Outcome) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::json!({ "seed": seed, "outcome": serde_json::to_value(outcome)? }));
        return Ok(());
    }
    let ratio = outcome.sent_over_needed();
    print!(
        "seed {seed}: {} receivers, {} chunks: {} symbols sent and {} fetched, {} needed, ratio {ratio:.4}, {} repair, {} syncs, {} reports with {} entries, {:.3} s",
        scenario.receivers.len(),
        scenario.source_symbols.len(),
        outcome.symbols_sent,
        outcome.symbols_by_unicast,
        outcome.symbols_needed,
        outcome.repair_symbols_sent,
        outcome.syncs_sent,
        outcome.reports,
        outcome.report_entries,
        outcome.end_us as f64 / 1e6,
    );
    if args.receivers.is_some() {
        print!(", bound {:.4}", least_overhead(187, &vec![args.loss_percent / 100.0; scenario.receivers.len()]));
    }
    println!();
    Ok(())
}

#[cfg(test)]
mod tests;
