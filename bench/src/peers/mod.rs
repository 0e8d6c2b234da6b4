//! discus against other multicast file distributors: one receiver, one incompressible file, the same namespaces, link, MTU and disk,
//! interleaved repetitions, medians.
//!
//! Every contestant is timed the same way, by the clock on the wall: from the start of the process that makes the transfer begin to
//! the end of the process that says that the file is there. discus has flushed the file to the disk by then (O_DIRECT writes and fsync);
//! the others leave it in the page cache, so the time that flushing it takes is measured as well and given beside.

mod contestants;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::lab::content::{Part, first_difference, write_image};
use crate::lab::{Lab, LabOptions, Programs};
use crate::report::{Page, ReportArgs};
use crate::scratch::Scratch;
use contestants::{Contestant, Stage};
use report::Report;

/// Arguments of `discus-bench peers`.
#[derive(Args, Clone, Debug)]
pub struct PeersArgs {
    /// Size of the file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    size: u64,
    /// How often each contestant transfers it; the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    repetitions: usize,
    /// MTU of the lab
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    mtu: u32,
    /// Cap of discus' sender, bits per second on the wire
    #[arg(long, default_value = "10G")]
    rate: String,
    /// Contestants, in the order of their turns
    #[arg(long, value_delimiter = ',', default_value = "discus,udpcast,uftp")]
    only: Vec<Contestant>,
    /// Directory on the disk that is read from and written to
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// One transfer.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Turn {
    /// Until the contestant said that the file is there.
    seconds: f64,
    /// Until it was flushed to the disk as well.
    flushed_seconds: f64,
}

/// Runs the comparison and prints it.
///
/// # Errors
/// When a contestant cannot be installed, fails, does not end in time, or delivers something else than it was given.
pub fn run(args: &PeersArgs) -> Result<()> {
    if let Some(reason) = crate::lab::unavailable() {
        bail!("{reason}");
    }
    ensure!(args.repetitions > 0 && args.size > 0 && !args.only.is_empty(), "nothing to compare");
    let programs = Programs::built()?;
    contestants::install(&args.only)?;
    let lab = Lab::up(&LabOptions { receivers: 1, mtu_bytes: args.mtu, ipv6: false, cable: true })?;
    let scratch = Scratch::new(&args.directory)?;
    let source = scratch.path.join("source");
    eprintln!("making {} MiB of incompressible data in {}", args.size, scratch.path.display());
    write_image(&source, &[Part::Noise { seed: 1, bytes: args.size << 20 }])?;
    let stage = Stage { lab: &lab, programs: &programs, directory: &scratch.path, source: &source, rate: &args.rate };
    stage.prepare(&args.only)?;

    let mut report = Report::new(args);
    for repetition in 1..=args.repetitions {
        for &contestant in &args.only {
            // What the turn before left to be written must not be written during this one.
            rustix::fs::sync();
            let turn = take_turn(&stage, contestant, &source).with_context(|| format!("{contestant}, repetition {repetition}"))?;
            let gigabits = report.add(contestant, turn);
            eprintln!("{contestant} {repetition}/{}: {:.2} s, {gigabits:.2} Gbit/s", args.repetitions, turn.seconds);
        }
    }
    let (title, text) = ("discus and its peers", report.markdown());
    args.report.publish(&Page { name: "peers", title, figures: &report, provenance: &report.provenance, text: &text, plots: Vec::new() })
}

fn take_turn(stage: &Stage<'_>, contestant: Contestant, source: &Path) -> Result<Turn> {
    let target = stage.directory.join("target");
    let transfer = stage.start(contestant, &target)?;
    let start = Instant::now();
    let delivered = transfer.run(limit(source)?)?;
    let seconds = start.elapsed().as_secs_f64();
    fs::File::open(&delivered)?.sync_all()?;
    let flushed_seconds = start.elapsed().as_secs_f64();
    let bytes = fs::metadata(source)?.len();
    ensure!(fs::metadata(&delivered)?.len() == bytes, "the delivered file has another size");
    if let Some(offset) = first_difference(source, &delivered, bytes)? {
        bail!("the delivered file differs at byte {offset}");
    }
    fs::remove_file(&delivered)?;
    Ok(Turn { seconds, flushed_seconds })
}

/// A transfer at less than 50 Mbit/s hangs.
fn limit(source: &Path) -> Result<Duration> {
    Ok(Duration::from_secs(60 + fs::metadata(source)?.len() * 8 / 50_000_000))
}
