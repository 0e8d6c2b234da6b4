//! `discus-receive`: takes one image from a discus sender and writes it to this machine's disk.

mod cli;

use std::fs;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use crossbeam_channel::{RecvTimeoutError, bounded, unbounded};
use image::restore::{Present, ScanProgress, Target, TargetOptions};
use image::{ErrorClass, Manifest};
use receiver::control::{ConnectOptions, ControlLink, Enrolled, ToSender, Trust, enrol};
use receiver::engine::{self, MemoryPlan, Progress, Setup, UnicastMode};
use receiver::intake::{self, IntakeOptions, Opened};
use receiver::interface::Interface;
use receiver::restore_rate::{self, WriteTest};
use receiver::trust::checked_manifest;

use cli::display::{Display, REFRESH};
use cli::options::Options;
use cli::signals::Signals;
use cli::summary::{Summary, Transfer, peak_memory_bytes};

/// The documented exit codes, but for those of signals.
mod exit {
    pub(super) const USAGE: u8 = 2;
    pub(super) const TARGET_REFUSED: u8 = 3;
    pub(super) const SENDER_UNREACHABLE: u8 = 4;
    pub(super) const SENDER_LOST: u8 = 5;
    pub(super) const TARGET_IO: u8 = 6;
    pub(super) const DISMISSED: u8 = 7;
    pub(super) const NETWORK: u8 = 8;
    pub(super) const UNTRUSTED: u8 = 9;
    pub(super) const INTERNAL: u8 = 1;
}

/// Beyond this many workers the intake is what limits.
const WORKERS_MAX: usize = 4;

/// An error and the exit code that it makes.
struct Failure {
    exit_code: u8,
    error: anyhow::Error,
}

/// Gives an error its exit code.
fn exits<E: Into<anyhow::Error>>(exit_code: u8) -> impl FnOnce(E) -> Failure {
    move |error| Failure { exit_code, error: error.into() }
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == cli::doctor::NAME) {
        return cli::doctor::run();
    }
    let options = Options::parse();
    log_to_stderr();

    let mut summary = Summary::new(&options.image, &options.target);
    let outcome = receive(&options, &mut summary);
    summary.peak_memory_bytes = peak_memory_bytes();
    if let Err(Failure { exit_code, error }) = &outcome {
        summary.exit_code = *exit_code;
        summary.error = Some(format!("{error:#}"));
    }
    summary.ok = outcome.is_ok();
    if options.json {
        match serde_json::to_string(&summary) {
            Ok(json) => println!("{json}"),
            Err(error) => eprintln!("error: no summary: {error}"),
        }
    }
    if !options.quiet {
        summary.print(|line| if options.json { eprintln!("{line}") } else { println!("{line}") });
    }
    if let Some(error) = &summary.error {
        eprintln!("error: {error}");
    }
    ExitCode::from(summary.exit_code)
}

/// Remarks of the data path by default; what the connection goes through is said in words of its own. `DISCUS_LOG=debug` shows more.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DISCUS_LOG").unwrap_or_else(|_| "error,receiver::engine=warn".into());
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).without_time().init();
}

fn receive(options: &Options, summary: &mut Summary) -> Result<(), Failure> {
    let mut display = Display::new(options.quiet);
    let interface = match &options.interface {
        _ if options.unicast == UnicastMode::Always => None,
        Some(name) => Some(Interface::find(name).with_context(|| format!("interface {name}")).map_err(exits(exit::NETWORK))?),
        None => return Err(exits(exit::USAGE)(anyhow::anyhow!("--interface is missing; only --unicast always does without it"))),
    };
    let (enrolled, link) = enrol(&connect_options(options, interface.as_ref())).map_err(exits(exit::SENDER_UNREACHABLE))?;
    display.remark(&format!("sender {}, certificate {}", options.server, enrolled.server_fingerprint));
    let outcome = receive_image(options, summary, &mut display, interface.as_ref(), enrolled, &link);
    display.end();
    link.close();
    outcome
}

/// What this machine is called.
fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "unnamed".to_owned(), |name| name.trim().to_owned())
}

fn connect_options(options: &Options, interface: Option<&Interface>) -> ConnectOptions {
    ConnectOptions {
        server: options.server.clone(),
        // clap has seen to it that no fingerprint means any server.
        trust: options.server_fingerprint.map_or(Trust::AnyServer, Trust::Pin),
        name: options.name.clone().unwrap_or_else(host_name),
        group: options.group.clone(),
        image: options.image.clone(),
        interface_index: interface.map(Interface::index),
        give_up_after: options.server_timeout,
    }
}

/// Everything from the sender's answer to the whole image.
fn receive_image(
    options: &Options,
    summary: &mut Summary,
    display: &mut Display,
    interface: Option<&Interface>,
    enrolled: Enrolled,
    link: &ControlLink,
) -> Result<(), Failure> {
    // From here on there are things to leave in order.
    let signals = Signals::handle().context("handling signals").map_err(exits(exit::INTERNAL))?;
    let tell_sender = |failure: Failure| {
        link.send(ToSender::Failed(format!("{:#}", failure.error)));
        failure
    };
    let setup = prepare(options, summary, display, interface, enrolled, &signals).map_err(tell_sender)?;
    let progress = Arc::clone(&setup.0.progress);
    let manifest = Arc::clone(&setup.0.manifest);
    let outcome = run(setup, link, display);
    summary.transfer = Some(Transfer::new(&progress, manifest.logical_bytes(), manifest.chunks.len()));
    match outcome {
        Ok(finished) => {
            summary.acknowledged = finished.acknowledged;
            if !finished.acknowledged {
                // The data is whole and flushed, which is what this program was asked for.
                eprintln!("warning: the image is whole, but the sender has not confirmed that it knows");
            }
            Ok(())
        }
        Err(error) => Err(Failure {
            exit_code: match &error {
                engine::Error::Target(error) => target_exit_code(error),
                engine::Error::Intake(_) | engine::Error::Join(_) => exit::NETWORK,
                engine::Error::SenderLost(_) | engine::Error::Unicast(_) => exit::SENDER_LOST,
                engine::Error::Dismissed(_) | engine::Error::Changed(_) => exit::DISMISSED,
                engine::Error::Interrupted => signals.exit_code(),
                engine::Error::Panicked(_) => exit::INTERNAL,
            },
            error: error.into(),
        }),
    }
}

fn target_exit_code(error: &image::Error) -> u8 {
    match error.class() {
        ErrorClass::Refused => exit::TARGET_REFUSED,
        _ => exit::TARGET_IO,
    }
}

type Prepared = (Setup, crossbeam_channel::Receiver<String>);

/// The network, then memory, then the target: what destroys data comes last.
fn prepare(
    options: &Options,
    summary: &mut Summary,
    display: &mut Display,
    interface: Option<&Interface>,
    enrolled: Enrolled,
    signals: &Signals,
) -> Result<Prepared, Failure> {
    let parameters = enrolled.parameters;
    summary.manifest_by_multicast = enrolled.manifest_by_multicast;
    let manifest = checked_manifest(&enrolled, &options.image, options.verify_key.as_ref()).map_err(|error| Failure {
        exit_code: if error.class() == ErrorClass::Untrusted { exit::UNTRUSTED } else { exit::SENDER_UNREACHABLE },
        error: anyhow::Error::from(error).context("the sender's manifest"),
    })?;
    if let Some(key) = &options.verify_key {
        display.remark(&format!("the pack is signed by {key}"));
    }
    let Opened { intake, filter, membership } = open(options, display, interface, &enrolled)?;
    summary.filter = Some(filter.describe());
    summary.intake = Some(intake.describe().to_owned());

    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let workers = options.workers.unwrap_or_else(|| cpus.saturating_sub(2).min(WORKERS_MAX));
    let plan = MemoryPlan::new(options.memory, intake.memory_bytes(), &parameters, engine::is_compressed(&manifest), workers)
        .map_err(exits(exit::USAGE))?;
    // What has crossed the network once need not do so again.
    let target_options = TargetOptions { force: options.force, resume: options.resume, keep: true };
    let refused = |error: image::Error| Failure { exit_code: target_exit_code(&error), error: error.into() };
    let mut target = Target::open(&options.target, &manifest, &target_options).map_err(refused)?;
    let present = match options.resume {
        true => scan(&mut target, &manifest, display, &signals.stop_flag()).map_err(|error| match error {
            image::Error::Stopped => Failure { exit_code: signals.exit_code(), error: anyhow::anyhow!("interrupted") },
            error => refused(error),
        })?,
        false => Present::none(&manifest),
    };
    display.remark(&format!(
        "{}: {} bytes, {} MiB of data in {} chunks, to {}; memory {} MiB for {} chunks in flight, {workers} workers",
        manifest.name,
        manifest.logical_bytes(),
        engine::total_bytes(&manifest) >> 20,
        manifest.chunks.len(),
        options.target.display(),
        (plan.buffer_bytes() + intake.memory_bytes()) >> 20,
        plan.assembly_buffers,
    ));

    let all_there = present.chunks() == manifest.chunks.len();
    let restore_bytes_per_second = match options.restore_rate {
        Some(known) => known as u64,
        None if all_there || options.write_test == WriteTest::Off => 0,
        None => restore_rate(options, display, &manifest, workers),
    };
    let (notices, heard) = unbounded();
    let progress = Arc::new(Progress::new(engine::total_bytes(&manifest)));
    progress.note_resumed(present.chunks(), present.raw_bytes());
    let setup = Setup {
        parameters,
        progress,
        manifest: Arc::new(manifest),
        streams: enrolled.streams,
        opened: Opened { intake, filter, membership },
        target,
        present,
        plan,
        workers,
        cores: if options.cores.is_empty() { default_cores() } else { options.cores.clone() },
        unicast: options.unicast,
        restore_bytes_per_second,
        restore_rate_is_known: options.restore_rate.is_some(),
        report_interval_us: enrolled.report_interval_us,
        acknowledge_within: options.server_timeout,
        notices,
        stop: signals.stop_flag(),
    };
    Ok((setup, heard))
}

/// Joins the first stream's group, on the interface if there is one.
fn open(options: &Options, display: &Display, interface: Option<&Interface>, enrolled: &Enrolled) -> Result<Opened, Failure> {
    let parameters = &enrolled.parameters;
    let Some(interface) = interface else {
        display.remark("unicast: everything comes over the connection to the sender");
        return Ok(Opened::nothing(parameters));
    };
    let groups: Vec<_> = enrolled.streams.iter().map(|stream| stream.group).collect();
    // Which others carry something for this machine the sender says later.
    let first = &groups[..groups.len().min(1)];
    let how = IntakeOptions { mode: options.intake, xdp: options.xdp, busy_poll: options.busy_poll };
    let opened = intake::open(interface, parameters, &groups, first, how).map_err(exits(exit::NETWORK))?;
    display.remark(&format!("{}: filter {}; intake {}", interface.name(), opened.filter.describe(), opened.intake.describe()));
    warn_of_mtu(display, interface, parameters.packet_bytes(groups.iter().any(std::net::SocketAddr::is_ipv6)));
    Ok(opened)
}

/// What this machine restores of the image in stored bytes a second, as a short test says; 0 when it cannot be had.
fn restore_rate(options: &Options, display: &Display, manifest: &Manifest, workers: usize) -> u64 {
    let megabytes = |bytes: u64| bytes / 1_000_000;
    match restore_rate::measure(manifest, &options.target, options.resume, workers) {
        Ok(rate) => {
            display.remark(&format!(
                "restores {} MB/s of stored data: the target takes {} MB/s, the processor {} MB/s of stored data; tested in {} ms",
                megabytes(rate.restore),
                megabytes(rate.disk),
                megabytes(rate.processor),
                rate.took.as_millis()
            ));
            rate.restore
        }
        Err(why) => {
            display.remark(&format!("what this machine restores is not known before it does: {why}"));
            0
        }
    }
}

/// Looks for what the target holds already, and shows how it goes.
fn scan(target: &mut Target, manifest: &Manifest, display: &mut Display, stop: &AtomicBool) -> image::Result<Present> {
    let (progress, started) = (ScanProgress::default(), Instant::now());
    let present = thread::scope(|scope| {
        let (ended_in, ended) = bounded::<()>(0);
        let scan = scope.spawn(|| {
            let _ended = ended_in;
            target.find_present(manifest, &progress, stop)
        });
        while ended.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
            display.scan(&progress);
        }
        scan.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    display.restart();
    for note in present.notes() {
        display.remark(note);
    }
    display.remark(&format!(
        "{} of {} chunks, {} MiB, are on the target already; read in {:.1} s",
        present.chunks(),
        manifest.chunks.len(),
        present.raw_bytes() >> 20,
        started.elapsed().as_secs_f64()
    ));
    Ok(present)
}

/// Runs the engine on a thread of its own and shows how it goes on this one.
fn run((setup, notices): Prepared, link: &ControlLink, display: &mut Display) -> Result<engine::Finished, engine::Error> {
    let progress = Arc::clone(&setup.progress);
    thread::scope(|scope| {
        let engine = thread::Builder::new()
            .name("intake".to_owned())
            .spawn_scoped(scope, move || engine::run(setup, link))
            .map_err(engine::Error::Intake)?;
        loop {
            match notices.recv_timeout(REFRESH) {
                Ok(notice) => display.remark(&notice),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            display.update(&progress);
        }
        engine.join().unwrap_or(Err(engine::Error::Panicked("intake")))
    })
}

/// Packets that are longer than the MTU mostly do not arrive, and nobody says so.
fn warn_of_mtu(display: &Display, interface: &Interface, packet_bytes: usize) {
    if let Ok(mtu_bytes) = interface.mtu_bytes()
        && mtu_bytes < packet_bytes
    {
        display.remark(&format!(
            "warning: the sender's packets have {packet_bytes} bytes and the MTU of {} is {mtu_bytes}: raise it (ip link set {} mtu {packet_bytes}) or start the sender with a smaller --mtu",
            interface.name(),
            interface.name()
        ));
    }
}

/// The last cores, which interrupts and other programs use least. On fewer than four the scheduler knows better.
fn default_cores() -> Vec<usize> {
    let mut cores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    if cores.len() < 4 {
        return Vec::new();
    }
    cores.reverse();
    cores
}
