//! The delivery itself: images, pack, sender, receivers that join one after the other, and the comparison of what they got.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use sender::transmit::LINK_OVERHEAD_BYTES;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::SwarmArgs;
use crate::lab::content::{Part, first_difference, write_image};
use crate::lab::{Ended, Lab, LabOptions, Process, Programs};
use crate::leavings::succeed;

/// Images; what they have in common is 70 % of each, in tenths.
pub(super) const IMAGES: usize = 4;
const COMMON_TENTHS: u64 = 7;
const PORT: u16 = 4700;
/// Within this a program says that it is ready, and the whole is over.
const START_LIMIT: Duration = Duration::from_secs(30);
const RUN_LIMIT: Duration = Duration::from_secs(300);

/// What happened.
pub(super) struct Delivery {
    pub(super) symbols_sent: u64,
    pub(super) symbols_by_unicast: u64,
    pub(super) symbols_needed: u64,
    pub(super) transmit: String,
    /// What left on average from the first group to the end, whole frames with preamble and gap.
    pub(super) bits_per_second: f64,
    /// K of each chunk of the pack, and the chunks of each image.
    pub(super) source_symbols: Vec<u16>,
    pub(super) images: Vec<Vec<u32>>,
    pub(super) machines: Vec<Machine>,
}

/// What happened at one receiver.
pub(super) struct Machine {
    pub(super) image: usize,
    pub(super) is_lossy: bool,
    /// When it was on the list, after the first one.
    pub(super) joined: Duration,
    /// From there to the end of its program.
    pub(super) took: Duration,
    /// Share of the stream's packets that did not arrive.
    pub(super) stream_loss: f64,
}

/// What `discus serve --json` prints, as far as it is asked for here.
#[derive(Deserialize)]
struct Served {
    symbols_sent: u64,
    symbols_by_unicast: u64,
    symbols_needed: u64,
    symbol_bytes: u64,
    packets_sent: u64,
    bytes_on_wire: u64,
    seconds: f64,
    transmit: String,
}

/// What `discus-receive --json` prints.
#[derive(Deserialize)]
struct Received {
    #[serde(default)]
    loss: f64,
}

struct Running {
    process: Process,
    image: usize,
    is_lossy: bool,
    joined: Instant,
    took: Option<(Duration, Ended)>,
}

pub(super) fn deliver(args: &SwarmArgs, programs: &Programs, directory: &Path) -> Result<Delivery> {
    let pack_path = directory.join("pack");
    make_pack(args, programs, directory, &pack_path)?;
    let pack = image::Pack::open(&pack_path)?;
    let lab = Lab::up(&LabOptions { receivers: args.receivers as usize, ..LabOptions::default() })?;

    let is_lossy = |index: usize| index % 2 == 1 && args.loss_percent > 0.0;
    let mut impairments = Vec::new();
    for (index, machine) in lab.receivers.iter().enumerate().filter(|(index, _)| is_lossy(*index)) {
        let (port, loss, seed) = (PORT.to_string(), format!("{}%", args.loss_percent), index.to_string());
        let arguments = ["impair", "--interface", &machine.port, "--port", &port, "--loss", &loss, "--seed", &seed, "--json"];
        let mut process = Process::start(&format!("impair{index}"), directory, &lab.bridge, &programs.bench, arguments)?;
        process.wait_for_line("attaching the impairment", START_LIMIT, |_| Some(()))?;
        impairments.push(process);
    }

    let (rate, state) = (format!("{}M", args.rate), directory.join("state"));
    let (pack_text, state) = (pack_path.to_string_lossy(), state.to_string_lossy());
    let arguments = ["serve", "--json", "--interface", &lab.interface, "--rate", &rate, "--pack", &pack_text, "--state-dir", &state];
    let mut sender = Process::start("serve", directory, &lab.sender.namespace, &programs.discus, arguments)?;
    let fingerprint = sender.wait_for_fingerprint(START_LIMIT)?;

    let stored_bytes: u64 = pack.chunks().iter().map(|chunk| u64::from(chunk.stored_bytes)).sum();
    let transfer = Duration::from_secs_f64(stored_bytes as f64 * 8.0 / (f64::from(args.rate) * 1e6));
    let server = format!("{}:{PORT}", lab.sender.ipv4);
    let mut running: Vec<Running> = Vec::new();
    let began = Instant::now();
    for (index, machine) in lab.receivers.iter().enumerate() {
        let join_at = began + transfer.mul_f64(args.spread * index as f64 / (lab.receivers.len().max(2) - 1) as f64);
        while Instant::now() < join_at {
            look(&mut running)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        let (image, name) = (index % IMAGES, format!("machine{index}"));
        let target = directory.join(&name);
        let (image_name, target) = (format!("image{image}"), target.to_string_lossy().into_owned());
        let arguments =
            [&image_name, "--server", &server, "--server-fingerprint", &fingerprint, "--interface", &lab.interface, "--target", &target];
        let all = arguments.into_iter().chain(["--name", &name, "--memory", "48", "--json"]);
        let mut process = Process::start(&name, directory, &machine.namespace, &programs.receive, all)?;
        process.wait_for_line("being listed", START_LIMIT, |line| line.contains("on the sender's list").then_some(()))?;
        running.push(Running { process, image, is_lossy: is_lossy(index), joined: Instant::now(), took: None });
    }
    let deadline = Instant::now() + RUN_LIMIT;
    while running.iter().any(|receiver| receiver.took.is_none()) {
        look(&mut running)?;
        ensure!(Instant::now() < deadline, "receivers are not done within {RUN_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    sender.signal(Signal::INT)?;
    let served: Served = summary(&sender.wait(START_LIMIT)?)?;
    drop(impairments);

    let first = running.first().map_or(began, |receiver| receiver.joined);
    let mut machines = Vec::new();
    for (index, receiver) in running.into_iter().enumerate() {
        let (took, ended) = receiver.took.context("it has ended")?;
        let received: Received = summary(&ended)?;
        let (source, target) = (directory.join(format!("image{}.raw", receiver.image)), directory.join(format!("machine{index}")));
        let bytes = std::fs::metadata(&source)?.len();
        let difference = first_difference(&source, &target, bytes)?;
        ensure!(difference.is_none(), "machine{index} differs from its image at byte {difference:?}");
        machines.push(Machine {
            image: receiver.image,
            is_lossy: receiver.is_lossy,
            joined: receiver.joined.duration_since(first),
            took,
            stream_loss: received.loss,
        });
    }
    let chunk_ids = |image: usize| {
        let of_image = pack.segments().iter().filter(move |segment| segment.images.contains(image));
        of_image.flat_map(|segment| segment.first_chunk.0..segment.first_chunk.0 + segment.chunks).collect()
    };
    Ok(Delivery {
        symbols_sent: served.symbols_sent,
        symbols_by_unicast: served.symbols_by_unicast,
        symbols_needed: served.symbols_needed,
        transmit: served.transmit,
        bits_per_second: (served.bytes_on_wire + served.packets_sent * LINK_OVERHEAD_BYTES as u64) as f64 * 8.0 / served.seconds.max(1e-3),
        source_symbols: pack
            .chunks()
            .iter()
            .map(|chunk| u64::from(chunk.stored_bytes).div_ceil(served.symbol_bytes).max(1) as u16)
            .collect(),
        images: (0..IMAGES).map(chunk_ids).collect(),
        machines,
    })
}

/// Notes which receivers have ended.
fn look(running: &mut [Running]) -> Result<()> {
    for receiver in running.iter_mut().filter(|receiver| receiver.took.is_none()) {
        if let Some(ended) = receiver.process.ended()? {
            ensure!(ended.code == Some(0), "a receiver ended with {:?}:\n{}", ended.code, ended.stderr);
            receiver.took = Some((receiver.joined.elapsed(), ended));
        }
    }
    Ok(())
}

fn make_pack(args: &SwarmArgs, programs: &Programs, directory: &Path, pack: &Path) -> Result<()> {
    let bytes = u64::from(args.size) << 20;
    let common = bytes / 10 * COMMON_TENTHS / 4096 * 4096;
    let mut command = Command::new(&programs.discus);
    command.args(["pack", "--codec", "none", "--output"]).arg(pack);
    for image in 0..IMAGES {
        let path = directory.join(format!("image{image}.raw"));
        let own = Part::Noise { seed: 10 + image as u64, bytes: bytes - common };
        write_image(&path, &[Part::Noise { seed: 1, bytes: common }, own])?;
        command.arg(format!("image{image}={}", path.display()));
    }
    succeed(&mut command)?;
    Ok(())
}

fn summary<T: DeserializeOwned>(ended: &Ended) -> Result<T> {
    serde_json::from_str(&ended.stdout).with_context(|| format!("reading the summary {:?}; it wrote:\n{}", ended.stdout, ended.stderr))
}
