//! Shows the progress of a job on standard error: a bar on a terminal, else a line per stage and one every ten seconds.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use image::{Progress, Seen, Stage, Step};
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};

const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// How long to look before saying what limits.
const JUDGE_INTERVAL: Duration = Duration::from_secs(1);
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Runs `job` and shows its progress until it returns. With `quiet` nothing is shown.
pub(crate) fn show<T>(quiet: bool, job: impl FnOnce(&Progress) -> T) -> T {
    let progress = Progress::default();
    if quiet {
        return job(&progress);
    }
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        let display = scope.spawn(|| if std::io::stderr().is_terminal() { bar(&progress, &finished) } else { lines(&progress, &finished) });
        let outcome = job(&progress);
        finished.store(true, Ordering::Release);
        display.thread().unpark();
        outcome
    })
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Idle => "starting",
        Stage::Index => "indexing",
        Stage::Store => "storing",
        Stage::Verify => "verifying",
        Stage::Restore => "restoring",
        Stage::Finish => "finishing",
    }
}

/// Which step of packing the others wait for.
fn limit(step: Step) -> &'static str {
    match step {
        Step::Read => "limited by reading",
        Step::Hash => "limited by hashing",
        Step::Fill => "limited by filling chunks",
        Step::Compress => "limited by compressing",
        Step::Write => "limited by writing",
    }
}

fn bar(progress: &Progress, finished: &AtomicBool) {
    let template = "{prefix:>10} [{bar:40}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {msg}";
    // The template is constant; should it be wrong, the default style serves.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    let bar = ProgressBar::new(0).with_style(style);
    let mut shown = Stage::Idle;
    let (mut seen, mut judged) = (Seen::default(), Instant::now());
    while !finished.load(Ordering::Acquire) {
        let (stage, done_bytes, total_bytes) = progress.read();
        if stage != shown {
            shown = stage;
            bar.reset();
            bar.set_prefix(name(stage));
            bar.set_message("");
        }
        if judged.elapsed() >= JUDGE_INTERVAL {
            judged = Instant::now();
            bar.set_message(progress.slowest(&mut seen).map_or("", limit));
        }
        bar.set_length(total_bytes);
        bar.set_position(done_bytes);
        thread::park_timeout(BAR_INTERVAL);
    }
    bar.finish_and_clear();
}

fn lines(progress: &Progress, finished: &AtomicBool) {
    let mut shown = Stage::Idle;
    let mut printed = Instant::now();
    let mut seen = Seen::default();
    while !finished.load(Ordering::Acquire) {
        let (stage, done_bytes, total_bytes) = progress.read();
        if stage != shown || printed.elapsed() >= LINE_INTERVAL {
            shown = stage;
            printed = Instant::now();
            match total_bytes {
                0 => eprintln!("{}", name(stage)),
                _ => {
                    let limit = progress.slowest(&mut seen).map_or(String::new(), |step| format!(", {}", limit(step)));
                    eprintln!("{}: {} of {}{limit}", name(stage), BinaryBytes(done_bytes), BinaryBytes(total_bytes));
                }
            }
        }
        thread::park_timeout(BAR_INTERVAL);
    }
}
