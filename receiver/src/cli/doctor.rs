//! `discus-receive doctor`: what stands between this machine and a good transfer, and what arrives of a sender's probes.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use receiver::doctor::{examine, watch};
use receiver::intake::{IntakeMode, XdpMode};
use receiver::interface::Interface;
use wire::doctor::{Finding, Listening};

use super::signals::Signals;

/// The first argument that asks for it.
pub(crate) const NAME: &str = "doctor";

/// Look for what would make a transfer to this machine fail or slow.
///
/// Each line is ok, warn or FAIL, and says what to do. With --listen, start it first, then `discus doctor --probe` on the sender: it says whether
/// multicast arrives, in packets of which size, and up to which rate none is lost. Nothing is written but, where --target is given, a file without a
/// name for at most 0.3 s.
#[derive(Parser)]
#[command(name = "discus-receive doctor", version)]
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
    /// The group that the sender uses.
    #[arg(long, value_name = "GROUP:PORT", default_value = "239.192.68.1:4700")]
    group: SocketAddr,
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
    anyhow::ensure!(options.group.ip().is_multicast(), "{} is not a multicast group", options.group.ip());
    let stop = Signals::handle()?.stop_flag();
    let show = |finding: &Finding| {
        if !options.json {
            println!("{finding}");
        }
    };
    let listening =
        Interface::find(&options.interface).ok().map(|found| Listening::begin(&options.interface, found.index(), options.group.ip()));
    let mut examined = examine(&options.interface, options.group, options.intake, options.xdp, options.target.as_deref());
    examined.findings.iter().for_each(show);
    let mut findings = examined.findings;
    let mut add = |finding: Finding| {
        show(&finding);
        findings.push(finding);
    };
    if let (Some(seconds), Some(opened)) = (options.listen, &mut examined.opened) {
        eprintln!("listening for probes; on the sender: discus doctor --probe --interface IF --rate RATE");
        let arrivals = watch(opened, Duration::from_secs(seconds), || stop.load(Ordering::Relaxed))?;
        arrivals.findings(seconds).into_iter().for_each(&mut add);
    }
    match listening {
        Some(Ok(listening)) => add(listening.end(Duration::from_secs(options.querier))),
        Some(Err(error)) => add(Finding::warn("querier", format!("cannot listen for queries: {error}"), "run it as root")),
        None => {}
    }
    Ok(findings)
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
    }
}
