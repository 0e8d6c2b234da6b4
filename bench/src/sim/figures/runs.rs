//! The runs behind the figures.

use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use super::super::{Outcome, Receiver, Scenario, Simpler, World, least_overhead, least_overhead_of_runs, lose, simpler_schemes};
use super::FiguresArgs;

/// K of all chunks.
pub(super) const K: u16 = 187;

/// What one scenario costs.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) loss: f64,
    /// Mean number of packets lost in a row; 1: independent losses.
    pub(super) burst_packets: f64,
    pub(super) receivers: usize,
    pub(super) chunks: usize,
    /// Symbols sent over symbols needed.
    pub(super) sent: f64,
    /// The least that it can be on average, for independent losses.
    pub(super) bound: f64,
    /// The same for losses in runs and 64 interleaved chunks.
    pub(super) bound_interleaved: f64,
    /// The most that the project allows, over the bound.
    pub(super) allowed: f64,
    /// Report entries per receiver and 1,000 chunks, in all and in the second half of the sending.
    pub(super) entries: f64,
    pub(super) entries_late: f64,
    #[serde(flatten)]
    pub(super) simpler: Simpler,
    pub(super) seconds_simulated: f64,
    pub(super) seconds_taken: f64,
}

/// A figure that is not an overhead.
#[derive(Debug, Serialize)]
pub(super) struct Ratio {
    pub(super) what: String,
    pub(super) measured: f64,
    pub(super) allowed: f64,
}

/// When each receiver was complete, ascending, in multiples of the time of the pack on the line.
#[derive(Debug, Serialize)]
pub(super) struct Completion {
    pub(super) receivers: usize,
    pub(super) loss: f64,
    /// The 95 % by themselves; the same beside stragglers; and the stragglers, who lose 5 %.
    pub(super) alone: Vec<f64>,
    pub(super) beside: Vec<f64>,
    pub(super) stragglers: Vec<f64>,
}

/// Of receivers that arrive one after the other: arrival and time taken, in multiples of the time that one takes alone.
#[derive(Debug, Serialize)]
pub(super) struct Arrivals {
    pub(super) points: Vec<(f64, f64)>,
}

fn simulate(scenario: &Scenario) -> anyhow::Result<Outcome> {
    World::new(scenario).run().map_err(anyhow::Error::msg).context("a run of the figures failed")
}

pub(super) fn overhead(args: &FiguresArgs, receivers: usize, loss: f64, burst_packets: f64, allowed: f64) -> anyhow::Result<Row> {
    let began = Instant::now();
    let chunks = args.chunks_for(receivers);
    let mut scenario = Scenario::on_lan(args.seed, chunks, receivers);
    scenario.fix_rate();
    lose(&mut scenario.receivers, loss, burst_packets);
    let outcome = simulate(&scenario)?;
    let per_receiver = |entries: u64, symbols: u64| entries as f64 / receivers as f64 * 1_000.0 / (symbols as f64 / f64::from(K)).max(1.0);
    Ok(Row {
        loss,
        burst_packets,
        receivers,
        chunks,
        sent: outcome.sent_over_needed(),
        bound: least_overhead(K, &vec![loss; receivers]),
        bound_interleaved: least_overhead_of_runs(K, receivers, loss, burst_packets, 64),
        allowed,
        entries: per_receiver(outcome.report_entries, outcome.symbols_needed),
        entries_late: per_receiver(outcome.report_entries_late, outcome.symbols_needed_late),
        simpler: simpler_schemes(&scenario),
        seconds_simulated: outcome.end_us as f64 / 1e6,
        seconds_taken: began.elapsed().as_secs_f64(),
    })
}

/// What the rate control makes of the hardest case, runs of lost packets that have nothing to do with the rate: more may be sent, since groups are smaller at lower
/// rates.
pub(super) fn with_rate_control(args: &FiguresArgs, rows: &[Row]) -> anyhow::Result<Vec<Ratio>> {
    let mut ratios = Vec::new();
    for row in rows.iter().filter(|row| row.burst_packets > 1.0) {
        let mut scenario = Scenario::on_lan(args.seed, row.chunks, row.receivers);
        lose(&mut scenario.receivers, row.loss, row.burst_packets);
        let outcome = simulate(&scenario)?;
        let sent = outcome.sent_over_needed();
        let what =
            format!("{} receivers, bursts of {} packets, with the rate control: sent over the bound", row.receivers, row.burst_packets);
        ratios.push(Ratio { what, measured: sent / row.bound, allowed: row.allowed });
    }
    Ok(ratios)
}

/// How much longer 95 % of the receivers take when the others lose 5 %. The curves are those of 100 receivers at 1 %.
pub(super) fn stragglers(args: &FiguresArgs) -> anyhow::Result<(Vec<Ratio>, Option<Completion>)> {
    let (mut ratios, mut curves) = (Vec::new(), None);
    for (receivers, loss) in [(100, 0.0), (100, 0.001), (1_000, 0.001), (100, 0.01)] {
        let count = receivers * 95 / 100;
        if !args.admits(receivers) {
            continue;
        }
        // Whether the last symbol of all comes with one round of reports or with two is chance, and weighs 2 % in a pack of half that size.
        let mut scenario = Scenario::on_lan(args.seed, args.chunks * 2, receivers);
        scenario.fix_rate();
        lose(&mut scenario.receivers[..count], loss, 1.0);
        lose(&mut scenario.receivers[count..], 0.05, 1.0);
        let together = simulate(&scenario)?.complete_us;
        scenario.receivers.truncate(count);
        let alone = simulate(&scenario)?.complete_us;
        let last = |times: &[Option<u64>]| times.iter().flatten().copied().max().unwrap_or(0) as f64;
        let measured = last(&together[..count]) / last(&alone).max(1.0);
        let what = format!("time of {count} receivers at {} % beside {} at 5 %, over their time alone", loss * 100.0, receivers - count);
        ratios.push(Ratio { what, measured, allowed: 1.02 });
        let sorted = |times: &[Option<u64>]| {
            let mut times: Vec<f64> = times.iter().flatten().map(|&us| us as f64 / scenario.transfer_us() as f64).collect();
            times.sort_by(f64::total_cmp);
            times
        };
        let (beside, stragglers) = (sorted(&together[..count]), sorted(&together[count..]));
        curves = Some(Completion { receivers, loss, alone: sorted(&alone), beside, stragglers });
    }
    Ok((ratios, curves))
}

/// Arrivals spread over twice the transfer time: how long each receiver takes, and how much is sent in all; the curve is that of the larger pack.
pub(super) fn late_joins(args: &FiguresArgs) -> anyhow::Result<(Vec<Ratio>, Option<Arrivals>)> {
    let receivers = 20;
    let (mut ratios, mut curve) = (Vec::new(), None);
    // The end of a round weighs more in small packs.
    for chunks in [(args.chunks / 4).max(1), args.chunks] {
        if !args.admits(receivers) {
            continue;
        }
        let mut scenario = Scenario::on_lan(args.seed, chunks, 1);
        // Without the ramp from 1 Gbit/s, so that times can be compared.
        scenario.cap_bits_per_second = 1_000_000_000;
        let alone_us = simulate(&scenario)?.end_us;
        let arrival_us = |index: usize| 2 * alone_us * index as u64 / receivers as u64;
        scenario.receivers = (0..receivers).map(|index| Receiver { start_us: arrival_us(index), ..Receiver::on_lan(0) }).collect();
        let outcome = simulate(&scenario)?;
        let relative = |us: u64| us as f64 / alone_us as f64;
        let took = |(index, complete_us): (usize, &Option<u64>)| {
            let arrival_us = arrival_us(index);
            Some((relative(arrival_us), relative((*complete_us)?.saturating_sub(arrival_us))))
        };
        let points: Vec<(f64, f64)> = outcome.complete_us.iter().enumerate().filter_map(took).collect();
        let longest = points.iter().map(|point| point.1).fold(0.0, f64::max);
        let union = union_symbols(&outcome.symbols_missed, outcome.symbols_needed);
        let what = format!("late join, {receivers} receivers, {chunks} chunks");
        ratios.extend([
            Ratio { what: format!("{what}: longest time over time alone"), measured: longest, allowed: 1.03 },
            Ratio {
                what: format!("{what}: sent over the union of demand"),
                measured: outcome.symbols_sent as f64 / union as f64,
                allowed: 1.0,
            },
        ]);
        curve = Some(Arrivals { points });
    }
    Ok((ratios, curve))
}

/// What a carousel has to send to receivers of which each needs the `pack_symbols` symbols that follow those that it missed: all that is within that reach of
/// somebody, once. Symbols that nobody was there for are what was sent for nothing, so they do not count.
fn union_symbols(missed: &[u64], pack_symbols: u64) -> u64 {
    let mut missed = missed.to_vec();
    missed.sort_unstable();
    let (mut union, mut reached) = (0, 0);
    for from in missed {
        union += (from + pack_symbols).saturating_sub(reached.max(from));
        reached = from + pack_symbols;
    }
    union
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_counts_what_somebody_needs_once() {
        assert_eq!(union_symbols(&[0], 10), 10);
        assert_eq!(union_symbols(&[4, 0, 4, 7], 10), 17);
        assert_eq!(union_symbols(&[0, 25], 10), 20);
    }
}
