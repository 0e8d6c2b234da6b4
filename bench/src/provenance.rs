//! Who made a figure: the command, the commit, the machine and the day; and what all comparisons share: medians, programs that are installed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::leavings::{self, Child};

/// What has to stand beside a figure so that it can be judged and made again.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Provenance {
    /// How to repeat it.
    pub(crate) command: String,
    pub(crate) commit: String,
    pub(crate) machine: String,
    /// Day in UTC, as ISO 8601 has it.
    pub(crate) date: String,
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
            date: output_of("date", &["--utc", "+%F"]),
        }
    }

    /// The folder of `results` for this machine and day: processor and cores, such as `2-cores-amd-epyc`, then the date.
    pub(crate) fn folder(&self, results: &Path) -> PathBuf {
        let hardware = self.machine.rsplit_once(", Linux").map_or(self.machine.as_str(), |(hardware, _)| hardware);
        let words = hardware.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let name = words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-");
        results.join(name).join(&self.date)
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Provenance { command, commit, machine, date } = self;
        write!(f, "`{command}`, commit {commit}, {date}\n\n{machine}")
    }
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
    let output = leavings::output(Command::new(program).args(arguments));
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
    let status = Child::start(Command::new(&script).arg("--peers").stdin(Stdio::null()))?.wait()?;
    ensure!(status.success(), "{} --peers failed", script.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_a_folder_for_each_day() {
        let provenance = |machine: &str| Provenance {
            command: String::new(),
            commit: String::new(),
            machine: machine.to_owned(),
            date: "2026-01-02".to_owned(),
        };
        let folder = provenance("8 cores, Intel(R) Xeon(R) E-2288G CPU @ 3.70GHz, Linux 6.6.1").folder(Path::new("results"));
        assert_eq!(folder, Path::new("results/8-cores-intel-r-xeon-r-e-2288g-cpu-3-70ghz/2026-01-02"));
    }

    #[test]
    fn the_median_ignores_outliers_and_the_order() {
        assert_eq!(median([].into_iter()), 0.0);
        assert_eq!(median([3.0, 1.0, 100.0].into_iter()), 3.0);
        assert_eq!(median([4.0, 1.0, 2.0, 100.0].into_iter()), 3.0);
    }
}
