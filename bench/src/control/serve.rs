//! The sender's process: the control server, dispatcher, scheduler and reader that really serve, and a way onto no network.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use crossbeam_channel::bounded;
use image::Pack;
use sender::control::{
    ControlConfig, ControlServer, ImageInfo, Limits, OperatorAccess, OperatorToken, Priorities, ServerIdentity, SessionInfo, Settings,
    StreamInfo, Traffic,
};
use sender::engine::{Cores, Ended, Engine, EngineConfig, Stream, Tally};
use sender::schedule::StragglerPolicy;
use wire::report::ChunkRange;
use wire::session::SessionParameters;
use wire::{ChunkId, SessionId, StreamId};

use super::digest::ToNobody;

/// As `discus serve` has them.
const EVENTS_MAX: usize = 8192;
const REPORT_INTERVAL_US: u32 = 10_000;
const RATE_FLOOR_BITS_PER_SECOND: u64 = 10_000_000;
const SYMBOL_BYTES: u16 = 1408;
/// Little, so that what receivers cost stands out in the process's memory.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Nobody waits longer for a run.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// Arguments of the sender's process.
#[derive(Args, Clone, Debug)]
pub(super) struct ServeArgs {
    #[arg(long)]
    pub(super) pack: PathBuf,
    #[arg(long)]
    pub(super) state_dir: PathBuf,
    #[arg(long)]
    pub(super) receivers: usize,
    #[arg(long)]
    pub(super) rate_bits_per_second: u64,
    /// Where digests of what would have been multicast go.
    #[arg(long)]
    pub(super) digests: SocketAddr,
}

/// Serves until all are complete, then stays until standard input ends, so that its figures can be read.
pub(super) fn serve(args: &ServeArgs) -> Result<()> {
    let pack = Arc::new(Pack::open(&args.pack)?);
    let parameters = SessionParameters {
        session: SessionId(0xD15C),
        symbol_bytes: SYMBOL_BYTES,
        chunk_count: u32::try_from(pack.chunks().len()).context("the pack has too many chunks")?,
        chunk_bytes_max: pack.chunk_pages() * image::PAGE_BYTES as u32,
    };
    let identity = ServerIdentity::load_or_create(&args.state_dir)?;
    let group = ([239, 192, 68, 1], 4700).into();
    let image = &pack.images()[0];
    let info = SessionInfo {
        parameters,
        pack_root: pack.root(),
        proof: Vec::new(),
        chunk_source: None,
        images: vec![ImageInfo {
            name: image.name.clone(),
            manifest: pack.manifest_section(0)?,
            chunks: vec![ChunkRange { first: ChunkId(0), count: parameters.chunk_count }],
        }],
        streams: vec![StreamInfo { id: StreamId(0), group, source: [127, 0, 0, 1].into() }],
        descriptive: None,
        report_interval_us: REPORT_INTERVAL_US,
    };
    // All come from one address here.
    let connections_max = args.receivers + 64;
    let limits = Limits { connections_max, connections_per_address_max: connections_max as u32, ..Limits::default() };
    let (events, events_out) = bounded(EVENTS_MAX);
    let config = ControlConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        limits,
        settings: Settings { rate_cap_bits_per_second: args.rate_bits_per_second, priorities: Priorities::default() },
        access: OperatorAccess { token: OperatorToken::load_or_create(&args.state_dir)?, public_status: false },
    };
    let control = ControlServer::start(config, &identity, info, Arc::new(Traffic::default()), events)?;
    let director = control.director();
    let engine = Engine::start(
        EngineConfig {
            pack: Arc::clone(&pack),
            parameters,
            streams: vec![Stream { id: StreamId(0), group }],
            transmitters: vec![Box::new(ToNobody::new(args.digests)?)],
            rate_cap_bits_per_second: args.rate_bits_per_second,
            rate_floor_bits_per_second: RATE_FLOOR_BITS_PER_SECOND.max(args.rate_bits_per_second / 100),
            classes: vec![ChunkRange { first: ChunkId(0), count: parameters.chunk_count }],
            stragglers: StragglerPolicy::default(),
            last_by_unicast: false,
            orders: Box::new(move |receiver, order| _ = director.direct(receiver, order)),
            cache_bytes: CACHE_BYTES,
            cores: Cores::new(None, 1),
            once: Some(args.receivers),
            priorities: Priorities::default(),
        },
        events_out,
    )?;
    say(&format!("{} {}", control.local_addr(), identity.fingerprint()))?;
    let (tally, report_interval_us) = supervise(&engine, &control)?;
    let totals = engine.progress().totals;
    say(&serde_json::json!({
        "completed": tally.completed, "failed": tally.failed, "lost": tally.lost,
        "symbols_sent": totals.symbols_sent, "symbols_needed": totals.symbols_needed,
        "report_interval_us": report_interval_us,
    })
    .to_string())?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    control.stop();
    Ok(())
}

/// Passes the report interval on, as `discus serve` does, until the run ends. Returns the longest one too.
fn supervise(engine: &Engine, control: &ControlServer) -> Result<(Tally, u32)> {
    let mut longest_us = REPORT_INTERVAL_US;
    let began = Instant::now();
    while began.elapsed() < RUN_LIMIT {
        match engine.wait(Duration::from_millis(100)) {
            Some(Ended::Served(tally)) => return Ok((tally, longest_us)),
            Some(Ended::Failed(error)) => return Err(error.into()),
            Some(Ended::Stopped) => bail!("the sending threads ended by themselves"),
            None => {}
        }
        let wanted_us = u32::try_from(engine.progress().report_interval_us).unwrap_or(u32::MAX);
        longest_us = longest_us.max(wanted_us);
        control.set_report_interval_us(wanted_us.max(REPORT_INTERVAL_US));
    }
    bail!("not over after {} s", RUN_LIMIT.as_secs())
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush().context("telling the load generator")
}
