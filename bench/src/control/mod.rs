//! `discus-bench control`: what thousands of receivers cost the sender's control plane.
//!
//! Two processes over the loopback interface. One is the sender: control server, dispatcher, scheduler and reader as in `discus serve`, but what they
//! would multicast goes to nobody (`serve`, `digest`). The other one speaks the real protocol over real TLS connections for any number of receivers
//! (`connection`), which lose symbols by chance (`holding`), and reads from /proc what the sender takes (`usage`).

mod connection;
mod digest;
mod holding;
mod report;
mod serve;
mod usage;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Subcommand};
use image::Codec;
use image::pack::{ImageSpec, PackOptions, build};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use wire::Fingerprint;
use wire::trust::{GRPC, Trust, client_config};

use crate::lab::content::{Part, write_image};
use crate::leavings::Child;
use crate::report::{Page, ReportArgs};
use crate::scratch::Scratch;
use connection::{Shared, live};
use digest::{DIGEST_BYTES_MAX, Digest};
use report::{Figures, Moments};
use usage::Usage;

/// Bytes of a chunk, so that the image is made of whole ones.
const CHUNK_BYTES: u64 = 256 * 1024;
/// How often the sender's figures are looked at.
const TICK: Duration = Duration::from_millis(20);
/// After all have completed, at most.
const GOODBYE_LIMIT: Duration = Duration::from_secs(60);

/// Arguments of `discus-bench control`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ControlArgs {
    #[command(subcommand)]
    command: Option<ControlCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum ControlCommand {
    /// The sender's process
    #[command(hide = true)]
    Serve(serve::ServeArgs),
}

/// Arguments of a run.
#[derive(Args, Clone, Debug)]
struct RunArgs {
    /// Control connections
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    receivers: u32,
    /// How long the image takes at the rate
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=300))]
    seconds: u32,
    /// Rate of the stream that nobody carries, in Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    rate: u32,
    /// Independent loss at each receiver, in percent
    #[arg(long, default_value_t = 1.0)]
    loss_percent: f64,
    /// Seed of all chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory for the image and the pack
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// Runs what `args` ask for and prints the figures.
///
/// # Errors
/// When a receiver is not enrolled, listed and acknowledged as the protocol has it.
pub fn run(args: &ControlArgs) -> Result<()> {
    match &args.command {
        Some(ControlCommand::Serve(args)) => serve::serve(args),
        None => measure(&args.run),
    }
}

fn measure(args: &RunArgs) -> Result<()> {
    ensure!((0.0..50.0).contains(&args.loss_percent), "--loss-percent must be at least 0 and less than 50");
    raise_open_files(u64::from(args.receivers) + 64)?;
    let scratch = Scratch::new(&args.directory)?;
    let pack = make_pack(&scratch.path, args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(load(args, &scratch.path, &pack))?;
    let (title, text) = ("Many control connections to one sender", figures.table());
    let provenance = &figures.provenance;
    args.report.publish(&Page { name: "control", title, figures: &figures, provenance, text: &text, plots: Vec::new() })?;
    let all = args.receivers as usize;
    ensure!(
        figures.completed == all && figures.acknowledged == all,
        "{} of {all} receivers completed, {} were told so",
        figures.completed,
        figures.acknowledged
    );
    Ok(())
}

fn make_pack(directory: &Path, args: &RunArgs) -> Result<PathBuf> {
    let (source, pack) = (directory.join("image"), directory.join("pack"));
    let bytes = u64::from(args.rate) * 1_000_000 / 8 * u64::from(args.seconds);
    write_image(&source, &[Part::Noise { seed: args.seed, bytes: bytes.div_ceil(CHUNK_BYTES) * CHUNK_BYTES }])?;
    let options = PackOptions { codec: Codec::None, ..PackOptions::default() };
    build(&[ImageSpec { name: "image".to_owned(), path: source.clone() }], &pack, &options, &image::Progress::default())?;
    std::fs::remove_file(source)?;
    Ok(pack)
}

/// The sender's process; killed on drop, and when a signal ends this program.
struct Serving {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Serving {
    fn start(args: &RunArgs, directory: &Path, pack: &Path, digests: std::net::SocketAddr) -> Result<Serving> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["control", "serve", "--receivers", &args.receivers.to_string(), "--digests", &digests.to_string()]);
        command.args(["--rate-bits-per-second", &(u64::from(args.rate) * 1_000_000).to_string()]);
        command.arg("--pack").arg(pack).arg("--state-dir").arg(directory.join("state"));
        let mut child = Child::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let stdout = child.inner.stdout.take().ok_or_else(|| anyhow!("the sender's process has no output"))?;
        Ok(Serving { child, lines: BufReader::new(stdout) })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let bytes = self.lines.read_line(&mut line)?;
        ensure!(bytes > 0, "the sender's process has ended early");
        Ok(line.trim().to_owned())
    }
}

async fn load(args: &RunArgs, directory: &Path, pack: &Path) -> Result<Figures> {
    let digests = UdpSocket::bind(("127.0.0.1", 0)).await?;
    let mut serving = Serving::start(args, directory, pack, digests.local_addr()?)?;
    let opening = serving.line()?;
    let (server, fingerprint) = opening.split_once(' ').context("the sender's process does not say where it listens")?;
    let fingerprint: Fingerprint = fingerprint.parse().map_err(|error| anyhow!("its fingerprint: {error:?}"))?;
    let shared = Arc::new(Shared {
        server: server.parse()?,
        tls: Arc::new(client_config(Trust::Pin(fingerprint), GRPC)?),
        image: "image".to_owned(),
        loss: args.loss_percent / 100.0,
        seed: args.seed,
        digests: Default::default(),
        listed: AtomicUsize::new(0),
        complete: AtomicUsize::new(0),
        acknowledged: AtomicUsize::new(0),
        reports: AtomicU64::new(0),
        report_entries: AtomicU64::new(0),
    });
    let hearing = tokio::spawn(hear(digests, Arc::clone(&shared)));

    let id = serving.child.inner.id();
    let all = args.receivers as usize;
    let mut moments = Moments::new(Usage::of(id)?);
    let mut receivers = JoinSet::new();
    for index in 0..all {
        receivers.spawn(live(Arc::clone(&shared), index));
    }
    let mut completed_at: Option<Instant> = None;
    while shared.acknowledged.load(Ordering::Relaxed) < all {
        tokio::time::sleep(TICK).await;
        while let Some(ended) = receivers.try_join_next() {
            ended?.context("a receiver failed")?;
        }
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        moments.look(all, count(&shared.listed), count(&shared.complete), shared.reports.load(Ordering::Relaxed), || Usage::of(id))?;
        if count(&shared.complete) == all {
            let since = *completed_at.get_or_insert_with(Instant::now);
            ensure!(since.elapsed() < GOODBYE_LIMIT, "{} of {all} completions were acknowledged", count(&shared.acknowledged));
        }
    }
    while let Some(ended) = receivers.join_next().await {
        ended?.context("a receiver failed")?;
    }
    let end = Usage::of(id)?;
    hearing.abort();
    let closing: report::Closing = serde_json::from_str(&serving.line()?).context("what the sender's process counted")?;
    let counts = (shared.reports.load(Ordering::Relaxed), shared.report_entries.load(Ordering::Relaxed));
    moments.figures(all, args.loss_percent, &end, counts, shared.acknowledged.load(Ordering::Relaxed), &closing)
}

/// Takes digests as they come.
async fn hear(digests: UdpSocket, shared: Arc<Shared>) -> Result<()> {
    let mut bytes = [0; DIGEST_BYTES_MAX];
    loop {
        let count = digests.recv(&mut bytes).await?;
        if let Some(digest) = Digest::parse(&bytes[..count]) {
            shared.digests.write().await.push(digest);
        }
    }
}

fn raise_open_files(wanted: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
        .with_context(|| format!("{wanted} files have to be open at once; raise the limit with `ulimit -Hn`"))
}
