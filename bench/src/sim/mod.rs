//! `discus-bench sim`: the delivery protocol without network, disks and time.
//!
//! The real scheduler of the sender and the real assemblers of the receivers, driven by a queue of events over a modelled network; symbols are
//! counted, not carried. A seed determines a run down to the last packet, so that whatever fails can be looked at again.
//!
//! * `scenario`: what is simulated, given or drawn from a seed.
//! * `world`: the run and the invariants.
//! * `member`, `node`, `path`: a receiver's life, its program, and the way to it.
//! * `wire`: packets on their way; `carried`: the bytes in them, where a run has some.
//! * `bound`: the least that could have been sent.
//! * `random`: the source of all chance.

mod bound;
mod carried;
mod member;
mod node;
mod path;
mod random;
mod scenario;
mod wire;
mod world;

pub use bound::least_overhead;
pub use random::Random;
pub use scenario::{Conduct, Disconnect, Receiver, Scenario};
pub use world::{Outcome, World};

use anyhow::{Context, bail};
use clap::Args;

/// Arguments of `discus-bench sim`.
#[derive(Args, Clone, Debug)]
pub struct SimArgs {
    /// Seed of the run; of several runs, the first one's.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs that many random scenarios, with this seed and the following ones.
    #[arg(long, default_value_t = 1)]
    pub count: u64,
    /// Instead of a random scenario, this many receivers of one image on a LAN.
    #[arg(long)]
    pub receivers: Option<usize>,
    /// With `--receivers`: chunks of 187 symbols in the pack.
    #[arg(long, default_value_t = 200, requires = "receivers")]
    pub chunks: usize,
    /// With `--receivers`: independent loss, in percent.
    #[arg(long, default_value_t = 0.0, requires = "receivers")]
    pub loss_percent: f64,
    /// Prints the scenario before it is run.
    #[arg(long)]
    pub show: bool,
    /// Prints outcomes as JSON, one a line.
    #[arg(long)]
    pub json: bool,
}

/// Runs what `args` ask for and prints the outcomes.
///
/// # Errors
/// The first run that breaks an invariant, with the command that runs it again.
pub fn run(args: &SimArgs) -> anyhow::Result<()> {
    for seed in args.seed..args.seed.saturating_add(args.count.max(1)) {
        let scenario = match args.receivers {
            Some(receivers) => on_lan(seed, args, receivers)?,
            None => Scenario::random(seed),
        };
        if args.show {
            println!("{scenario:#?}");
        }
        let outcome = World::new(&scenario).run().map_err(anyhow::Error::msg).with_context(|| replay(seed, args))?;
        print_outcome(seed, args, &scenario, &outcome)?;
    }
    Ok(())
}

fn on_lan(seed: u64, args: &SimArgs, receivers: usize) -> anyhow::Result<Scenario> {
    if !(0.0..100.0).contains(&args.loss_percent) {
        bail!("--loss-percent must be at least 0 and less than 100");
    }
    let mut scenario = Scenario::on_lan(seed, args.chunks.max(1), receivers.max(1));
    for receiver in &mut scenario.receivers {
        receiver.loss_ppm = (args.loss_percent * 10_000.0) as u32;
    }
    Ok(scenario)
}

/// The command that runs a scenario again.
fn replay(seed: u64, args: &SimArgs) -> String {
    let lan =
        args.receivers.map(|receivers| format!(" --receivers {receivers} --chunks {} --loss-percent {}", args.chunks, args.loss_percent));
    format!("run again with: discus-bench sim --seed {seed}{}", lan.unwrap_or_default())
}

fn print_outcome(seed: u64, args: &SimArgs, scenario: &Scenario, outcome: &Outcome) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::json!({ "seed": seed, "outcome": serde_json::to_value(outcome)? }));
        return Ok(());
    }
    let ratio = outcome.symbols_sent as f64 / outcome.symbols_needed.max(1) as f64;
    print!(
        "seed {seed}: {} receivers, {} chunks: {} symbols sent, {} needed, ratio {ratio:.4}, {} repair, {} syncs, {} reports with {} entries, {:.3} s",
        scenario.receivers.len(),
        scenario.source_symbols.len(),
        outcome.symbols_sent,
        outcome.symbols_needed,
        outcome.repair_symbols_sent,
        outcome.syncs_sent,
        outcome.reports,
        outcome.report_entries,
        outcome.end_us as f64 / 1e6,
    );
    if args.receivers.is_some() {
        let losses: Vec<f64> = scenario.receivers.iter().map(|receiver| f64::from(receiver.loss_ppm) / 1e6).collect();
        print!(", bound {:.4}", least_overhead(187, &losses));
    }
    println!();
    Ok(())
}

#[cfg(test)]
mod tests;
