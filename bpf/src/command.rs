//! What `discus-filter` does: attach, report once a second, detach.

mod arguments;
mod ids;
mod report;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bpf::{Error, Filter, OnWanted};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub(crate) use arguments::Arguments;
use report::Report;

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Attaches the filter and reports until a signal or the end of `--duration`; detached when it returns.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = arguments.config()?;
    // Before the filter is attached, so that no signal finds it attached and this program unprepared.
    let stop = stop_signals()?;
    let filter = Filter::load(&config)?;
    let wants = filter.want_set();
    arguments.ids.want(&wants);
    let filter = filter.attach(&arguments.interface, arguments.mode.into())?;

    let deadline = arguments.duration.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let mut report = Report::new(arguments.json, &arguments.interface, filter.mode());
    let outcome = (|| {
        report.attached(&config, &wants)?;
        if config.on_wanted == OnWanted::Redirect && !arguments.json {
            eprintln!("discus-filter: this program opens no AF_XDP socket, so wanted packets will be counted as passed");
        }
        loop {
            let ended = wait(&stop, deadline);
            let counters = filter.counters()?;
            if ended {
                return Ok(report.total(&counters)?);
            }
            report.line(&counters)?;
        }
    })();
    filter.detach()?;
    match outcome {
        // The reader of our output has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        outcome => outcome,
    }
}

/// The exit code that the help promises for an error.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match error.downcast_ref() {
        Some(Error::Config(_)) => 2,
        Some(Error::Permission) => 3,
        Some(Error::Interface { .. }) => 4,
        Some(Error::Busy { .. }) => 5,
        Some(Error::Load { .. } | Error::Attach { .. }) => 6,
        _ => 1,
    })
}

/// A channel that says something when this program shall end.
fn stop_signals() -> anyhow::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("preparing for signals")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for _ in &mut signals {
            // Nobody listens when the program is about to end anyway.
            let _ = sender.send(());
        }
    });
    Ok(receiver)
}

/// Waits for the next line's time; answers whether the program shall end instead.
fn wait(stop: &Receiver<()>, deadline: Option<Instant>) -> bool {
    let left = deadline.map_or(INTERVAL, |deadline| deadline.saturating_duration_since(Instant::now()));
    match stop.recv_timeout(left.min(INTERVAL)) {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
        Err(RecvTimeoutError::Timeout) => left < INTERVAL,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A line to standard output, at once: it may be a pipe.
fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}
