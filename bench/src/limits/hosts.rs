//! The two ends of a real link: `limits rx` on one host, `limits tx` on the other, with a TCP connection between them on which the sending end says what comes
//! and the receiving end what arrived: one JSON object a line.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use receiver::intake::IntakeMode;
use sender::transmit::Choice;
use serde::{Deserialize, Serialize};
use wire::doctor::throughput::{Trial, loss_free};

use super::network::{self, HEADERS_BYTES, Link, Load, Sink, Take};
use super::search::next_rate;
use crate::provenance::Provenance;
use crate::report::{Page, ReportArgs};

/// Longest line that either end accepts.
const LINE_BYTES_MAX: u64 = 4096;
/// A trial whose other end says nothing for this long is over.
const SILENCE_LIMIT: Duration = Duration::from_secs(90);

/// Arguments of `discus-bench limits rx`.
#[derive(Args, Clone, Debug)]
pub(super) struct RxArgs {
    /// Interface that packets arrive on
    #[arg(long, value_name = "IF")]
    interface: String,
    /// Where `limits tx` connects
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:4778")]
    listen: SocketAddr,
    /// How packets are fetched
    #[arg(long, value_enum, default_value = "auto")]
    intake: IntakeMode,
    /// End after this many connections; 0: go on until Ctrl-C
    #[arg(long, value_name = "N", default_value_t = 0)]
    connections: u32,
}

/// Arguments of `discus-bench limits tx`.
#[derive(Args, Clone, Debug)]
pub(super) struct TxArgs {
    /// Interface that packets leave by
    #[arg(long, value_name = "IF")]
    interface: String,
    /// Where `limits rx` listens
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddr,
    /// Multicast group and port
    #[arg(long, value_name = "GROUP:PORT", default_value_t = network::default_group())]
    group: SocketAddr,
    /// Ethernet frame sizes without check sequence
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_values_t = [128, 256, 512, 1024, 1478])]
    frames: Vec<usize>,
    /// How packets are sent
    #[arg(long, value_enum, default_value = "auto")]
    transmit: Choice,
    /// Seconds of each trial
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// Transmit queues from 0 on, each with a thread of its own; together they keep to the rate
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    queues: u32,
    /// Packets of a batch
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// The search ends when the interval is this share of the highest rate
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    resolution: f64,
    #[command(flatten)]
    report: ReportArgs,
}

/// What the sending end says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// A trial begins: fetch packets of this size from this group.
    Begin { frame_bytes: usize, group: SocketAddr },
    /// It is over.
    End,
}

/// What the receiving end says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// Packets would be seen now.
    Ready,
    /// What arrived in the trial.
    Arrived { fetched: u64, seen: u64, processor_seconds: f64, receiving: String },
    /// It cannot receive.
    Failed { why: String },
}

/// The lines of one connection.
struct Lines {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Lines {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(SILENCE_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream.try_clone()?), writer: stream })
    }

    fn say(&mut self, what: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(what)? + "\n";
        self.writer.write_all(line.as_bytes()).context("the other end is gone")
    }

    /// The next line; `None` at the end of the connection.
    fn hear<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>> {
        let mut line = String::new();
        std::io::Read::take(&mut self.reader, LINE_BYTES_MAX).read_line(&mut line).context("the other end is silent")?;
        if line.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).context("the other end is no discus-bench of this version")
    }
}

/// The receiving end.
pub(super) fn rx(args: &RxArgs) -> Result<()> {
    let listener = TcpListener::bind(args.listen).with_context(|| format!("listening on {}", args.listen))?;
    eprintln!("waiting for discus-bench limits tx --to {}", listener.local_addr()?);
    let mut served = 0;
    for stream in listener.incoming() {
        let stream = stream?;
        let peer = stream.peer_addr()?;
        match Lines::new(stream).and_then(|lines| serve(args, lines)) {
            Ok(trials) => eprintln!("{peer}: {trials} trials"),
            Err(error) => eprintln!("{peer}: {error:#}"),
        }
        served += 1;
        if served == args.connections {
            break;
        }
    }
    Ok(())
}

/// Takes part in the trials of one connection; says how many.
fn serve(args: &RxArgs, mut lines: Lines) -> Result<u32> {
    let mut trials = 0;
    while let Some(order) = lines.hear::<Order>()? {
        let Order::Begin { frame_bytes, group } = order else { bail!("a trial ended that had not begun") };
        ensure!(group.ip().is_multicast() && (HEADERS_BYTES + 2..=1 << 14).contains(&frame_bytes), "asked for an impossible trial");
        let link = Link { transmit_interface: String::new(), receive_interface: args.interface.clone(), group };
        let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let outcome = std::thread::scope(|scope| -> Result<_> {
            let receiving = scope.spawn(|| network::receive(&link, frame_bytes, Take::new(args.intake, Sink::Copy), &ready, &stop));
            while !ready.load(Ordering::Acquire) && !receiving.is_finished() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let ended = if receiving.is_finished() { Ok(None) } else { lines.say(&Answer::Ready).and_then(|()| lines.hear::<Order>()) };
            stop.store(true, Ordering::Release);
            let received = receiving.join().map_err(|_| anyhow!("receiving panicked"))?;
            ended?;
            Ok(received)
        })?;
        match outcome {
            Ok((arrived, receiving)) => {
                let (fetched, seen, processor_seconds) = (arrived.fetched, arrived.seen, arrived.processor_seconds);
                lines.say(&Answer::Arrived { fetched, seen, processor_seconds, receiving })?;
            }
            Err(error) => lines.say(&Answer::Failed { why: format!("{error:#}") })?,
        }
        trials += 1;
    }
    Ok(trials)
}

/// What was found for one frame size.
#[derive(Debug, Serialize)]
struct Found {
    frame_bytes: usize,
    mode: &'static str,
    receiving: String,
    /// As fast as the sending end could.
    offered_packets_per_second: f64,
    /// The highest rate of which everything arrived.
    loss_free_packets_per_second: Option<f64>,
    trials: Vec<Trial>,
}

/// The sending end.
pub(super) fn tx(args: &TxArgs) -> Result<()> {
    ensure!(args.group.ip().is_multicast(), "{} is no multicast group", args.group.ip());
    ensure!(args.seconds > 0.0 && args.seconds <= 60.0, "a trial takes up to 60 seconds");
    ensure!(args.frames.iter().all(|&bytes| bytes >= HEADERS_BYTES + 2), "the smallest frame has {} bytes", HEADERS_BYTES + 2);
    ensure!((0.001..=0.5).contains(&args.resolution), "the resolution is 0.001 to 0.5");
    let stream = TcpStream::connect_timeout(&args.to, Duration::from_secs(10))
        .with_context(|| format!("connecting to {}: is `discus-bench limits rx` running there?", args.to))?;
    let mut lines = Lines::new(stream)?;
    let link = Link { transmit_interface: args.interface.clone(), receive_interface: String::new(), group: args.group };
    let mut found = Vec::new();
    for &frame_bytes in &args.frames {
        let load = |rate| Load {
            queues: args.queues,
            choice: args.transmit,
            frame_bytes,
            batch: usize::from(args.batch),
            rate,
            duration: Duration::from_secs_f64(args.seconds),
            wanted_percent: 100,
        };
        // As fast as it goes: no trial needs to offer more.
        let (flat_out, mode, receiving) = trial(&mut lines, &link, &load(None))?;
        let mut trials = vec![flat_out];
        let rate_max = flat_out.rate;
        while let Some(rate) = next_rate(&trials, rate_max, args.resolution) {
            trials.push(trial(&mut lines, &link, &load(Some(rate)))?.0);
        }
        let loss_free_rate = loss_free(&trials).map(|trial| trial.rate);
        eprintln!(
            "{frame_bytes} bytes: {:.3} Mpps offered at most, {:.3} Mpps without loss, {} trials",
            rate_max / 1e6,
            loss_free_rate.unwrap_or(0.0) / 1e6,
            trials.len()
        );
        found.push(Found {
            frame_bytes,
            mode,
            receiving,
            offered_packets_per_second: rate_max,
            loss_free_packets_per_second: loss_free_rate,
            trials,
        });
    }
    let provenance = Provenance::of_this_run();
    let text = markdown(args, &found);
    let figures = serde_json::json!({ "provenance": provenance, "frames": found });
    let title = "The highest rate without loss between two hosts";
    args.report.publish(&Page { name: "link", title, figures: &figures, provenance: &provenance, text: &text, plots: Vec::new() })
}

/// One trial: the load, what arrived, and the modes of both ends. The offered rate is what really left.
fn trial(lines: &mut Lines, link: &Link, load: &Load) -> Result<(Trial, &'static str, String)> {
    lines.say(&Order::Begin { frame_bytes: load.frame_bytes, group: link.group })?;
    match lines.hear()?.context("the other end closed the connection")? {
        Answer::Ready => {}
        Answer::Failed { why } => bail!("the other end cannot receive: {why}"),
        Answer::Arrived { .. } => bail!("the other end answered out of turn"),
    }
    let sent = network::send(link, load)?;
    // What is still in queues arrives within this.
    std::thread::sleep(Duration::from_millis(100));
    lines.say(&Order::End)?;
    match lines.hear()?.context("the other end closed the connection")? {
        Answer::Arrived { fetched, receiving, .. } => {
            let rate = sent.packets as f64 / sent.seconds;
            Ok((Trial { rate, sent: sent.packets, arrived: fetched }, sent.mode, receiving))
        }
        Answer::Failed { why } => bail!("the other end failed: {why}"),
        Answer::Ready => bail!("the other end answered out of turn"),
    }
}

fn markdown(args: &TxArgs, found: &[Found]) -> String {
    let mut text = "The machine is the sending end.\n\n".to_owned();
    if let Some(first) = found.first() {
        text += &format!("Sent as {}, batches of {}; received by {}\n\n", first.mode, args.batch, first.receiving);
    }
    text += "| frame, bytes | offered at most, Mpps | without loss, Mpps | without loss, Gbit/s of frames | trials |\n| --- | --- | --- | --- | --- |\n";
    for row in found {
        let clean = row.loss_free_packets_per_second.unwrap_or(0.0);
        text += &format!(
            "| {} | {:.3} | {:.3} | {:.2} | {} |\n",
            row.frame_bytes,
            row.offered_packets_per_second / 1e6,
            clean / 1e6,
            clean * row.frame_bytes as f64 * 8.0 / 1e9,
            row.trials.len()
        );
    }
    text
}
