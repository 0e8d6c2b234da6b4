//! The figures of a run, and how they are printed.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::usage::Usage;
use crate::provenance::Provenance;

/// Threads of the sender whose work is the control plane, and the one that schedules; the data path's are left out.
const CONTROL: &str = "control";
const DISPATCH: &str = "discus-dispatch";

/// What the sender's process counted.
#[derive(Debug, Deserialize)]
pub(super) struct Closing {
    completed: usize,
    failed: usize,
    lost: usize,
    symbols_sent: u64,
    symbols_needed: u64,
    report_interval_us: u32,
}

/// A moment of the run.
struct Moment {
    at: Instant,
    usage: Usage,
    reports: u64,
}

/// What was seen of the run.
pub(super) struct Moments {
    start: Moment,
    listed: Option<Moment>,
    first_complete: Option<Moment>,
    /// As it was last seen: when the run is over the dispatcher ends, and its time is seen no more.
    last: Usage,
}

/// What is printed.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    #[serde(flatten)]
    pub(super) provenance: Provenance,
    receivers: usize,
    loss_percent: f64,
    /// From the first connection until all are on the list, both ends on the same cores.
    enrolled_seconds: f64,
    /// Processor time of the sender for that.
    enrolment_cpu_seconds_per_1000: f64,
    /// Resident memory of the sender when all were listed, less what it had before, per receiver.
    memory_kib_per_receiver: f64,
    /// … at its highest, the chunk cache included.
    memory_max_kib_per_receiver: f64,
    /// Reports that were sent while nobody was complete, a second.
    reports_per_second: f64,
    report_interval_ms: f64,
    entries_per_report: f64,
    /// Cores that the control server and the dispatcher took for them.
    reporting_control_cores: f64,
    reporting_dispatch_cores: f64,
    /// Processor time of the two per report.
    microseconds_per_report: f64,
    /// From the first completion to the last acknowledgement.
    completion_seconds: f64,
    completion_cpu_seconds_per_1000: f64,
    pub(super) completed: usize,
    pub(super) acknowledged: usize,
    failed: usize,
    lost: usize,
    /// Symbols sent over symbols needed.
    overhead: f64,
}

impl Moments {
    pub(super) fn new(usage: Usage) -> Moments {
        let last = usage.clone();
        Moments { start: Moment { at: Instant::now(), usage, reports: 0 }, listed: None, first_complete: None, last }
    }

    /// Keeps the usage at the moments when all are listed and when the first one is complete.
    pub(super) fn look(
        &mut self,
        all: usize,
        listed: usize,
        complete: usize,
        reports: u64,
        usage: impl Fn() -> Result<Usage>,
    ) -> Result<()> {
        let now = || Ok::<_, anyhow::Error>(Moment { at: Instant::now(), usage: usage()?, reports });
        if self.listed.is_none() && listed == all {
            self.listed = Some(now()?);
        }
        if self.first_complete.is_none() && complete > 0 {
            self.first_complete = Some(now()?);
        }
        if complete > 0 {
            self.last = std::mem::take(&mut self.last).and_then(&usage()?);
        }
        Ok(())
    }

    pub(super) fn figures(
        self,
        receivers: usize,
        loss_percent: f64,
        end: &Usage,
        (reports, entries): (u64, u64),
        acknowledged: usize,
        closing: &Closing,
    ) -> Result<Figures> {
        let end = self.last.and_then(end);
        let start = &self.start;
        let listed = self.listed.as_ref().context("not all were listed at once")?;
        let complete = self.first_complete.as_ref().context("nobody was complete")?;
        let cpu = |from: &Usage, to: &Usage| (to.seconds_since(from, CONTROL), to.seconds_since(from, DISPATCH));
        let per_1000 = |(control, dispatch): (f64, f64)| (control + dispatch) * 1_000.0 / receivers as f64;
        let reporting_seconds = complete.at.duration_since(listed.at).as_secs_f64().max(1e-3);
        let (control, dispatch) = cpu(&listed.usage, &complete.usage);
        let reported = complete.reports - listed.reports;
        let kib = |kib: u64| kib.saturating_sub(start.usage.resident_kib) as f64 / receivers as f64;
        Ok(Figures {
            provenance: Provenance::of_this_run(),
            receivers,
            loss_percent,
            enrolled_seconds: listed.at.duration_since(start.at).as_secs_f64(),
            enrolment_cpu_seconds_per_1000: per_1000(cpu(&start.usage, &listed.usage)),
            memory_kib_per_receiver: kib(listed.usage.resident_kib),
            memory_max_kib_per_receiver: kib(end.resident_max_kib),
            reports_per_second: reported as f64 / reporting_seconds,
            report_interval_ms: f64::from(closing.report_interval_us) / 1e3,
            entries_per_report: entries as f64 / reports.max(1) as f64,
            reporting_control_cores: control / reporting_seconds,
            reporting_dispatch_cores: dispatch / reporting_seconds,
            microseconds_per_report: (control + dispatch) * 1e6 / reported.max(1) as f64,
            completion_seconds: complete.at.elapsed().as_secs_f64(),
            completion_cpu_seconds_per_1000: per_1000(cpu(&complete.usage, &end)),
            completed: closing.completed,
            acknowledged,
            failed: closing.failed,
            lost: closing.lost,
            overhead: closing.symbols_sent as f64 / closing.symbols_needed.max(1) as f64,
        })
    }
}

impl Figures {
    pub(super) fn table(&self) -> String {
        let mut text =
            format!("Both processes on these cores.\n\n| {} receivers, {} % loss | |\n| --- | --- |\n", self.receivers, self.loss_percent);
        let mut row = |what: &str, value: String| text.push_str(&format!("| {what} | {value} |\n"));
        row("all enrolled, manifest fetched, on the list", format!("{:.2} s", self.enrolled_seconds));
        row("… processor time of the sender, 1,000 receivers", format!("{:.2} s", self.enrolment_cpu_seconds_per_1000));
        row("memory of the sender per receiver, all listed", format!("{:.0} KiB", self.memory_kib_per_receiver));
        row("… at the highest, chunk cache included", format!("{:.0} KiB", self.memory_max_kib_per_receiver));
        row("reports a second", format!("{:.0}", self.reports_per_second));
        row("… with deficits each, on average", format!("{:.2}", self.entries_per_report));
        row("… least time between two of a receiver, all listed", format!("{:.0} ms", self.report_interval_ms));
        row("cores taken by the control server while they report", format!("{:.2}", self.reporting_control_cores));
        row("… by the dispatcher and its scheduler", format!("{:.2}", self.reporting_dispatch_cores));
        row("… both together per report", format!("{:.0} us", self.microseconds_per_report));
        row("from the first completion to the last acknowledgement", format!("{:.2} s", self.completion_seconds));
        row("… processor time of the sender, 1,000 receivers", format!("{:.2} s", self.completion_cpu_seconds_per_1000));
        row("completed / acknowledged", format!("{} / {}", self.completed, self.acknowledged));
        row("symbols sent over symbols needed", format!("{:.4}", self.overhead));
        text
    }
}
