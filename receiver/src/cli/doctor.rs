//! `discus-receive doctor`: what stands between this machine and a good transfer, and what arrives of a sender's probes.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use receiver::control::{ConnectOptions, ControlError, Fingerprint, Seen, ServerAddress, Trust};
use receiver::doctor::{control_findings, examine, look_until, watch};
use receiver::intake::{IntakeMode, XdpMode};
use receiver::interface::Interface;
use wire::doctor::{Finding, Listening, parse_group};

use super::signals::Signals;

/// Where `discus serve` and `discus doctor` send unless they are told otherwise.
const GROUP_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 192, 68, 1)), 4700);

/// The first argument that asks for it.
pub(crate) const NAME: &str = "doctor";

/// Look for what would make a transfer to this machine fail or slow.
///
/// Each line is ok, warn or FAIL, and says what to do. With --listen, start it first, then `discus doctor --probe` on the sender: it says whether
/// multicast arrives, in packets of which size, and up to which rate none is lost. With --server it says whether the sender is reached over TCP and is the one
/// that is meant: `discus serve`, or a `discus doctor --probe` that runs meanwhile. Nothing is written but, where --target is given, a file without a
/// name for at most 0.3 s.
#[derive(Parser)]
#[command(name = "discus-receive doctor", bin_name = "discus-receive doctor", version)]
#[command(after_help = "Exit codes: 0 all is well; 20 the worst line is a warning; 21 something fails; 2 wrong usage")]
struct DoctorOptions {
    /// The interface on which the multicast arrives.
    #[arg(long, value_name = "IF")]
    interface: String,
    /// Where an image is to go: its disk's rate is measured.
    #[arg(long, value_name = "DEVICE|FILE|DIR")]
    target: Option<PathBuf>,
    /// Wait for probes for at most so many seconds.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    listen: Option<u64>,
    /// The sender's control address: is it reached, and with the right fingerprint?
    #[arg(long, value_name = "HOST[:PORT]")]
    server: Option<ServerAddress>,
    /// The fingerprint that the sender prints at its start, of discus serve or discus doctor --probe.
    #[arg(long, value_name = "sha256:HEX", requires = "server")]
    server_fingerprint: Option<Fingerprint>,
    /// Ask discus serve for this image: is it served, in which groups (which are joined then), in packets that fit the interface? This machine
    /// stands on the sender's list for that moment.
    #[arg(long, value_name = "NAME", requires = "server", default_value = "", hide_default_value = true)]
    image: String,
    /// The group that the sender uses [default: those that discus serve says for --image, else 239.192.68.1:4700].
    #[arg(long, value_name = "GROUP:PORT", value_parser = parse_group)]
    group: Option<SocketAddr>,
    /// How packets come in.
    #[arg(long, value_enum, default_value_t)]
    intake: IntakeMode,
    /// Where the filter runs.
    #[arg(long, value_enum, default_value_t)]
    xdp: XdpMode,
    /// Listen for queries for memberships for so many seconds at least.
    #[arg(long, value_name = "S", default_value_t = 5)]
    querier: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run() -> ExitCode {
    let arguments = std::env::args_os().take(1).chain(std::env::args_os().skip(2));
    let options = parse(arguments);
    match look(&options) {
        Ok(findings) => {
            if options.json {
                match serde_json::to_string_pretty(&findings) {
                    Ok(json) => println!("{json}"),
                    Err(error) => eprintln!("error: {error}"),
                }
            }
            ExitCode::from(Finding::worst(&findings).exit_code())
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(crate::exit::NETWORK)
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> DoctorOptions {
    DoctorOptions::parse_from(arguments)
}

fn look(options: &DoctorOptions) -> anyhow::Result<Vec<Finding>> {
    let stop = Signals::handle()?.stop_flag();
    let show = |finding: &Finding| {
        if !options.json {
            println!("{finding}");
        }
    };
    let connect = connect_options(options);
    let interface = Interface::find(&options.interface).ok();
    let mut seen = connect.as_ref().map(receiver::control::look);
    let groups = groups(options, seen.as_ref());
    let listening = interface.as_ref().map(|found| Listening::begin(&options.interface, found.index(), groups[0].ip()));
    let mut examined = examine(&options.interface, &groups, options.intake, options.xdp, options.target.as_deref());
    examined.findings.iter().for_each(show);
    let mut findings = examined.findings;
    let mut add = |finding: Finding| {
        show(&finding);
        findings.push(finding);
    };
    if let (Some(seconds), Some(opened)) = (options.listen, &mut examined.opened) {
        eprintln!("listening for probes; on the sender: discus doctor --probe --interface IF --rate RATE");
        let (limit, stopped) = (Duration::from_secs(seconds), || stop.load(Ordering::Relaxed));
        // Who is not there yet may be a doctor that comes with the probes.
        let later = connect.as_ref().filter(|_| matches!(seen, Some(Err(ControlError::Unreachable { .. }))));
        let watched = AtomicBool::new(false);
        let arrivals = std::thread::scope(|scope| {
            let looking = later.map(|connect| scope.spawn(|| look_until(connect, limit, || watched.load(Ordering::Relaxed) || stopped())));
            let arrivals = watch(opened, limit, stopped);
            watched.store(true, Ordering::Relaxed);
            if let Some(Ok(outcome)) = looking.map(|looking| looking.join()) {
                seen = Some(outcome);
            }
            arrivals
        })?;
        arrivals.findings(seconds).into_iter().for_each(&mut add);
    }
    if let (Some(connect), Some(seen)) = (&connect, &seen) {
        let mtu_bytes = interface.as_ref().and_then(|found| found.mtu_bytes().ok());
        control_findings(connect, seen, mtu_bytes).into_iter().for_each(&mut add);
    }
    match listening {
        Some(Ok(listening)) => add(listening.end(Duration::from_secs(options.querier))),
        Some(Err(error)) => add(Finding::warn("querier", format!("cannot listen for queries: {error}"), "run it as root")),
        None => {}
    }
    Ok(findings)
}

/// As an installation would connect.
fn connect_options(options: &DoctorOptions) -> Option<ConnectOptions> {
    Some(ConnectOptions {
        server: options.server.clone()?,
        trust: options.server_fingerprint.map_or(Trust::AnyServer, Trust::Pin),
        name: crate::host_name(),
        group: String::new(),
        image: options.image.clone(),
        interface_index: None,
        give_up_after: Duration::ZERO,
    })
}

/// Those to join: at least one.
fn groups(options: &DoctorOptions, seen: Option<&Result<Seen, ControlError>>) -> Vec<SocketAddr> {
    let enrolled = seen.and_then(|seen| seen.as_ref().ok()?.enrolled.as_ref()?.as_ref().ok());
    match (options.group, enrolled) {
        (Some(group), _) => vec![group],
        // An answer without a stream has not been taken.
        (None, Some(enrolled)) => enrolled.streams.iter().map(|stream| stream.group).collect(),
        (None, None) => vec![GROUP_DEFAULT],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        DoctorOptions::command().debug_assert();
        let options = parse(["discus-receive", "--interface", "eth1", "--listen", "9"].map(OsString::from).into_iter());
        assert_eq!((options.listen, options.querier), (Some(9), 5));
        // It stands for itself in its help, so that what is shown there can be typed.
        let usage = DoctorOptions::command().render_usage().to_string();
        assert!(usage.contains("discus-receive doctor [OPTIONS]"), "{usage}");
        assert!(DoctorOptions::try_parse_from(["discus-receive", "--interface", "eth1", "--group", "10.0.0.1:4700"]).is_err());
    }
}
