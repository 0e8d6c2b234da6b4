//! `discus-bench ceiling`: how near discus comes to what the machine does with the same packets and nothing else: each thing beside its bare
//! counterpart, in turn, in one run, as ratios.
//!
//! * A transfer of an incompressible image from memory onto a disk, and onto a block device in memory (O_DIRECT both), beside packets that are sent, received,
//!   checked and copied, at each MTU.
//! * The sender's engine alone (reading from memory, checksums, scheduling, pacing), beside a loop that only transmits; the receiver's filter drops all of it.
//! * With `--queues`: the sender's engine with as many streams on as many transmit queues, beside the same streams on one.
//! * A receiver that wants one packet in ten, beside the same receiver without the filter, at the same rate: processor time.

mod report;
mod transfer;
mod transmit;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use image::{CHUNK_PAGES_DEFAULT, PAGE_BYTES};
use receiver::intake::{IntakeMode, XdpMode};
use sender::transmit::Choice;
use wire::session::symbol_bytes_for_mtu;

use crate::lab::content::{Part, write_image};
use crate::lab::{Lab, LabOptions, MemoryDisk, Programs, inside};
use crate::limits::network::{self, HEADERS_BYTES, Link, Load, Sink, Take};
use crate::provenance::Provenance;
use crate::report::{Page, ReportArgs};
use crate::scratch::Scratch;
use report::{Figures, Pair, Row};

/// Packets a second in the comparison of receivers: both keep up with it.
const RECEIVERS_RATE: f64 = 200_000.0;
/// Of every hundred packets, those that the receiver wants there.
const WANTED_PERCENT: u8 = 10;

/// Arguments of `discus-bench ceiling`.
#[derive(Args, Clone, Debug)]
pub struct CeilingArgs {
    /// MTUs of the link, one after the other
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "1500,9000")]
    mtu: Vec<u32>,
    /// Size of the image in MiB; incompressible. What is sent sooner than the sender's rate has grown is refused
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    size: u64,
    /// How often each is measured, in turns
    #[arg(long, value_name = "N", default_value_t = 5)]
    repetitions: usize,
    /// Seconds of each bare trial
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// Directory on the disk that is read from and written to
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    /// Directory in memory, for the pack and for the block device in memory, where the disk is not to count
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory: PathBuf,
    /// Compare the sender's engine on this many transmit queues with one, too
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    queues: u8,
    /// Compare nothing else than `--queues` does
    #[arg(long)]
    only_queues: bool,
    #[command(flatten)]
    report: ReportArgs,
}

/// Measures and prints.
///
/// # Errors
/// Without root, when a transfer fails or delivers something else than it was given.
pub fn run(args: &CeilingArgs) -> Result<()> {
    if let Some(reason) = crate::lab::unavailable() {
        bail!("{reason}");
    }
    ensure!(args.repetitions > 0 && args.seconds > 0.0 && args.seconds <= 60.0, "nothing to measure");
    ensure!(args.queues > 1 || !args.only_queues, "--only-queues compares nothing without --queues 2 or more");
    let programs = Programs::built()?;
    ensure_size(args)?;
    let scratch = Scratch::new(&args.directory)?;
    let source = scratch.path.join("source");
    write_image(&source, &[Part::Noise { seed: 1, bytes: args.size << 20 }])?;
    let pack = transfer::pack(&programs, &scratch.path, &source)?;
    let memory = Scratch::new(&args.memory)?;
    let pack_in_memory = memory.path.join("pack");
    std::fs::copy(&pack, &pack_in_memory).with_context(|| format!("copying the pack to {}", args.memory.display()))?;
    let disk_in_memory = MemoryDisk::new(&memory.path, args.size << 20)?;
    let files = Files {
        programs,
        directory: scratch.path.clone(),
        source,
        pack_in_memory,
        target: scratch.path.join("target"),
        target_in_memory: disk_in_memory.device.clone(),
    };
    let mut figures = Figures { provenance: Provenance::of_this_run(), link: String::new(), rows: Vec::new() };
    for &mtu_bytes in &args.mtu {
        if args.queues > 1 {
            figures.rows.push(on_queues(args, mtu_bytes, &files.pack_in_memory)?);
        }
        if args.only_queues {
            continue;
        }
        let bench = Bench::new(args, mtu_bytes)?;
        bench.measure(args.repetitions, &files, &mut figures)?;
    }
    let (title, text) = ("How near discus comes to what the machine does", figures.markdown());
    args.report.publish(&Page {
        name: "ceiling",
        title,
        figures: &figures,
        provenance: &figures.provenance,
        text: &text,
        plots: Vec::new(),
    })
}

/// Refuses an image that would have been sent before the rate has grown and there was something to measure, before anything is made of it.
fn ensure_size(args: &CeilingArgs) -> Result<()> {
    for &mtu_bytes in &args.mtu {
        let symbol_bytes = symbol_bytes_for_mtu(mtu_bytes as usize, CHUNK_PAGES_DEFAULT * PAGE_BYTES as u32)?;
        let bench = Bench::new(args, mtu_bytes)?;
        let carried = bench.bare(HEADERS_BYTES + usize::from(symbol_bytes), Sink::Filter)?.frames_gigabits_per_second;
        let least = transmit::size_least_mib(carried * 1e9, symbol_bytes, bench.duration);
        ensure!(
            args.size >= least,
            "at MTU {mtu_bytes} frames leave at {carried:.1} Gbit/s here: {} MiB would be sent before the sender's rate has grown to that and was measured; --size {least} \
             lasts long enough",
            args.size
        );
    }
    Ok(())
}

/// The sender's engine on several transmit queues, beside itself with the same streams on one, in turns.
fn on_queues(args: &CeilingArgs, mtu_bytes: u32, pack: &Path) -> Result<Row> {
    let duration = Duration::from_secs_f64(args.seconds);
    let chunk_bytes_max = image::Pack::open(pack)?.chunk_pages() * image::PAGE_BYTES as u32;
    let symbol_bytes = symbol_bytes_for_mtu(mtu_bytes as usize, chunk_bytes_max)?;
    let queues = args.queues;
    let lab = Lab::up(&LabOptions { mtu_bytes, cable: true, queues: queues.into(), ..LabOptions::default() })?;
    let mut row = Row::of_itself(format!("the sender's engine, {queues} streams on {queues} queues; beside it: on one; MTU {mtu_bytes}"));
    for _ in 0..args.repetitions {
        let on = |used| transmit::run(&lab, pack, symbol_bytes, (queues, used), duration);
        let one = on(1)?;
        row.add(Pair { discus: on(queues)?, bare: one });
        eprintln!("{row}");
    }
    Ok(row)
}

/// What is transferred, and with what.
struct Files {
    programs: Programs,
    directory: PathBuf,
    source: PathBuf,
    pack_in_memory: PathBuf,
    target: PathBuf,
    target_in_memory: PathBuf,
}

/// One MTU.
struct Bench {
    duration: Duration,
    lab: Lab,
    mtu_bytes: u32,
}

impl Bench {
    fn new(args: &CeilingArgs, mtu_bytes: u32) -> Result<Bench> {
        let lab = Lab::up(&LabOptions { mtu_bytes, cable: true, ..LabOptions::default() })?;
        Ok(Bench { duration: Duration::from_secs_f64(args.seconds), lab, mtu_bytes })
    }

    fn measure(&self, repetitions: usize, files: &Files, figures: &mut Figures) -> Result<()> {
        let mtu = self.mtu_bytes;
        let transfer = |onto: &str| Row::new(format!("transfer onto {onto}, MTU {mtu}"), "Gbit/s of image, and of payload", 0.85);
        let (mut transfers, mut to_memory) = (transfer("the disk"), transfer("a block device in memory"));
        let mut transmits = Row::new(format!("transmitting, MTU {mtu}"), "Gbit/s of frames", 0.95);
        let mut kernel = Row::at_most(format!("1 packet in 10 wanted, MTU {mtu}; without: sorted in user space behind AF_XDP"), None);
        let mut stack = Row::at_most(
            format!("1 packet in 10 wanted, MTU {mtu}; without: sorted in user space behind a UDP socket, as with --xdp off"),
            Some(0.1),
        );
        for _ in 0..repetitions {
            let deliver =
                |target| transfer::run(&self.lab, &files.programs, &files.directory, &files.source, &files.pack_in_memory, target);
            let done = deliver(&files.target)?;
            let frame_bytes = HEADERS_BYTES + usize::from(done.symbol_bytes);
            let bare = self.bare(frame_bytes, Sink::Copy)?;
            figures.link = bare.description;
            let payload = bare.frames_gigabits_per_second * f64::from(done.symbol_bytes) / frame_bytes as f64;
            transfers.add(Pair { discus: done.gigabits_per_second, bare: payload });
            to_memory.add(Pair { discus: deliver(&files.target_in_memory)?.gigabits_per_second, bare: payload });

            let alone = transmit::run(&self.lab, &files.pack_in_memory, done.symbol_bytes, (1, 1), self.duration)?;
            let bare = self.bare(frame_bytes, Sink::Filter)?;
            transmits.add(Pair { discus: alone, bare: bare.frames_gigabits_per_second });

            let filtered = self.receiver_ns(frame_bytes, Take::new(IntakeMode::Auto, Sink::Copy))?;
            kernel.add(Pair { discus: filtered, bare: self.receiver_ns(frame_bytes, Take::new(IntakeMode::Auto, Sink::Sort))? });
            let unfiltered = Take { intake: IntakeMode::Udp, xdp: XdpMode::Off, busy_poll: false, sink: Sink::Copy };
            stack.add(Pair { discus: filtered, bare: self.receiver_ns(frame_bytes, unfiltered)? });
            for row in [&transfers, &to_memory, &transmits, &kernel, &stack] {
                eprintln!("{row}");
            }
        }
        figures.rows.extend([transfers, to_memory, transmits, kernel, stack]);
        Ok(())
    }

    fn link(&self) -> Link {
        let interface = &self.lab.interface;
        Link { transmit_interface: interface.clone(), receive_interface: interface.clone(), group: network::default_group() }
    }

    fn load(&self, frame_bytes: usize) -> Load {
        Load { choice: Choice::Auto, queues: 1, frame_bytes, batch: 32, rate: None, duration: self.duration, wanted_percent: 100 }
    }

    /// As fast as packets leave.
    fn bare(&self, frame_bytes: usize, sink: Sink) -> Result<Bare> {
        let (link, load, take) = (self.link(), self.load(frame_bytes), Take::new(IntakeMode::Auto, sink));
        let send = || inside(&self.lab.sender.namespace, || network::send(&link, &load));
        let (sent, arrived, description) = network::trial(&self.lab, &link, frame_bytes, take, send)?;
        let packets = if sink == Sink::Filter { sent.packets } else { arrived.fetched };
        Ok(Bare {
            frames_gigabits_per_second: packets as f64 * frame_bytes as f64 * 8e-9 / sent.seconds,
            description: format!("transmitting: {}; receiving: {description}", sent.mode),
        })
    }

    /// Processor time of the receiving thread for each packet that was sent, of which few are wanted.
    fn receiver_ns(&self, frame_bytes: usize, take: Take) -> Result<f64> {
        let link = self.link();
        let load = Load { rate: Some(RECEIVERS_RATE), wanted_percent: WANTED_PERCENT, ..self.load(frame_bytes) };
        let send = || inside(&self.lab.sender.namespace, || network::send(&link, &load));
        let (sent, arrived, _) = network::trial(&self.lab, &link, frame_bytes, take, send)?;
        ensure!(arrived.seen * 100 > sent.packets * 95, "the receiver saw {} of {} packets", arrived.seen, sent.packets);
        Ok(arrived.processor_seconds * 1e9 / sent.packets.max(1) as f64)
    }
}

/// A bare trial.
struct Bare {
    frames_gigabits_per_second: f64,
    description: String,
}
