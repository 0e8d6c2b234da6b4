//! What `discus serve` shows: lines at start, progress, and the summary at the end, as a table or as JSON.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use sender::control::{ManifestCounts, ReceiverState, ReceiverStatus, Settings, TransmitStatus};
use sender::engine::{Progress, Sent, Tally};
use serde_json::json;
use wire::session::SessionParameters;

use super::rate::display_rate;
use super::signals::Signal;
use super::table::table;

/// Between two progress lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

pub(super) const MIB: usize = 1024 * 1024;

/// How a run ended.
pub(super) enum Outcome {
    /// `--once`: nobody is left to wait for.
    Served(Tally),
    /// The operator stopped it.
    Stopped(Signal),
    /// It broke.
    Failed(anyhow::Error),
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self {
            Outcome::Served(tally) if tally.failed + tally.lost == 0 => "complete",
            Outcome::Served(_) => "incomplete",
            Outcome::Stopped(_) => "stopped",
            Outcome::Failed(_) => "failed",
        }
    }
}

/// All that the summary says.
pub(super) struct Report<'a> {
    pub(super) pack: &'a Path,
    pub(super) stored_bytes: u64,
    pub(super) parameters: SessionParameters,
    pub(super) mtu_bytes: usize,
    /// As it was at the start.
    pub(super) transmit: &'a TransmitStatus,
    /// In the order of its transmitters.
    pub(super) sent_by_transmitter: Vec<Sent>,
    /// As they were at the end.
    pub(super) settings: &'a Settings,
    pub(super) progress: Progress,
    pub(super) sent: Sent,
    pub(super) manifests: ManifestCounts,
    pub(super) receivers: Vec<ReceiverStatus>,
    pub(super) outcome: &'a Outcome,
}

impl Report<'_> {
    fn json(&self) -> serde_json::Value {
        let totals = &self.progress.totals;
        let tally = &self.progress.tally;
        let error = match self.outcome {
            Outcome::Failed(error) => Some(super::exit::explain(error)),
            _ => None,
        };
        json!({
            "outcome": self.outcome.name(),
            "error": error,
            "pack": self.pack.display().to_string(),
            "pack_stored_bytes": self.stored_bytes,
            "session": format!("{:08x}", self.parameters.session.0),
            "symbol_bytes": self.parameters.symbol_bytes,
            "mtu_bytes": self.mtu_bytes,
            "transmit": self.transmit.mode,
            "transmitters": self.transmitters(),
            "rate_cap_bits_per_second": self.settings.rate_cap_bits_per_second,
            "priorities": self.settings.priorities,
            "seconds": self.progress.sending.as_secs_f64(),
            "receivers_completed": tally.completed,
            "receivers_failed": tally.failed,
            "receivers_lost": tally.lost,
            "receivers_listed": tally.listed,
            "receivers": self.receivers,
            "symbols_needed": totals.symbols_needed,
            "symbols_sent": totals.symbols_sent,
            "times_sent": times_sent(totals.symbols_sent, totals.symbols_needed),
            "repair_symbols_sent": totals.repair_symbols_sent,
            "symbols_by_unicast": totals.symbols_by_unicast,
            "syncs_sent": totals.syncs_sent,
            "manifests": self.manifests,
            "groups_sent": totals.groups_sent,
            // Of symbols alone, to compare with `pack_stored_bytes`; whole frames are in `bytes_on_wire`.
            "symbol_bytes_sent": totals.symbols_sent * u64::from(self.parameters.symbol_bytes),
            "packets_sent": self.sent.packets,
            "bytes_on_wire": self.sent.frame_bytes,
        })
    }

    /// What each transmitter is and has sent.
    fn transmitters(&self) -> serde_json::Value {
        let each = self.transmit.transmitters.iter().zip(&self.sent_by_transmitter);
        each.map(|(way, sent)| json!({ "queue": way.queue, "mode": way.mode, "packets_sent": sent.packets })).collect()
    }

    fn table(&self) -> String {
        let mut rows = vec![["receiver", "image", "state", "chunks", "seconds", "loss"].map(str::to_owned)];
        for receiver in &self.receivers {
            let state = match (receiver.state, &receiver.reason) {
                (state, Some(reason)) => format!("{}: {reason}", state_name(state)),
                (state, None) => state_name(state).to_owned(),
            };
            let state = if receiver.unicast { format!("{state} (unicast)") } else { state };
            let done = receiver.chunks_wanted.saturating_sub(receiver.chunks_remaining);
            rows.push([
                receiver.name.clone(),
                receiver.image.clone(),
                state,
                format!("{done}/{}", receiver.chunks_wanted),
                receiver.duration_ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.1}", ms as f64 / 1000.0)),
                format!("{:.2} %", receiver.loss * 100.0),
            ]);
        }
        let totals = &self.progress.totals;
        let by_unicast = match totals.symbols_by_unicast {
            0 => String::new(),
            symbols => format!("; {symbols} symbols were left to unicast"),
        };
        let seconds = self.progress.sending.as_secs_f64();
        let rate = if seconds > 0.0 { self.sent.frame_bytes as f64 * 8.0 / seconds } else { 0.0 };
        format!(
            "{}sent {} symbols of chunks that have {} ({}), of them {} repair symbols, and {} syncs{by_unicast}\n\
             {} on the wire in {seconds:.1} s, {}",
            table(&rows),
            totals.symbols_sent,
            totals.symbols_needed,
            times_sent_text(totals.symbols_sent, totals.symbols_needed),
            totals.repair_symbols_sent,
            totals.syncs_sent,
            BinaryBytes(self.sent.frame_bytes),
            display_rate(rate),
        )
    }
}

/// Where lines go.
pub(super) struct Display {
    json: bool,
    bar: Option<ProgressBar>,
    shown: Option<Shown>,
}

/// The progress that was last shown.
struct Shown {
    at: Duration,
    frame_bytes: u64,
    tally: Tally,
}

impl Display {
    pub(super) fn new(json: bool) -> Display {
        let bar = std::io::stderr().is_terminal().then(|| {
            // The template is constant; should it be wrong, the default style serves.
            let style = ProgressStyle::with_template("{spinner} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        Display { json, bar, shown: None }
    }

    /// A line for people, on standard error: standard output is for the result.
    pub(super) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Called every tick; shows what changed: at once on a terminal, else every few seconds and whenever a receiver comes or goes.
    pub(super) fn progress(&mut self, at: Duration, progress: &Progress, sent: Sent, stalled: bool) {
        let Some(shown) = &self.shown else {
            self.shown = Some(Shown { at, frame_bytes: sent.frame_bytes, tally: progress.tally });
            return;
        };
        let elapsed = at.saturating_sub(shown.at);
        let busy = sent.frame_bytes != shown.frame_bytes;
        let due = match &self.bar {
            Some(_) => elapsed >= Duration::from_millis(500),
            None => progress.tally != shown.tally || (busy && elapsed >= LINE_INTERVAL),
        };
        if let Some(bar) = &self.bar {
            bar.tick();
        }
        if !due {
            return;
        }
        let rate = (sent.frame_bytes - shown.frame_bytes) as f64 * 8.0 / elapsed.as_secs_f64().max(0.001);
        let text = progress_text(at, progress, sent, rate, stalled);
        self.shown = Some(Shown { at, frame_bytes: sent.frame_bytes, tally: progress.tally });
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => self.line(&text),
        }
    }

    /// The summary.
    pub(super) fn end(&mut self, report: &Report<'_>) -> anyhow::Result<()> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if self.json {
            self.line(&report.table());
            println!("{}", serde_json::to_string(&report.json())?);
        } else {
            println!("{}", report.table());
        }
        Ok(())
    }
}

/// What the engine took of memory, and why where that is not what it was told.
pub(super) fn memory_text(asked_bytes: usize, taken_bytes: usize, streams: u8) -> String {
    let taken = taken_bytes.div_ceil(MIB);
    match taken_bytes > asked_bytes {
        true => format!("{taken} MiB for chunks, as --streams {streams} needs that much (--memory {})", asked_bytes / MIB),
        false => format!("{taken} MiB for chunks"),
    }
}

fn progress_text(at: Duration, progress: &Progress, sent: Sent, rate: f64, stalled: bool) -> String {
    let Tally { listed, completed, failed, lost } = progress.tally;
    let mut text = format!("{:7.1} s  {listed} listed, {completed} complete", at.as_secs_f64());
    for (count, what) in [(failed, "failed"), (lost, "lost")] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text.push_str(&format!("; {} sent, {}", BinaryBytes(sent.frame_bytes), display_rate(rate)));
    let totals = &progress.totals;
    if totals.symbols_needed > 0 {
        text.push_str(&format!(", {}", times_sent_text(totals.symbols_sent, totals.symbols_needed)));
    }
    if stalled {
        text.push_str(", THE LINK TAKES NO PACKETS");
    }
    text
}

/// How often the chunks that were sent were sent, on average. Repair makes it more than 1, and so do receivers that come one after another.
fn times_sent(symbols_sent: u64, symbols_needed: u64) -> f64 {
    if symbols_needed == 0 { 0.0 } else { symbols_sent as f64 / symbols_needed as f64 }
}

/// The same in words.
pub(super) fn times_sent_text(symbols_sent: u64, symbols_needed: u64) -> String {
    if symbols_needed == 0 {
        return "none sent".to_owned();
    }
    format!("each sent {:.3} times", times_sent(symbols_sent, symbols_needed))
}

fn state_name(state: ReceiverState) -> &'static str {
    match state {
        ReceiverState::Enrolled => "enrolled",
        ReceiverState::Listed => "listed",
        ReceiverState::Completed => "complete",
        ReceiverState::Failed => "failed",
        ReceiverState::Lost => "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_told_in_multiples_of_the_chunks_that_were() {
        assert_eq!(times_sent_text(0, 0), "none sent");
        assert_eq!(times_sent_text(2_010, 1_000), "each sent 2.010 times", "two receivers, one after the other");
    }

    #[test]
    fn memory_that_is_not_what_was_asked_for_is_explained() {
        assert_eq!(memory_text(0, 20 * MIB + 1, 4), "21 MiB for chunks, as --streams 4 needs that much (--memory 0)");
        assert_eq!(memory_text(128 * MIB, 128 * MIB - 1, 4), "128 MiB for chunks");
    }
}
