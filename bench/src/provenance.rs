//! Who made a figure: the command, the commit and the machine; and what all comparisons share: medians and tables that are appended to results/.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// What has to stand beside a figure so that it can be judged and made again.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Provenance {
    /// How to repeat it.
    pub(crate) command: String,
    pub(crate) commit: String,
    pub(crate) machine: String,
}

impl Provenance {
    /// Of the present program, as it was called.
    pub(crate) fn of_this_run() -> Provenance {
        let cpu = output_of("sh", &["-c", "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1"]);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Provenance {
            command: std::env::args().skip(1).fold("discus-bench".to_owned(), |command, argument| command + " " + &argument),
            commit: output_of("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            machine: format!("{cores} cores, {cpu}, Linux {}", output_of("uname", &["-r"])),
        }
    }
}

/// Appends a table to a file of results/.
pub(crate) fn append_to(path: &Path, table: &str) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("opening {}", path.display()))?;
    writeln!(file, "\n{table}").with_context(|| format!("writing {}", path.display()))
}

/// The median of a set of numbers, 0 for none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// What a command prints, trimmed; empty when it cannot be run.
pub(crate) fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Installs the programs that discus is compared with, unless all of `programs` are there.
pub(crate) fn install_peers(programs: &[&str]) -> Result<()> {
    let is_there = |program: &&str| {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    if programs.iter().all(is_there) {
        return Ok(());
    }
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = bench.parent().unwrap_or(bench).join("scripts/install-deps");
    let status =
        Command::new(&script).arg("--peers").stdin(Stdio::null()).status().with_context(|| format!("running {}", script.display()))?;
    ensure!(status.success(), "{} --peers failed", script.display());
    Ok(())
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
