//! Medians and the table, with what is needed to judge and to repeat them.

use super::contestants::Contestant;
use super::{PeersArgs, Turn};
use crate::provenance::{Provenance, median};

/// The result of a comparison.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    bytes: u64,
    mtu_bytes: u32,
    #[serde(flatten)]
    pub(super) provenance: Provenance,
    rate: String,
    rows: Vec<Row>,
}

/// One contestant's turns.
#[derive(Debug, serde::Serialize)]
struct Row {
    contestant: Contestant,
    turns: Vec<Turn>,
    /// Of the image's bits, by the median of the time to delivery and to the disk.
    gigabits_per_second: f64,
    flushed_gigabits_per_second: f64,
}

impl Report {
    pub(crate) fn new(args: &PeersArgs) -> Report {
        Report {
            bytes: args.size << 20,
            mtu_bytes: args.mtu,
            provenance: Provenance::of_this_run(),
            rate: args.rate.clone(),
            rows: Vec::new(),
        }
    }

    /// Adds a turn; returns its rate in Gbit/s.
    pub(crate) fn add(&mut self, contestant: Contestant, turn: Turn) -> f64 {
        let gigabits = self.bytes as f64 * 8.0 / 1e9;
        let at = self.rows.iter().position(|row| row.contestant == contestant).unwrap_or_else(|| {
            self.rows.push(Row { contestant, turns: Vec::new(), gigabits_per_second: 0.0, flushed_gigabits_per_second: 0.0 });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        row.turns.push(turn);
        row.gigabits_per_second = gigabits / median(row.turns.iter().map(|turn| turn.seconds));
        row.flushed_gigabits_per_second = gigabits / median(row.turns.iter().map(|turn| turn.flushed_seconds));
        gigabits / turn.seconds
    }

    /// The table, as results/ keeps it.
    pub(crate) fn markdown(&self) -> String {
        let first = self.rows.first();
        let mut text = format!(
            "One receiver, {} MiB of incompressible data, MTU {}, sender and receiver joined by a veth pair (AF_XDP in copy mode), target a file on the disk, {} turns each, interleaved, medians.\n\n",
            self.bytes >> 20,
            self.mtu_bytes,
            first.map_or(0, |row| row.turns.len()),
        );
        text += "| | delivered, Gbit/s | flushed to the disk, Gbit/s | delivered: first row to this | flushed: first row to this | turns, s | run as |\n";
        text += "| --- | --- | --- | --- | --- | --- | --- |\n";
        for row in &self.rows {
            let ratio = |of: fn(&Row) -> f64| first.map_or(0.0, |first| of(first) / of(row));
            let turns: Vec<String> = row.turns.iter().map(|turn| format!("{:.2}", turn.seconds)).collect();
            text += &format!(
                "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {} |\n",
                row.contestant,
                row.gigabits_per_second,
                row.flushed_gigabits_per_second,
                ratio(|row| row.gigabits_per_second),
                ratio(|row| row.flushed_gigabits_per_second),
                turns.join(", "),
                row.contestant.commands(&self.rate),
            );
        }
        text
    }
}
