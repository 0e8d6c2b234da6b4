//! What `discus-filter` prints: lines for people or objects for programs.

use std::io;
use std::time::{Duration, Instant};

use bpf::{AttachedMode, Counters, FilterConfig, WantSet};
use serde::Serialize;

use super::say;

/// Lines between two headings.
const HEADING_EVERY: u32 = 20;

/// Prints what happens to the packets.
pub(crate) struct Report<'a> {
    json: bool,
    interface: &'a str,
    mode: &'a AttachedMode,
    started: Instant,
    last: (Instant, Counters),
    lines: u32,
}

/// One line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Attached { interface: &'a str, mode: String, first_port: u16, last_port: u16, ids_wanted: u32, id_count: u32 },
    Interval { elapsed_s: f64, interval_s: f64, packets: Counters, total: Counters },
    Total { elapsed_s: f64, total: Counters },
}

impl<'a> Report<'a> {
    /// For a filter that has just been attached.
    pub(crate) fn new(json: bool, interface: &'a str, mode: &'a AttachedMode) -> Self {
        let now = Instant::now();
        Self { json, interface, mode, started: now, last: (now, Counters::default()), lines: 0 }
    }

    /// The first line.
    pub(crate) fn attached(&self, config: &FilterConfig, wants: &WantSet) -> io::Result<()> {
        // Checked by the filter: the range ends at 65535 at most.
        let last_port = config.first_port + (config.port_count - 1);
        if self.json {
            return say_json(&Event::Attached {
                interface: self.interface,
                mode: self.mode.to_string(),
                first_port: config.first_port,
                last_port,
                ids_wanted: wants.count(),
                id_count: wants.len(),
            });
        }
        say(&format!(
            "attached to {} in {}; ports {}-{last_port}, {} of {} ids wanted; Ctrl-C detaches",
            self.interface,
            self.mode,
            config.first_port,
            wants.count(),
            wants.len()
        ))
    }

    /// What happened since the last line.
    pub(crate) fn line(&mut self, total: &Counters) -> io::Result<()> {
        let now = Instant::now();
        let (before, counted) = self.last;
        let packets = *total - counted;
        let interval = now - before;
        self.last = (now, *total);
        if self.json {
            return say_json(&Event::Interval { elapsed_s: self.elapsed(now), interval_s: interval.as_secs_f64(), packets, total: *total });
        }
        if self.lines.is_multiple_of(HEADING_EVERY) {
            say(&heading("packets/s"))?;
        }
        self.lines = self.lines.wrapping_add(1);
        say(&row(&format!("{:.0} s", self.elapsed(now)), &packets, interval))
    }

    /// The last line.
    pub(crate) fn total(&self, total: &Counters) -> io::Result<()> {
        let elapsed_s = self.elapsed(Instant::now());
        if self.json {
            return say_json(&Event::Total { elapsed_s, total: *total });
        }
        say(&heading("packets"))?;
        say(&row(&format!("{elapsed_s:.1} s"), total, Duration::from_secs(1)))
    }

    fn elapsed(&self, now: Instant) -> f64 {
        (now - self.started).as_secs_f64()
    }
}

fn heading(first: &str) -> String {
    format!("{first:>10} {:>12} {:>12} {:>12} {:>12} {:>14} {:>10}", "seen", "wanted", "unwanted", "foreign", "other session", "bad")
}

fn row(first: &str, counters: &Counters, interval: Duration) -> String {
    let rate = |packets: u64| packets as f64 / interval.as_secs_f64();
    format!(
        "{first:>10} {:>12.0} {:>12.0} {:>12.0} {:>12.0} {:>14.0} {:>10.0}",
        rate(counters.seen()),
        rate(counters.accepted()),
        rate(counters.unwanted),
        rate(counters.foreign),
        rate(counters.other_session),
        rate(counters.malformed + counters.id_out_of_range),
    )
}

fn say_json(event: &Event<'_>) -> io::Result<()> {
    say(&serde_json::to_string(event)?)
}
