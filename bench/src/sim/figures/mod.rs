//! What delivery costs, beside the least that any scheme could cost and beside what simpler schemes do in the same scenario: tables and plots of
//! `discus-bench sim figures`.

mod plots;
mod runs;
mod tables;

use clap::Args;
use serde::Serialize;

use crate::provenance::Provenance;
use crate::report::{Page, ReportArgs};
use runs::{Arrivals, Completion, Ratio, Row};

/// Arguments of `discus-bench sim figures`.
#[derive(Args, Clone, Debug)]
pub struct FiguresArgs {
    /// Seed of the runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Chunks of 187 symbols in the pack.
    #[arg(long, default_value_t = 1_000)]
    chunks: usize,
    /// … for more than 1,000 receivers, whose runs take longest.
    #[arg(long, default_value_t = 1_000)]
    chunks_many: usize,
    /// Leaves out runs with fewer receivers than this.
    #[arg(long, default_value_t = 1)]
    receivers_min: usize,
    /// Leaves out runs with more receivers than this.
    #[arg(long, default_value_t = 10_000)]
    receivers_max: usize,
    #[command(flatten)]
    report: ReportArgs,
}

impl FiguresArgs {
    fn admits(&self, receivers: usize) -> bool {
        (self.receivers_min..=self.receivers_max).contains(&receivers)
    }

    fn chunks_for(&self, receivers: usize) -> usize {
        if receivers > 1_000 { self.chunks_many } else { self.chunks }.max(1)
    }
}

/// All figures of a call.
#[derive(Debug, Serialize)]
struct Figures {
    #[serde(flatten)]
    provenance: Provenance,
    seed: u64,
    overheads: Vec<Row>,
    ratios: Vec<Ratio>,
    completion: Option<Completion>,
    late_join: Option<Arrivals>,
}

/// Runs all, prints the figures, and writes them where asked to.
///
/// # Errors
/// When a run breaks an invariant, or a file cannot be written.
pub(super) fn run(args: &FiguresArgs) -> anyhow::Result<()> {
    let mut figures = Figures {
        provenance: Provenance::of_this_run(),
        seed: args.seed,
        overheads: Vec::new(),
        ratios: Vec::new(),
        completion: None,
        late_join: None,
    };
    let say = |line: String| {
        if !args.report.json {
            println!("{line}");
        }
    };
    say(tables::overhead_head());
    for (receivers, loss, burst_packets, allowed) in overhead_runs() {
        if args.admits(receivers) {
            let row = runs::overhead(args, receivers, loss, burst_packets, allowed)?;
            say(tables::overhead_row(&row));
            figures.overheads.push(row);
        }
    }
    say(String::new());
    let mut ratios = runs::with_rate_control(args, &figures.overheads)?;
    ratios.iter().for_each(|ratio| say(tables::ratio_line(ratio)));
    let (stragglers, completion) = runs::stragglers(args)?;
    stragglers.iter().for_each(|ratio| say(tables::ratio_line(ratio)));
    ratios.extend(stragglers);
    let (late, arrivals) = runs::late_joins(args)?;
    late.iter().for_each(|ratio| say(tables::ratio_line(ratio)));
    figures.ratios = ratios.into_iter().chain(late).collect();
    (figures.completion, figures.late_join) = (completion, arrivals);
    if args.report.json {
        println!("{}", serde_json::to_string(&figures)?);
    }
    let (title, text) = ("What delivery costs, simulated", tables::page(&figures));
    let plots = plots::all(&figures).into_iter().map(|(name, plot)| (name.to_owned(), plot.svg())).collect();
    args.report.keep(&Page { name: "simulation", title, figures: &figures, provenance: &figures.provenance, text: &text, plots })
}

/// Receivers, loss, mean run of lost packets, and how far above the bound the project lets the cost be.
fn overhead_runs() -> Vec<(usize, f64, f64, f64)> {
    let independent = [0.000_1, 0.001, 0.01, 0.05].into_iter();
    let mut all: Vec<_> = independent.flat_map(|loss| [10, 100, 1_000, 10_000].map(|receivers| (receivers, loss, 1.0, 1.01))).collect();
    all.push((1_000, 0.01, 32.0, 1.03));
    all
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_call_writes_figures_page_and_plots() {
        let directory = tempfile::tempdir().unwrap();
        let args = FiguresArgs {
            seed: 1,
            chunks: 12,
            chunks_many: 1,
            receivers_min: 10,
            receivers_max: 100,
            report: ReportArgs { results: Some(directory.path().to_owned()), json: true },
        };
        run(&args).unwrap();
        let results = Provenance::of_this_run().folder(directory.path());
        let figures: serde_json::Value = serde_json::from_str(&fs::read_to_string(results.join("simulation.json")).unwrap()).unwrap();
        let rows = figures["overheads"].as_array().unwrap();
        assert_eq!(rows.len(), 8);
        for row in rows {
            let of = |name: &str| row[name].as_f64().unwrap();
            assert!(of("sent") <= of("carousel") && of("selective_repeat") <= of("whole_chunks"), "{row}");
        }
        let page = fs::read_to_string(results.join("simulation.md")).unwrap();
        for name in ["overhead-by-receivers", "overhead-by-loss", "above-the-bound", "completion", "late-join"] {
            assert!(page.contains(&format!("{name}.svg")), "{name}");
            assert!(fs::read_to_string(results.join(format!("{name}.svg"))).unwrap().starts_with("<svg "), "{name}");
        }
    }
}
