//! A measurement that a signal ends leaves nothing behind: no program, no network namespace, no file. Needs root; says so where it has none.

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::lab::Programs;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Nothing here takes longer unless it is broken.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    support::run(&[
        ("a_comparison_that_sigterm_ends_leaves_nothing", || leaves_nothing(&HTTP, Signal::TERM, 143)),
        ("a_comparison_that_ctrl_c_ends_leaves_nothing", || leaves_nothing(&HTTP, Signal::INT, 130)),
        ("a_tracker_that_has_changed_its_user_is_ended_too", || leaves_nothing(&TRACKER, Signal::TERM, 143)),
        ("a_sender_outside_of_namespaces_is_ended_too", || leaves_nothing(&CONTROL, Signal::TERM, 143)),
    ])
}

/// A measurement.
struct Measurement {
    arguments: &'static [&'static str],
    /// Not on every machine.
    needs: &'static str,
    /// The program whose start says that it is under way, by its name in the kernel.
    runs: &'static str,
}

/// Real programs in namespaces, with files of some size.
const HTTP: Measurement = Measurement {
    arguments: &["peers", "--scenario", "narrow", "--contestants", "http", "--size", "64", "--repetitions", "50"],
    needs: "nginx",
    runs: "curl",
};
/// opentracker runs as nobody, which undoes the signal that it would get at the death of who started it.
const TRACKER: Measurement = Measurement {
    arguments: &["peers", "--scenario", "narrow", "--contestants", "aria2", "--size", "64", "--repetitions", "50"],
    needs: "opentracker",
    runs: "opentracker",
};
const CONTROL: Measurement =
    Measurement { arguments: &["control", "--receivers", "10", "--seconds", "60", "--rate", "10"], needs: "sh", runs: "discus-bench" };

fn leaves_nothing(measurement: &Measurement, signal: Signal, code: i32) -> Result<()> {
    let programs = Programs::built()?;
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", measurement.needs]).stdout(Stdio::null()).status()?;
    if !found.success() {
        eprintln!("skipped: {} is not installed (scripts/install-deps --peers)", measurement.needs);
        return Ok(());
    }
    let files = tempfile::tempdir_in("/var/tmp")?;
    let mut command = Command::new(&programs.bench);
    command.args(measurement.arguments).arg("--directory").arg(files.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(files.path().join("stderr"))?);
    // A mark that whatever it starts inherits.
    let mark = files.path().to_string_lossy().into_owned();
    command.env("DISCUS_LEAVINGS_TEST", &mark).process_group(0);
    let mut measuring = Measuring(command.spawn().context("starting the measurement")?);
    let id = measuring.0.id();
    let stderr = || fs::read_to_string(files.path().join("stderr")).unwrap_or_default();
    let deadline = Instant::now() + LIMIT;
    while !marked(&mark).iter().any(|other| *other != id && name_of(*other) == measurement.runs) {
        if let Some(status) = measuring.0.try_wait()? {
            bail!("it ended before the signal, with {status}:\n{}", stderr());
        }
        ensure!(Instant::now() < deadline, "{} was never started:\n{}", measurement.runs, stderr());
        std::thread::sleep(LOOK);
    }
    // To it alone: a terminal's Ctrl-C would reach its whole group, but not those that it has started.
    kill_process(Pid::from_child(&measuring.0), signal)?;
    let status = measuring.end(deadline).with_context(stderr)?;
    ensure!(status.code() == Some(code), "it ended with {status}:\n{}", stderr());
    let left: Vec<String> = marked(&mark).into_iter().map(|id| format!("{id} {}", name_of(id))).collect();
    ensure!(left.is_empty(), "processes are left: {left:?}");
    let prefix = format!("lab-{id}-");
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left: Vec<_> = namespaces.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with(&prefix)).collect();
    ensure!(left.is_empty(), "namespaces are left: {left:?}");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let of_this = |line: &&str| line.contains(&prefix) || line.contains(&mark);
    ensure!(!mounts.lines().any(|line| of_this(&line)), "mounts are left:\n{mounts}");
    let left: Vec<_> = fs::read_dir(files.path())?.flatten().map(|entry| entry.file_name()).filter(|name| name != "stderr").collect();
    ensure!(left.is_empty(), "files are left: {left:?}");
    Ok(())
}

/// The program under test; killed on drop.
struct Measuring(Child);

impl Measuring {
    fn end(&mut self, deadline: Instant) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "it did not end");
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

/// The processes with this mark in their environment (programs that show a title of their own may have overwritten that) or arguments.
fn marked(mark: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let has_mark = |id: &u32| {
        let text = |name: &str| fs::read(Path::new("/proc").join(id.to_string()).join(name)).unwrap_or_default();
        ["environ", "cmdline"].iter().any(|name| String::from_utf8_lossy(&text(name)).contains(mark))
    };
    ids.filter(has_mark).collect()
}

fn name_of(id: u32) -> String {
    fs::read_to_string(Path::new("/proc").join(id.to_string()).join("comm")).unwrap_or_default().trim().to_owned()
}
