//! What the receiver's filter costs per packet, for each kind of packet.

use std::io::{self, Write};

use bpf::measure::{self, BUDGET};
use serde::Serialize;

/// Arguments of `discus-bench filter`.
#[derive(Debug, clap::Args)]
pub struct FilterArgs {
    /// Runs of the filter on each packet, in a row
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeat: u32,

    /// Rows of runs, of which the fastest counts: the others were disturbed
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Table {
    budget_ns: u128,
    /// What the kernel's loop around the filter costs; part of every figure.
    loop_ns: u128,
    packets: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    packet: &'static str,
    verdict: String,
    per_packet_ns: u128,
}

/// Prints the table. Fails when a packet is over the budget or gets a wrong verdict.
///
/// # Errors
/// Without the right to load the filter.
pub fn run(args: &FilterArgs) -> anyhow::Result<()> {
    let loop_ns = measure::loop_floor(args.repeat, args.rounds)?.as_nanos();
    let measured = measure::table(args.repeat, args.rounds)?;
    let wrong = measured.iter().find(|row| row.verdict != Some(row.fixture.verdict));
    let slowest = measured.iter().max_by_key(|row| row.per_packet);
    let table = Table {
        budget_ns: BUDGET.as_nanos(),
        loop_ns,
        packets: measured
            .iter()
            .map(|row| Row { packet: row.fixture.name, verdict: row.fixture.verdict.to_string(), per_packet_ns: row.per_packet.as_nanos() })
            .collect(),
    };
    let mut output = io::stdout().lock();
    if args.json {
        writeln!(output, "{}", serde_json::to_string(&table)?)?;
    } else {
        writeln!(output, "{:<36} {:<20} {:>12}", "packet", "verdict", "ns a packet")?;
        for row in &table.packets {
            writeln!(output, "{:<36} {:<20} {:>12}", row.packet, row.verdict, row.per_packet_ns)?;
        }
        writeln!(output, "\nbudget {} ns; {loop_ns} ns of each figure are the kernel's loop around the filter", table.budget_ns)?;
    }
    if let Some(row) = wrong {
        anyhow::bail!("{:?} got {:?}, owed {}", row.fixture.name, row.verdict, row.fixture.verdict);
    }
    if let Some(row) = slowest.filter(|row| row.per_packet > BUDGET) {
        anyhow::bail!("{:?} takes {:?}, more than the budget of {BUDGET:?}", row.fixture.name, row.per_packet);
    }
    Ok(())
}
