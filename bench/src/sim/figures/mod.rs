//! What delivery costs, beside the least that any scheme could cost and beside what simpler schemes do in the same scenario: tables and plots of
//! `discus-bench sim figures`.

mod plots;
mod runs;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::provenance::Provenance;
use runs::{Arrivals, Completion, Ratio, Row};

/// Arguments of `discus-bench sim figures`.
#[derive(Args, Clone, Debug)]
pub struct FiguresArgs {
    /// Seed of the runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Chunks of 187 symbols in the pack.
    #[arg(long, default_value_t = 500)]
    chunks: usize,
    /// … for more than 1,000 receivers, whose runs take longest.
    #[arg(long, default_value_t = 200)]
    chunks_many: usize,
    /// Leaves out runs with fewer receivers than this.
    #[arg(long, default_value_t = 1)]
    receivers_min: usize,
    /// Leaves out runs with more receivers than this.
    #[arg(long, default_value_t = 10_000)]
    receivers_max: usize,
    /// Writes figures.json, figures.md and the plots into this directory, for results/.
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Prints all figures as one JSON object at the end, instead of lines as they come.
    #[arg(long)]
    json: bool,
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
        if !args.json {
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
    let (ratios, completion) = runs::stragglers(args)?;
    ratios.iter().for_each(|ratio| say(tables::ratio_line(ratio)));
    let (late, arrivals) = runs::late_joins(args)?;
    late.iter().for_each(|ratio| say(tables::ratio_line(ratio)));
    figures.ratios = ratios.into_iter().chain(late).collect();
    (figures.completion, figures.late_join) = (completion, arrivals);
    if args.json {
        println!("{}", serde_json::to_string(&figures)?);
    }
    match &args.results {
        Some(directory) => write(directory, &figures),
        None => Ok(()),
    }
}

/// Receivers, loss, mean run of lost packets, and how far above the bound the project lets the cost be.
fn overhead_runs() -> Vec<(usize, f64, f64, f64)> {
    let independent = [0.000_1, 0.001, 0.01, 0.05].into_iter();
    let mut all: Vec<_> = independent.flat_map(|loss| [10, 100, 1_000, 10_000].map(|receivers| (receivers, loss, 1.0, 1.01))).collect();
    all.push((1_000, 0.01, 32.0, 1.03));
    all
}

fn write(directory: &Path, figures: &Figures) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let plots = plots::all(figures);
    let names: Vec<&str> = plots.iter().map(|(name, _)| *name).collect();
    let mut files = vec![
        ("figures.json".to_owned(), serde_json::to_string_pretty(figures)? + "\n"),
        ("figures.md".to_owned(), tables::page(figures, &names)),
    ];
    files.extend(plots.iter().map(|(name, plot)| (format!("{name}.svg"), plot.svg())));
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_writes_figures_page_and_plots() {
        let directory = tempfile::tempdir().unwrap();
        let results = directory.path().join("simulation");
        let args = FiguresArgs {
            seed: 1,
            chunks: 12,
            chunks_many: 1,
            receivers_min: 10,
            receivers_max: 100,
            results: Some(results.clone()),
            json: true,
        };
        run(&args).unwrap();
        let figures: serde_json::Value = serde_json::from_str(&fs::read_to_string(results.join("figures.json")).unwrap()).unwrap();
        let rows = figures["overheads"].as_array().unwrap();
        assert_eq!(rows.len(), 8);
        for row in rows {
            let of = |name: &str| row[name].as_f64().unwrap();
            assert!(of("sent") <= of("carousel") && of("selective_repeat") <= of("whole_chunks"), "{row}");
        }
        let page = fs::read_to_string(results.join("figures.md")).unwrap();
        for name in ["overhead-by-receivers", "overhead-by-loss", "above-the-bound", "completion", "late-join"] {
            assert!(page.contains(&format!("{name}.svg")), "{name}");
            assert!(fs::read_to_string(results.join(format!("{name}.svg"))).unwrap().starts_with("<svg "), "{name}");
        }
    }
}
