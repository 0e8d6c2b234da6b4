//! What delivery costs, beside the least that any scheme could cost and beside what simpler schemes would: the table of `discus-bench sim figures`.

use super::{Outcome, Receiver, Scenario, Simpler, World, least_overhead, lose, simpler_schemes};
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use std::time::Instant;

const K: u16 = 187;

/// Arguments of `discus-bench sim figures`.
#[derive(Args, Clone, Debug)]
pub struct FiguresArgs {
    /// Seed of the runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Chunks of 187 symbols in the pack.
    #[arg(long, default_value_t = 1_000)]
    chunks: usize,
    /// Leaves out runs with fewer receivers than this.
    #[arg(long, default_value_t = 1)]
    receivers_min: usize,
    /// Leaves out runs with more receivers than this.
    #[arg(long, default_value_t = 10_000)]
    receivers_max: usize,
    /// Prints the rows as JSON, one a line.
    #[arg(long)]
    json: bool,
}

impl FiguresArgs {
    fn admits(&self, receivers: usize) -> bool {
        (self.receivers_min..=self.receivers_max).contains(&receivers)
    }
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    receivers: usize,
    chunks: usize,
    /// Symbols sent over symbols needed.
    sent: f64,
    /// The least that it can be.
    bound: f64,
    /// The most that the project allows, over the bound.
    allowed: f64,
    /// Report entries per receiver and 1,000 chunks, in all and in the second half of the sending.
    entries: f64,
    entries_late: f64,
    #[serde(flatten)]
    simpler: Simpler,
    seconds_simulated: f64,
    seconds_taken: f64,
}

/// A figure that is not an overhead.
#[derive(Debug, Serialize)]
struct Ratio {
    what: String,
    measured: f64,
    allowed: f64,
}

/// Runs all and prints the table.
///
/// # Errors
/// When a run breaks an invariant.
pub(super) fn run(args: &FiguresArgs) -> anyhow::Result<()> {
    if !args.json {
        print_head(args);
    }
    for loss_percent in [0.01, 0.1, 1.0, 5.0] {
        for receivers in [10, 100, 1_000, 10_000] {
            print_row(args, measure(args, receivers, loss_percent / 100.0, 1.0, 1.01)?)?;
        }
    }
    print_row(args, measure(args, 1_000, 0.01, 32.0, 1.03)?)?;
    for ratio in stragglers(args)? {
        print_ratio(args, &ratio)?;
    }
    for ratio in late_joins(args)? {
        print_ratio(args, &ratio)?;
    }
    Ok(())
}

fn simulate(scenario: &Scenario) -> anyhow::Result<(Outcome, f64)> {
    let began = Instant::now();
    let outcome = World::new(scenario).run().map_err(anyhow::Error::msg).context("a run of the figures failed")?;
    Ok((outcome, began.elapsed().as_secs_f64()))
}

fn measure(args: &FiguresArgs, receivers: usize, loss: f64, burst_packets: f64, allowed: f64) -> anyhow::Result<Option<Row>> {
    if !args.admits(receivers) {
        return Ok(None);
    }
    let mut scenario = Scenario::on_lan(args.seed, args.chunks, receivers);
    lose(&mut scenario.receivers, loss, burst_packets);
    let (outcome, seconds_taken) = simulate(&scenario)?;
    let losses = vec![loss; receivers];
    let per_receiver = |entries: u64, symbols: u64| entries as f64 / receivers as f64 * 1_000.0 / (symbols as f64 / f64::from(K)).max(1.0);
    let bursts = if burst_packets > 1.0 { format!(", bursts of {burst_packets}") } else { String::new() };
    Ok(Some(Row {
        what: format!("{} %{bursts}", loss * 100.0),
        receivers,
        chunks: args.chunks,
        sent: outcome.symbols_sent as f64 / outcome.symbols_needed.max(1) as f64,
        bound: least_overhead(K, &losses),
        allowed,
        entries: per_receiver(outcome.report_entries, outcome.symbols_needed),
        entries_late: per_receiver(outcome.report_entries_late, outcome.symbols_needed_late),
        simpler: simpler_schemes(K, args.chunks, &losses, burst_packets),
        seconds_simulated: outcome.end_us as f64 / 1e6,
        seconds_taken,
    }))
}

/// How much longer 95 % of the receivers take when the others lose 5 %.
fn stragglers(args: &FiguresArgs) -> anyhow::Result<Vec<Ratio>> {
    let mut ratios = Vec::new();
    for (receivers, loss) in [(100, 0.0), (100, 0.001), (100, 0.01), (1_000, 0.001)] {
        let count = receivers * 95 / 100;
        if !args.admits(receivers) {
            continue;
        }
        let finish = |with_stragglers: bool| -> anyhow::Result<f64> {
            let mut scenario = Scenario::on_lan(args.seed, args.chunks * 2, receivers);
            lose(&mut scenario.receivers[..count], loss, 1.0);
            lose(&mut scenario.receivers[count..], 0.05, 1.0);
            scenario.receivers.truncate(if with_stragglers { receivers } else { count });
            let (outcome, _) = simulate(&scenario)?;
            Ok(outcome.complete_us[..count].iter().flatten().copied().max().unwrap_or(0) as f64)
        };
        let measured = finish(true)? / finish(false)?;
        let what = format!("time of {count} receivers at {} % beside {} at 5 %, over their time alone", loss * 100.0, receivers - count);
        ratios.push(Ratio { what, measured, allowed: 1.02 });
    }
    Ok(ratios)
}

/// Arrivals spread over twice the transfer time: how long each receiver takes, and how much is sent in all.
fn late_joins(args: &FiguresArgs) -> anyhow::Result<Vec<Ratio>> {
    let receivers = 20;
    if !args.admits(receivers) {
        return Ok(Vec::new());
    }
    let mut scenario = Scenario::on_lan(args.seed, args.chunks * 4, 1);
    // Without the ramp from 1 Gbit/s, so that times can be compared.
    scenario.cap_bits_per_second = 1_000_000_000;
    let (alone, _) = simulate(&scenario)?;
    let alone_us = alone.end_us;
    let arrival_us = |index: usize| 2 * alone_us * index as u64 / receivers as u64;
    scenario.receivers = (0..receivers).map(|index| Receiver { start_us: arrival_us(index), ..Receiver::on_lan(0) }).collect();
    let (outcome, _) = simulate(&scenario)?;
    let took = |(index, complete_us): (usize, &Option<u64>)| (complete_us.unwrap_or(u64::MAX) - arrival_us(index)) as f64 / alone_us as f64;
    let longest = outcome.complete_us.iter().enumerate().map(took).fold(0.0, f64::max);
    // Somebody wants data from the first arrival until one transfer time after the last.
    let union = (arrival_us(receivers - 1) + alone_us) as f64 / alone_us as f64;
    let sent = outcome.symbols_sent as f64 / alone.symbols_sent as f64;
    Ok(vec![
        Ratio { what: format!("late join, {receivers} receivers: longest time over time alone"), measured: longest, allowed: 1.03 },
        Ratio { what: "late join: sent over the union of demand".into(), measured: sent / union, allowed: 1.0 },
    ])
}

fn print_head(args: &FiguresArgs) {
    println!("{} chunks of K = {K} at 5 Gbit/s; symbols sent per symbol needed, seed {}", args.chunks, args.seed);
    println!(
        "{:22} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>10} {:>9} {:>12} {:>8}",
        "loss", "receivers", "sent", "bound", "/ bound", "allowed", "entries", "… late", "sel.repeat", "carousel", "whole chunks", "took"
    );
}

fn print_row(args: &FiguresArgs, row: Option<Row>) -> anyhow::Result<()> {
    let Some(row) = row else { return Ok(()) };
    if args.json {
        println!("{}", serde_json::to_string(&row)?);
        return Ok(());
    }
    let relative = row.sent / row.bound;
    println!(
        "{:22} {:>9} {:>8.4} {:>8.4} {:>8.4} {:>8.2} {:>9.1} {:>9.1} {:>10.3} {:>9.2} {:>12.2} {:>6.1} s{}",
        row.what,
        row.receivers,
        row.sent,
        row.bound,
        relative,
        row.allowed,
        row.entries,
        row.entries_late,
        row.simpler.selective_repeat,
        row.simpler.carousel,
        row.simpler.whole_chunks,
        row.seconds_taken,
        if relative > row.allowed { "  MISSED" } else { "" },
    );
    Ok(())
}

fn print_ratio(args: &FiguresArgs, ratio: &Ratio) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string(ratio)?);
        return Ok(());
    }
    let missed = if ratio.measured > ratio.allowed { "  MISSED" } else { "" };
    println!("{}: {:.4} (allowed {:.2}){missed}", ratio.what, ratio.measured, ratio.allowed);
    Ok(())
}
