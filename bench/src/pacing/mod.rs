//! `discus-bench pacing`: how evenly packets leave. The sender's real engine sends at a given rate, and what its interface has counted is read many times a millisecond:
//! how much more than the rate leaves within a millisecond, ten, and a hundred.

mod samples;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use image::Pack;
use image::pack::{ImageSpec, PackOptions};
use sender::transmit::LINK_OVERHEAD_BYTES;

use crate::lab::content::{Part, write_image};
use crate::lab::{Lab, LabOptions, inside};
use crate::limits::network::{self, Link};
use crate::lone_sender::{self, Session};
use crate::provenance::Provenance;
use crate::report::{Page, ReportArgs};
use crate::scratch::Scratch;
use samples::{Counted, Samples};

/// The rate has grown to its cap, from 1 Gbit/s.
const RAMP: Duration = Duration::from_millis(700);
/// Packets of the made-up session are of this many bytes beside their headers: MTU 1500.
const SYMBOL_BYTES: u16 = 1408;
/// How long the stretches are in which is counted.
const WINDOWS: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100)];

/// Arguments of `discus-bench pacing`.
#[derive(Args, Clone, Debug)]
pub struct PacingArgs {
    /// Rates in Mbit/s on the wire, one after the other
    #[arg(long, value_name = "MBIT", value_delimiter = ',', default_value = "100,1000,3000")]
    rates: Vec<u64>,
    /// Seconds at each rate
    #[arg(long, value_name = "S", default_value_t = 1.5)]
    seconds: f64,
    /// Directory in memory for the pack, which the sender reads
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// A run.
#[derive(Debug, serde::Serialize)]
struct Figures {
    #[serde(flatten)]
    provenance: Provenance,
    rows: Vec<Row>,
}

/// One rate.
#[derive(Debug, serde::Serialize)]
struct Row {
    rate_bits_per_second: u64,
    /// What left in all, over the rate.
    mean: f64,
    samples: usize,
    /// By the length of a window: the most that left within one, over what the rate allows in as long, and the same of the 99th of hundred windows.
    windows: Vec<Window>,
}

#[derive(Debug, serde::Serialize)]
struct Window {
    milliseconds: f64,
    most: f64,
    percentile_99: f64,
    least: f64,
}

/// Measures and prints.
///
/// # Errors
/// Without root, or when the sender fails.
pub fn run(args: &PacingArgs) -> Result<()> {
    if let Some(reason) = crate::lab::unavailable() {
        bail!("{reason}");
    }
    ensure!(args.seconds > 0.2 && args.seconds <= 60.0, "--seconds must be 0.2 to 60");
    ensure!(
        !args.rates.is_empty() && args.rates.iter().all(|rate| (10..=40_000).contains(rate)),
        "--rates must be 10 to 40000 Mbit/s each"
    );
    let memory = Scratch::new(&args.memory)?;
    let fastest = args.rates.iter().copied().max().unwrap_or_default();
    let seconds = args.seconds + RAMP.as_secs_f64() + 0.5;
    // At least a gigabit, at which every session starts.
    let bytes = (fastest.max(1_000) as f64 * 1e6 / 8.0 * seconds) as u64;
    let source = memory.path.join("source");
    write_image(&source, &[Part::Noise { seed: 1, bytes: bytes.next_multiple_of(1 << 20) }])?;
    let spec = ImageSpec { name: "noise".to_owned(), path: source.clone() };
    let pack = Arc::new(image::pack::build(&[spec], &memory.path.join("pack"), &PackOptions::default(), &image::Progress::default())?);
    std::fs::remove_file(&source)?;
    let lab = Lab::up(&LabOptions { cable: true, ..LabOptions::default() })?;
    let mut figures = Figures { provenance: Provenance::of_this_run(), rows: Vec::new() };
    for &rate in &args.rates {
        let row = measure(&lab, &pack, rate * 1_000_000, Duration::from_secs_f64(args.seconds))?;
        eprintln!("{rate} Mbit/s: {:.3} of it left; {}", row.mean, row.cells().join(", "));
        figures.rows.push(row);
    }
    let (title, text) = ("How evenly packets leave", figures.markdown());
    args.report.publish(&Page { name: "pacing", title, figures: &figures, provenance: &figures.provenance, text: &text, plots: Vec::new() })
}

/// Nobody takes the packets: a receiver's work would be done on the core that sends, and be seen in its pace.
fn measure(lab: &Lab, pack: &Arc<Pack>, rate_cap_bits_per_second: u64, duration: Duration) -> Result<Row> {
    let interface = lab.interface.clone();
    let link = Link { transmit_interface: interface.clone(), receive_interface: interface.clone(), group: network::default_group() };
    let session = Session { link: &link, pack, symbol_bytes: SYMBOL_BYTES, rate_cap_bits_per_second, streams: 1, queues: 1 };
    let sample = || {
        lone_sender::send(&session, |_, _| {
            std::thread::sleep(RAMP);
            Samples::take(&interface, duration)
        })
    };
    let samples = inside(&lab.sender.namespace, sample)?;
    let bits = |counted: Counted| (counted.bytes + counted.packets * LINK_OVERHEAD_BYTES as u64) as f64 * 8.0;
    let share = |counted: Counted, seconds: f64| bits(counted) / seconds / rate_cap_bits_per_second as f64;
    let window = |window: &Duration| {
        let mut shares: Vec<f64> = samples.within(*window).map(|(counted, seconds)| share(counted, seconds)).collect();
        shares.sort_by(f64::total_cmp);
        let at = |percent: usize| shares.get((shares.len() * percent / 100).min(shares.len().saturating_sub(1))).copied().unwrap_or(0.0);
        Window { milliseconds: window.as_secs_f64() * 1e3, most: at(100), percentile_99: at(99), least: at(0) }
    };
    let (all, seconds) = samples.all();
    Ok(Row {
        rate_bits_per_second: rate_cap_bits_per_second,
        mean: share(all, seconds),
        samples: samples.len(),
        windows: WINDOWS.iter().map(window).collect(),
    })
}

impl Row {
    fn cells(&self) -> Vec<String> {
        self.windows.iter().map(|window| format!("{:.2} to {:.2} ({:.2})", window.least, window.most, window.percentile_99)).collect()
    }
}

impl Figures {
    fn markdown(&self) -> String {
        let mut text = "The sender's engine with a pack in memory and one receiver that loses nothing; AF_XDP in copy mode on veth, MTU 1500, nobody at the other end. What the interface has counted is \
            read about ten times a millisecond. The least and the most that left within any stretch of that length, over what the rate allows in as long, frames with preamble and gap; in brackets \
            what 99 of 100 stretches do not exceed.\n\n"
            .to_owned();
        text += "| rate | left, over the rate | within 1 ms | within 10 ms | within 100 ms | readings |\n| --- | --- | --- | --- | --- | --- |\n";
        for row in &self.rows {
            let rate = row.rate_bits_per_second / 1_000_000;
            text += &format!("| {rate} Mbit/s | {:.3} | {} | {} |\n", row.mean, row.cells().join(" | "), row.samples);
        }
        text
    }
}
