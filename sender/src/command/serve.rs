//! `discus serve`: multicasts a pack to receivers.

use std::io::IsTerminal;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use crossbeam_channel::{Receiver, bounded};
use image::Pack;
use sender::control::{
    ControlConfig, ControlError, ControlEvent, ControlServer, Limits, OperatorAccess, OperatorToken, PriorityArgument, ServerIdentity,
    SessionInfo, StreamInfo, Traffic,
};
use sender::engine::{CACHE_BYTES_DEFAULT, Cores, Ended, Engine, EngineConfig, Stream};
use sender::interface::{Interface, InterfaceError};
use sender::schedule::StragglerPolicy;
use sender::transmit::{self, Choice, TransmitConfig};
use wire::StreamId;
use wire::packet::HEADER_BYTES;
use wire::session::{SessionParameters, symbol_bytes_for_mtu};

use super::exit::NetworkUnusable;
use super::rate::Rate;
use super::remote::{self, CONTROL_PORT};
use super::serve_report::{Display, MIB, Outcome, Report, memory_text};
use super::serve_session::{classes, descriptive_stream, groups, images, mtu, session_id, settings};
use super::serve_transmit::Queues;
use super::set::describe;
use super::signals::{self, Signal};

/// Events between the control server and the dispatcher: a report of every one of 4096 receivers and some.
const EVENTS_MAX: usize = 8192;
/// Least time between two reports of a receiver; with many receivers the scheduler asks for more.
const REPORT_INTERVAL_US: u32 = 10_000;
/// How often figures are passed on and signals looked for.
const TICK: Duration = Duration::from_millis(100);
/// The rate never adapts below this, or a hundredth of the cap.
const RATE_FLOOR_BITS_PER_SECOND: u64 = 10_000_000;

const HELP: &str = "\
The rate counts whole Ethernet frames with preamble and gap: `--rate 10G` fills a 10 Gbit/s link and no more.

Exit codes:
  0    every receiver that was listed is complete (with --once)
  1    another failure
  2    wrong usage
  3    the pack cannot be used
  4    the pack is damaged
  6    the system failed a read or another call
  7    the network cannot be used: no such interface, no address on it, port in use
  8    with --once: a receiver failed or was lost, the others are complete
  130  stopped by SIGINT (Ctrl-C); receivers are told
  143  stopped by SIGTERM; receivers are told";

/// Exit code when not every receiver completed.
const EXIT_INCOMPLETE: u8 = 8;

/// Multicast a pack to the receivers that ask for its images, until stopped or until all have theirs.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct ServeArgs {
    /// The pack.
    #[arg(long)]
    pack: PathBuf,
    /// Interface to multicast from.
    #[arg(short, long, value_name = "IF")]
    interface: String,
    /// Never send faster: bits a second such as 5G, 2.5G, 900M. Below it the rate follows what receivers can take.
    #[arg(long, default_value = "1G")]
    rate: Rate,
    /// Serve the receivers of an image, or those of a group, before others: IMAGE=N or group:NAME=N, N from -100 to 100, higher first.
    /// What nothing is said of has 0; a group's priority counts more than an image's. May be given several times, and changed while
    /// running with `discus set`.
    #[arg(long, value_name = "IMAGE=N|group:NAME=N")]
    priority: Vec<PriorityArgument>,
    /// Where receivers connect: address and TCP port. Without it: port 4700 of every address, IPv6 and IPv4.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Multicast group and UDP port, IPv4 or IPv6.
    #[arg(long, value_name = "GROUP:PORT", default_value = "239.192.68.1:4700")]
    group: SocketAddr,
    /// Streams at most: consecutive groups from --group on, same port. How many are used, for what and how fast, follows from what receivers can
    /// restore and from their priorities; receivers join only those that bring them something.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    streams: u8,
    /// What to do about receivers that cannot keep up: `wait` for them; `slow-stream`, where the others get faster streams beside; `unicast`,
    /// where they fetch the rest over their own connections; `drop`. Who is meant can be said: below a rate, as in drop:200M, or above a
    /// loss, as in unicast:10%. Else: a quarter of what the median receiver restores, or a quarter of all packets lost.
    #[arg(long, default_value_t = StragglerPolicy::default(), value_name = "POLICY[:RATE|:PERCENT]")]
    straggler: StragglerPolicy,
    /// How the last symbols that few receivers lack are brought.
    #[arg(long, value_enum, default_value_t = LastSymbols::Auto)]
    last_symbols: LastSymbols,
    /// How manifests are brought to receivers.
    #[arg(long, value_enum, default_value_t = Manifests::Auto)]
    manifests: Manifests,
    /// Hops that packets may take: 1 keeps them on the link.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    ttl: u8,
    /// How to transmit; what does not work here falls back to the next, and the line at start says why.
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    transmit: Choice,
    /// Transmit queues of the card for AF_XDP, such as 0,1: each has a socket, a thread and a core of its own. Streams are dealt to them in turn, so
    /// that several queues help where there are several streams.
    #[arg(long, default_value = "0", value_name = "N,N")]
    queue: Queues,
    /// Drive the card's queues from the transmitters' own cores, rather than be interrupted when they have sent (AF_XDP zero-copy only).
    #[arg(long)]
    busy_poll: bool,
    /// Largest IP packet. [default: the interface's MTU]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<usize>,
    /// Where the server's certificate and key are kept. [default: /var/lib/discus for root, else under $XDG_STATE_HOME]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Let everybody who reaches the control port read status, metrics and settings. Changes need the operator's token in any case.
    #[arg(long)]
    public_status: bool,
    /// Begin when N receivers are listed, and end when all that are listed are complete or have given up.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    once: Option<u32>,
    /// Cores: first one for each queue's transmitter, then one for the reader, such as 2,3 for one queue and 2,3,4 for two. Who is left without runs on
    /// any. [default: with three cores or more beside the transmitters, the last for these and core 1 for the reader]
    #[arg(long, value_delimiter = ',', value_name = "CORES", value_parser = parse_core)]
    cores: Option<Vec<usize>>,
    /// Memory for chunks, in MiB. What is less than the streams need is raised to that, and the line at start says so.
    #[arg(long, value_name = "MIB", default_value_t = CACHE_BYTES_DEFAULT / MIB)]
    memory: usize,
    /// Print the final summary on standard output as one JSON object. Everything else goes to standard error, always.
    #[arg(long)]
    json: bool,
}

/// How manifests are brought to receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Manifests {
    /// By multicast when three or more wait for the same, in the group after those of the streams.
    Auto,
    /// To each over its own connection.
    Unicast,
}

/// How the last symbols that few receivers lack are brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LastSymbols {
    /// These receivers fetch them by unicast, when that puts less on links than multicast to all who listen.
    Auto,
    /// By multicast, always.
    Multicast,
}

pub(crate) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    // Warnings from the threads go between the lines of this program.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    let json = args.json;
    let outcome = serve(&args);
    if let (Err(error), true) = (&outcome, json) {
        println!("{}", serde_json::json!({ "outcome": "failed", "error": super::exit::explain(error) }));
    }
    match outcome {
        Err(error) if is_network(&error) => {
            eprintln!("discus: {}", super::exit::explain(&error));
            Ok(ExitCode::from(super::exit::NETWORK))
        }
        other => other,
    }
}

fn is_network(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<NetworkUnusable>()
            || cause.is::<InterfaceError>()
            || cause.is::<transmit::Error>()
            || matches!(cause.downcast_ref(), Some(ControlError::Listen { .. }))
    })
}

fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    args.queue.check_streams(args.streams)?;
    let mut display = Display::new(args.json);
    let signals = signals::catch()?;

    let groups = groups(args.group, args.streams)?;
    let pack = Arc::new(Pack::open(&args.pack)?);
    let names = pack.images().iter().map(|image| image.name.as_str()).collect::<Vec<_>>().join(", ");
    let stored_bytes: u64 = pack.chunks().iter().map(|chunk| u64::from(chunk.stored_bytes)).sum();
    let stored = indicatif::BinaryBytes(stored_bytes);
    display.line(&format!(
        "pack      {}: {} images ({names}), {} chunks, {stored}",
        args.pack.display(),
        pack.images().len(),
        pack.chunks().len()
    ));

    if let Some(key) = pack.proof().signed_by() {
        display.line(&format!("signed    by {key}"));
    }
    let interface = Interface::find(&args.interface)?;
    let mtu_bytes = mtu(args.mtu, &interface)?;
    let chunk_bytes_max = pack.chunk_pages() * image::PAGE_BYTES as u32;
    let symbol_bytes = symbol_bytes_for_mtu(mtu_bytes, chunk_bytes_max).map_err(|error| NetworkUnusable(error.to_string()))?;

    let settings = settings(args.rate.bits_per_second, &args.priority, &pack)?;
    let state_dir = remote::state_dir(args.state_dir.as_deref())?;
    let identity = ServerIdentity::load_or_create(&state_dir)?;
    let access = OperatorAccess { token: OperatorToken::load_or_create(&state_dir)?, public_status: args.public_status };
    let fingerprint = identity.fingerprint();
    let chunk_count = u32::try_from(pack.chunks().len()).context("the pack has too many chunks")?;
    let session = session_id(&pack.root(), &fingerprint, symbol_bytes);
    let parameters = SessionParameters { session, symbol_bytes, chunk_count, chunk_bytes_max };
    let source = SocketAddr::new(interface.source_for(args.group.ip())?, args.group.port());
    display.line(&format!("session   {:08x}, symbols of {symbol_bytes} bytes at MTU {mtu_bytes}", session.0));

    let transmit_config = TransmitConfig {
        interface,
        queue: 0,
        source,
        groups: groups.clone(),
        hops: args.ttl,
        payload_bytes: HEADER_BYTES + usize::from(symbol_bytes),
        choice: args.transmit,
        busy_poll: args.busy_poll,
    };
    let opened = args.queue.open(&transmit_config)?;
    let descriptive = match args.manifests {
        Manifests::Auto => descriptive_stream(&transmit_config)?,
        Manifests::Unicast => None,
    };
    let way = args.queue.status(&opened);
    display.line(&format!("transmit  {}", way.description));
    let more = if groups.len() > 1 { format!(" and the {} groups after it, as needed", groups.len() - 1) } else { String::new() };
    display.line(&format!("stream    {source} to {}{more}, TTL {}; {}", args.group, args.ttl, describe(&settings)));

    let traffic = Arc::new(Traffic::default());
    // The first and only time.
    let _ = traffic.transmit.set(way.clone());
    let (events, events_out) = bounded::<ControlEvent>(EVENTS_MAX);
    let info = SessionInfo {
        parameters,
        pack_root: pack.root(),
        proof: if pack.proof().signed_by().is_some() { pack.proof_bytes()? } else { Vec::new() },
        chunk_source: Some(Arc::clone(&pack) as Arc<dyn sender::control::ChunkSource>),
        images: images(&pack)?,
        streams: (0..).zip(&groups).map(|(id, &group)| StreamInfo { id: StreamId(id), group, source: source.ip() }).collect(),
        descriptive,
        report_interval_us: REPORT_INTERVAL_US,
    };
    let priorities = settings.priorities.clone();
    let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), CONTROL_PORT);
    let config = ControlConfig { listen: args.listen.unwrap_or(everywhere), limits: Limits::default(), settings, access };
    let control = listen(config, args.listen.is_none(), &identity, info, &traffic, events)?;
    let cores = Cores::new(args.cores.clone(), args.queue.count());
    let threads = cores.description();
    let director = control.director();
    let engine = Engine::start(
        EngineConfig {
            pack: Arc::clone(&pack),
            parameters,
            streams: (0..).zip(&groups).map(|(id, &group)| Stream { id: StreamId(id), group }).collect(),
            classes: classes(&pack),
            stragglers: args.straggler,
            last_by_unicast: args.last_symbols == LastSymbols::Auto,
            orders: Box::new(move |receiver, order| _ = director.direct(receiver, order)),
            transmitters: opened.into_iter().map(|opened| opened.transmit).collect(),
            rate_cap_bits_per_second: args.rate.bits_per_second,
            rate_floor_bits_per_second: RATE_FLOOR_BITS_PER_SECOND.max(args.rate.bits_per_second / 100),
            priorities,
            cache_bytes: args.memory.saturating_mul(MIB),
            cores,
            once: args.once.map(|count| count as usize),
        },
        events_out,
    )?;
    let memory = memory_text(args.memory.saturating_mul(MIB), engine.cache_bytes(), args.streams);
    display.line(&format!("read      {}; {threads}; {memory}", engine.reader_description()));
    display.line(&format!("listen    {} (TLS), certificate {fingerprint}", control.local_addr()));
    let host = if control.local_addr().ip().is_unspecified() { source.ip() } else { control.local_addr().ip() };
    let server = SocketAddr::new(host, control.local_addr().port());
    display.line(&format!(
        "receive   discus-receive IMAGE --server {server} --interface IF --target DEVICE --server-fingerprint {fingerprint}"
    ));
    if let Some(count) = args.once {
        display.line(&format!("waiting   for {count} receiver{}", if count == 1 { "" } else { "s" }));
    }

    let outcome = supervise(&engine, &control, &traffic, &signals, &mut display);
    // First the goodbyes (and the acknowledgement of the last completion), then the packets.
    let (roster, settings, manifests) = (control.roster(), control.settings(), control.manifests());
    if let Outcome::Stopped(_) = outcome {
        display.line("stopping; receivers are told");
    }
    control.stop();
    let report = Report {
        pack: &args.pack,
        stored_bytes,
        parameters,
        mtu_bytes,
        transmit: &way,
        sent_by_transmitter: engine.sent_by_transmitter(),
        settings: &settings,
        progress: engine.progress(),
        sent: engine.sent(),
        manifests,
        receivers: roster.receivers,
        outcome: &outcome,
    };
    drop(engine);
    display.end(&report)?;
    match outcome {
        Outcome::Served(tally) if tally.failed + tally.lost == 0 => Ok(ExitCode::SUCCESS),
        Outcome::Served(_) => Ok(ExitCode::from(EXIT_INCOMPLETE)),
        Outcome::Stopped(signal) => Ok(ExitCode::from(signal.exit_code())),
        Outcome::Failed(error) => {
            eprintln!("discus: {}", super::exit::explain(&error));
            let network = is_network(&error);
            Ok(ExitCode::from(if network { super::exit::NETWORK } else { super::exit::code_of(&error) }))
        }
    }
}

/// Passes figures on until the run ends.
fn supervise(engine: &Engine, control: &ControlServer, traffic: &Traffic, signals: &Receiver<Signal>, display: &mut Display) -> Outcome {
    let mut interval_us = REPORT_INTERVAL_US;
    let began = Instant::now();
    loop {
        let ended = engine.wait(TICK);
        let (progress, sent) = (engine.progress(), engine.sent());
        traffic.symbols_sent.store(progress.totals.symbols_sent, Ordering::Relaxed);
        traffic.symbols_needed.store(progress.totals.symbols_needed, Ordering::Relaxed);
        traffic.syncs_sent.store(progress.totals.syncs_sent, Ordering::Relaxed);
        traffic.wire_bytes_sent.store(sent.frame_bytes, Ordering::Relaxed);
        traffic.rate_bits_per_second.store(progress.rate_bits_per_second, Ordering::Relaxed);
        let wanted_us = u32::try_from(progress.report_interval_us).unwrap_or(u32::MAX).max(REPORT_INTERVAL_US);
        if wanted_us != interval_us {
            interval_us = wanted_us;
            control.set_report_interval_us(interval_us);
        }
        display.progress(began.elapsed(), &progress, sent, engine.is_stalled());
        match ended {
            Some(Ended::Served(tally)) => return Outcome::Served(tally),
            Some(Ended::Failed(error)) => return Outcome::Failed(error.into()),
            Some(Ended::Stopped) => return Outcome::Failed(anyhow::anyhow!("the sending threads ended by themselves")),
            None => {}
        }
        if let Ok(signal) = signals.try_recv() {
            return Outcome::Stopped(signal);
        }
    }
}

/// Reads the number of a core that this program may run on.
fn parse_core(text: &str) -> Result<usize, String> {
    let here: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    let known = text.parse().ok().filter(|core| here.contains(core));
    known.ok_or_else(|| format!("this program may run on {}", here.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")))
}

/// Listens; where that may be anywhere, on IPv4 alone when the machine has no IPv6.
fn listen(
    config: ControlConfig,
    anywhere: bool,
    identity: &ServerIdentity,
    info: SessionInfo,
    traffic: &Arc<Traffic>,
    events: crossbeam_channel::Sender<ControlEvent>,
) -> anyhow::Result<ControlServer> {
    let start = |config| ControlServer::start(config, identity, info.clone(), Arc::clone(traffic), events.clone());
    match start(config.clone()) {
        Err(ControlError::Listen { source, .. })
            if anywhere && (source.raw_os_error() == Some(libc::EAFNOSUPPORT) || source.kind() == std::io::ErrorKind::AddrNotAvailable) =>
        {
            Ok(start(ControlConfig { listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), CONTROL_PORT), ..config })?)
        }
        other => Ok(other?),
    }
}
