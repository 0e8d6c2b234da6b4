//! Medians and the table, with what is needed to judge and to repeat them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::contestants::Contestant;
use super::{PeersArgs, Turn, output_of};
use crate::lab::Lab;

/// The result of a comparison.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    bytes: u64,
    mtu_bytes: u32,
    /// How to repeat it.
    command: String,
    commit: String,
    machine: String,
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
    pub(crate) fn new(args: &PeersArgs, _lab: &Lab) -> Result<Report> {
        let cpu = output_of("sh", &["-c", "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1"]);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Ok(Report {
            bytes: args.size << 20,
            mtu_bytes: args.mtu,
            command: std::env::args().skip(1).fold("discus-bench".to_owned(), |command, argument| command + " " + &argument),
            commit: output_of("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            machine: format!("{cores} cores, {cpu}, Linux {}", output_of("uname", &["-r"])),
            rate: args.rate.clone(),
            rows: Vec::new(),
        })
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
            "`{}`, commit {}\n\n{}; one receiver, {} MiB of incompressible data, MTU {}, sender and receiver joined by a veth pair (AF_XDP in copy mode), target a file on the disk, {} turns each, interleaved, medians.\n\n",
            self.command,
            self.commit,
            self.machine,
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

    /// Appends the table to a file of results/.
    pub(crate) fn append_to(&self, path: &Path) -> Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("opening {}", path.display()))?;
        writeln!(file, "\n{}", self.markdown()).with_context(|| format!("writing {}", path.display()))
    }
}

/// The median of a set of numbers, 0 for none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_outliers_and_the_order() {
        assert_eq!(median([].into_iter()), 0.0);
        assert_eq!(median([3.0, 1.0, 100.0].into_iter()), 3.0);
        assert_eq!(median([4.0, 1.0, 2.0, 100.0].into_iter()), 3.0);
    }
}
