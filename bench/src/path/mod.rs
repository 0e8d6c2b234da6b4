//! Where the time goes in a transfer of one image over one veth pair: what each step costs a packet and a byte on both sides, how busy
//! each thread is, which is the bottleneck.
//!
//! The programs are the ones that operators run, unchanged: perf looks at the processors a few hundred times a second, and each stack is
//! counted for the step that it belongs to. What is not running is told from the scheduler's statistics of each thread.

mod flame;
mod report;
mod stacks;
mod stage;
mod threads;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::process::Signal;
use serde::Deserialize;

use crate::lab::content::{Part, first_difference, write_image};
use crate::lab::{Lab, LabOptions, Process, Programs};
use crate::leavings::succeed;
use crate::provenance::{Provenance, install_peers, output_of};
use crate::report::{Page, ReportArgs};
use crate::scratch::Scratch;
use report::{Cost, Figures, Function, ThreadShare};
use stacks::Sample;
use stage::{Side, Stage};
use threads::Threads;

const START_LIMIT: Duration = Duration::from_secs(30);
const RUN_LIMIT: Duration = Duration::from_secs(180);
/// Looks at each processor in a second. Not a divisor of any timer's frequency, so that no periodic work is always or never seen.
const SAMPLES_PER_SECOND: &str = "499";
/// Of the innermost functions of all stacks.
const FUNCTIONS_SHOWN: usize = 20;
/// How often threads are looked at: what the last look misses of them is shorter.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Arguments of `discus-bench path`.
#[derive(Args, Clone, Debug)]
pub struct PathArgs {
    /// Size of the image in MiB; incompressible
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    size: u64,
    /// An image to transfer instead; it is compressed as `discus pack` does by default
    #[arg(long, value_name = "FILE", conflicts_with = "size")]
    image: Option<PathBuf>,
    /// MTU of the link
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    mtu: u32,
    /// Cap of the sender, bits per second on the wire
    #[arg(long, default_value = "10G")]
    rate: String,
    /// Directory on the disk that is read from and written to
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// What `discus serve --json` prints, as far as it is asked for here.
#[derive(Deserialize)]
struct Served {
    packets_sent: u64,
    bytes_on_wire: u64,
    transmit: String,
}

/// What `discus-receive --json` prints.
#[derive(Deserialize)]
struct Received {
    seconds: f64,
    intake: String,
    data_bytes: u64,
    packets_overrun: u64,
    loss: f64,
}

/// A transfer that was watched.
struct Watched {
    served: Served,
    received: Received,
    sender: u32,
    receiver: u32,
    samples: Vec<Sample>,
    threads: [Threads; 2],
    /// Of the receiver's memory for chunks that wait for the disk, in thousandths, once a second.
    backlog_permille: Vec<u64>,
    /// What the processor's counters say of both programs, or why they do not.
    counters: String,
}

/// Watches one transfer and prints where its time went.
///
/// # Errors
/// When there is no root or no perf, when the transfer fails, or delivers something else than it was given.
pub fn run(args: &PathArgs) -> Result<()> {
    if let Some(reason) = crate::lab::unavailable() {
        bail!("{reason}");
    }
    let programs = Programs::built()?;
    install_peers(&["perf"])?;
    let provenance = Provenance::of_this_run();
    let scratch = Scratch::new(&args.directory)?;
    let source = match &args.image {
        Some(image) => image.clone(),
        None => {
            let path = scratch.path.join("source");
            write_image(&path, &[Part::Noise { seed: 1, bytes: args.size << 20 }])?;
            path
        }
    };
    let watched = watch(args, &programs, &scratch.path, &source)?;
    let side_of = |sample: &Sample| {
        let side = if sample.process_id == watched.sender {
            Side::Sender
        } else if sample.process_id == watched.receiver || stage::is_intake(sample) {
            Side::Receiver
        } else {
            return None;
        };
        Some(stage::of(sample, side))
    };
    let mut by_stage: BTreeMap<Stage, u64> = BTreeMap::new();
    for sample in &watched.samples {
        if let Some(stage) = side_of(sample) {
            *by_stage.entry(stage).or_default() += sample.period_ns;
        }
    }
    ensure!(!by_stage.is_empty(), "perf saw neither program");
    let mut by_function: BTreeMap<(Side, &str, &str), u64> = BTreeMap::new();
    for (sample, stage) in watched.samples.iter().filter_map(|sample| Some((sample, side_of(sample)?))) {
        if let Some(innermost) = sample.frames.first() {
            *by_function.entry((stage.side, stage.name, &innermost.symbol)).or_default() += sample.period_ns;
        }
    }
    let figures = figures(args, &watched, &by_stage, dearest(by_function));
    let text = figures.markdown();
    let roots = watched.samples.iter().filter_map(|sample| {
        let stage = side_of(sample)?;
        Some((sample, if stage.side == Side::Sender { "discus serve" } else { "discus-receive" }))
    });
    let flame = flame::svg("Processor time of one transfer, sender and receiver", roots);
    let plots = vec![("path-flame".to_owned(), flame)];
    let title = "Where the time goes in a transfer";
    args.report.publish(&Page { name: "path", title, figures: &figures, provenance: &provenance, text: &text, plots })
}

fn watch(args: &PathArgs, programs: &Programs, directory: &Path, source: &Path) -> Result<Watched> {
    let (pack, state) = (directory.join("pack"), directory.join("state"));
    let mut packing = Command::new(&programs.discus);
    packing.arg("pack").arg("--output").arg(&pack).arg(format!("source={}", source.display()));
    succeed(&mut packing)?;

    let lab = Lab::up(&LabOptions { mtu_bytes: args.mtu, cable: true, ..LabOptions::default() })?;
    let (target, samples) = (directory.join("target"), directory.join("perf.data"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (pack, state) = (text(&pack), text(&state));
    let interface = &lab.interface;
    let serve = ["serve", "--json", "--pack", &pack, "--interface", interface, "--rate", &args.rate, "--state-dir", &state, "--once", "1"];
    let namespace = lab.sender.namespace.as_str();
    let mut serving = Process::start("serve", directory, namespace, &programs.discus, serve)?;
    let fingerprint = serving.wait_for_fingerprint(START_LIMIT)?;
    let (server, target_text, samples_text) = (format!("{}:4700", lab.sender.ipv4), text(&target), text(&samples));
    let record = ["record", "-q", "-a", "-e", "cpu-clock", "-F", SAMPLES_PER_SECOND, "--call-graph", "dwarf,4096", "-o", &samples_text];
    let recording = Process::start("perf", directory, namespace, Path::new("perf"), record)?;
    let status = ["status", "--json", "--watch", "--server", &server, "--server-fingerprint", &fingerprint, "--state-dir", &state];
    let status = Process::start("status", directory, namespace, &programs.discus, status)?;

    let receive = ["source", "--json", "--server", &server, "--server-fingerprint", &fingerprint, "--interface", interface];
    let receive = receive.into_iter().chain(["--target", &target_text]);
    let mut receiving = Process::start("receive", directory, &lab.receivers[0].namespace, &programs.receive, receive)?;
    let (sender, receiver) = (serving.id(), receiving.id());
    let counters = Process::start("counters", directory, namespace, Path::new("perf"), count(sender, receiver))?;
    let mut threads = [Threads::of(sender), Threads::of(receiver)];
    let deadline = Instant::now() + RUN_LIMIT;
    let received = loop {
        threads.iter_mut().for_each(Threads::look);
        if let Some(ended) = receiving.ended()? {
            ensure!(ended.code == Some(0), "discus-receive ended with {:?}:\n{}", ended.code, ended.stderr);
            break serde_json::from_str(&ended.stdout).context("reading the receiver's summary")?;
        }
        ensure!(Instant::now() < deadline, "the transfer is not done within {RUN_LIMIT:?}");
        std::thread::sleep(LOOK_INTERVAL);
    };
    let backlog_permille = backlogs(&status.stdout());
    drop(status);
    let ended = serving.wait(START_LIMIT)?;
    let served = serde_json::from_str(&ended.stdout).context("reading the sender's summary")?;
    recording.signal(Signal::INT)?;
    let recorded = recording.wait(START_LIMIT)?;
    // It ends by itself when the programs do.
    let counters = counters.wait(START_LIMIT).map(|ended| counted(&ended.stderr)).unwrap_or_default();
    let bytes = std::fs::metadata(source)?.len();
    if let Some(offset) = first_difference(source, &target, bytes)? {
        bail!("the delivered file differs at byte {offset}");
    }
    let script = output_of("perf", &["script", "-i", &samples_text, "--no-inline", "-F", stacks::FIELDS]);
    let samples = stacks::parse(&script);
    ensure!(!samples.is_empty(), "perf recorded nothing: {}{}", recorded.stdout, recorded.stderr);
    Ok(Watched { served, received, sender, receiver, samples, threads, backlog_permille, counters })
}

/// Arguments for perf to count what both programs do.
fn count(sender: u32, receiver: u32) -> Vec<String> {
    let events = "cycles,instructions,cache-misses,context-switches,page-faults";
    ["stat", "-x", ",", "-e", events, "-p", &format!("{sender},{receiver}")].map(str::to_owned).to_vec()
}

/// `COUNT,UNIT,EVENT,…` a line.
fn counted(text: &str) -> String {
    let counts = text.lines().filter_map(|line| {
        let mut fields = line.split(',');
        let (count, event) = (fields.next()?, fields.nth(1)?);
        match count.parse::<u64>() {
            Ok(count) => Some(format!("{count} {event}")),
            Err(_) => count.starts_with('<').then(|| format!("{event} not counted by this machine")),
        }
    });
    counts.collect::<Vec<_>>().join(", ")
}

/// How full the receiver's memory was, each time that the sender was asked.
fn backlogs(status: &str) -> Vec<u64> {
    let marker = "\"backlog_permille\":";
    let values = status.split(marker).skip(1).map(|rest| rest.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>());
    values.filter_map(|digits| digits.parse().ok()).collect()
}

/// The functions that the processor spent most in.
fn dearest(by_function: BTreeMap<(Side, &str, &str), u64>) -> Vec<Function> {
    let function =
        |((side, step, name), cpu_ns): ((Side, &str, &str), u64)| Function { side, step: step.to_owned(), name: name.to_owned(), cpu_ns };
    let mut functions: Vec<Function> = by_function.into_iter().map(function).collect();
    functions.sort_by_key(|function| std::cmp::Reverse(function.cpu_ns));
    functions.truncate(FUNCTIONS_SHOWN);
    functions
}

fn figures(args: &PathArgs, watched: &Watched, by_stage: &BTreeMap<Stage, u64>, functions: Vec<Function>) -> Figures {
    let Watched { served, received, .. } = watched;
    let costs = by_stage.iter().map(|(&stage, &cpu_ns)| Cost { stage, cpu_ns }).collect();
    let sides = [Side::Sender, Side::Receiver].into_iter().zip(&watched.threads);
    let threads = sides.flat_map(|(side, threads)| threads.spent().into_iter().map(move |spent| ThreadShare { side, spent })).collect();
    Figures {
        data_bytes: received.data_bytes,
        wire_bytes: served.bytes_on_wire,
        packets: served.packets_sent,
        seconds: received.seconds,
        mtu_bytes: args.mtu,
        transmit: served.transmit.clone(),
        intake: received.intake.clone(),
        packets_overrun: received.packets_overrun,
        loss: received.loss,
        backlog_permille: watched.backlog_permille.clone(),
        counters: watched.counters.clone(),
        costs,
        functions,
        threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_counts_is_said_and_what_it_cannot_count_too() {
        let text = "<not supported>,,cycles,0,100.00,,\n1200,,context-switches,9,100.00,,\nnoise\n";
        assert_eq!(counted(text), "cycles not counted by this machine, 1200 context-switches");
    }

    #[test]
    fn backlogs_are_found_in_whatever_the_status_says() {
        assert_eq!(backlogs("{\"a\":1,\"backlog_permille\":12,\"b\":[]}\n{\"backlog_permille\": 340}"), [12, 340]);
    }
}
