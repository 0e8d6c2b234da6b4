//! What the operator sees while an image comes in: a bar on a terminal, a plain line every few seconds elsewhere.

use std::collections::VecDeque;
use std::io::{IsTerminal, stderr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use image::restore::ScanProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use receiver::engine::Progress;

/// Between two redraws of the bar.
pub(crate) const REFRESH: Duration = Duration::from_millis(200);
/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// The rate shown is that of this long.
const RATE_WINDOW: Duration = Duration::from_secs(3);

/// Shows progress and remarks on standard error.
pub(crate) struct Display {
    look: Look,
    samples: VecDeque<(Instant, u64)>,
    last_line: Instant,
}

enum Look {
    Quiet,
    Bar(ProgressBar),
    Lines,
}

impl Display {
    /// As standard error can show it.
    pub(crate) fn new(quiet: bool) -> Display {
        let look = if quiet {
            Look::Quiet
        } else if stderr().is_terminal() {
            Look::Bar(bar())
        } else {
            Look::Lines
        };
        Display { look, samples: VecDeque::new(), last_line: Instant::now() }
    }

    /// One remark.
    pub(crate) fn remark(&self, text: &str) {
        match &self.look {
            Look::Quiet => {}
            Look::Bar(bar) => bar.suspend(|| eprintln!("{text}")),
            Look::Lines => eprintln!("{text}"),
        }
    }

    /// Where things stand.
    pub(crate) fn update(&mut self, progress: &Progress) {
        let (now, written) = (Instant::now(), progress.written_bytes.load(Ordering::Relaxed));
        let total = progress.total_bytes.load(Ordering::Relaxed);
        let rate = self.rate(now, written);
        let by_unicast = progress.by_unicast.load(Ordering::Relaxed);
        let message = if progress.has_all_data() {
            "all data is here; writing and flushing".to_owned()
        } else if !progress.has_data() {
            format!("waiting for data{}", if by_unicast { ", by unicast" } else { "" })
        } else {
            let eta = if rate > 0.0 { format!("{:.0} s left", total.saturating_sub(written) as f64 / rate) } else { "stalled".to_owned() };
            let how = if by_unicast { "unicast".to_owned() } else { format!("loss {:.2} %", progress.loss() * 100.0) };
            format!("{:.2} Gbit/s, {eta}, {how}", rate * 8e-9)
        };
        self.show(now, written, total, message);
    }

    fn show(&mut self, now: Instant, done: u64, total: u64, message: String) {
        match &self.look {
            Look::Quiet => {}
            Look::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(message);
            }
            Look::Lines if now - self.last_line >= LINE_INTERVAL => {
                self.last_line = now;
                let percent = (done * 100).checked_div(total).unwrap_or(100);
                eprintln!("{percent:3} % of {} MiB: {message}", total >> 20);
            }
            Look::Lines => {}
        }
    }

    /// How far the scan of the target has come.
    pub(crate) fn scan(&mut self, progress: &ScanProgress) {
        let (now, (done, total)) = (Instant::now(), progress.read());
        let rate = self.rate(now, done);
        let message = format!("reading the target, {:.2} GB/s", rate * 1e-9);
        self.show(now, done, total, message);
    }

    /// What comes now has nothing to do with what came before.
    pub(crate) fn restart(&mut self) {
        self.samples.clear();
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Look::Bar(bar) = &self.look {
            bar.finish_and_clear();
        }
    }

    /// Bytes per second in the last few seconds, `done` bytes having been handled by now.
    fn rate(&mut self, now: Instant, done: u64) -> f64 {
        self.samples.push_back((now, done));
        while self.samples.len() > 2 && self.samples.front().is_some_and(|(at, _)| now - *at > RATE_WINDOW) {
            self.samples.pop_front();
        }
        match (self.samples.front(), self.samples.back()) {
            (Some((first, from)), Some((last, to))) if last > first => to.saturating_sub(*from) as f64 / (*last - *first).as_secs_f64(),
            _ => 0.0,
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{percent:>3} % [{wide_bar}] {bytes}/{total_bytes}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
}
