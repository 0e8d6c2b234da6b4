//! `discus doctor`: what stands between this machine and a good transfer, and a stream of probes for receivers' doctors.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use sender::doctor::{ControlPort, Serving, examine, not_probed, probe, probed, reached_at};
use sender::interface::Interface;
use sender::transmit::Choice;
use wire::doctor::{Finding, Listening, parse_group};

use super::rate::Rate;
use super::remote::{self, CONTROL_PORT, Remote};

/// Look for what would make transfers fail or slow; with --probe also send what receivers' doctors measure.
///
/// Each line is ok, warn or FAIL, and says what to do. Start `discus-receive doctor` on the receivers first: these then see whether multicast arrives,
/// in packets of which size, and up to which rate none is lost. While it probes it can also be asked, over TLS, whether it is the sender that receivers are
/// told to expect: it prints its fingerprint for their --server-fingerprint, and at the end who has asked. Where discus serve runs already it is asked how
/// its packets leave, and nothing is probed while it has receivers on its list.
#[derive(Args)]
#[command(after_help = "Exit codes: 0 all is well; 20 the worst line is a warning; 21 something fails; 2 wrong usage")]
pub(crate) struct DoctorArgs {
    /// The interface that images are sent over.
    #[arg(short, long, value_name = "IF")]
    interface: String,
    /// Send probes to the group, up to --rate: takes about as much of the network as a transfer, for some seconds.
    #[arg(long)]
    probe: bool,
    /// The highest rate of probes: bits a second on the wire such as 10G.
    #[arg(long, default_value = "1G", requires = "probe")]
    rate: Rate,
    /// How often to go through all rates.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000), requires = "probe")]
    rounds: u32,
    /// The group, as for serve.
    #[arg(long, value_name = "GROUP:PORT", default_value = "239.192.68.1:4700", value_parser = parse_group)]
    group: SocketAddr,
    /// TTL or hop limit: how many routers packets may pass, and one.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    ttl: u8,
    /// Where receivers' doctors ask for this sender, and this doctor for a running one, as discus serve --listen [default: port 4700 of every address].
    #[arg(long, value_name = "ADDR:PORT")]
    control: Option<SocketAddr>,
    /// Where discus serve keeps the sender's certificate (with --probe it is made when there is none) and the operator's token, by which a running one
    /// is asked. [default: /var/lib/discus for root, else under $XDG_STATE_HOME]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How packets leave, as for serve.
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    transmit: Choice,
    /// Listen for so many seconds for queries for memberships, at least.
    #[arg(long, value_name = "S", default_value_t = 5)]
    listen: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a sender on this machine says of itself, if one runs that can be asked.
fn serving(state_dir: Option<&Path>, listen: SocketAddr) -> Option<Serving> {
    let status = Remote::here(state_dir, reached_at(listen)).ok()?.ask(Method::GET, "/status", None).ok()?;
    let text = |name| Some(status["traffic"]["transmit"][name].as_str()?.to_owned());
    let listed = status["receivers"].as_array()?.iter().filter(|receiver| receiver["state"] == "listed").count();
    Some(Serving { transmit: (text("mode")?, text("description")?), listed })
}

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let address = args.control.unwrap_or_else(|| (Ipv6Addr::UNSPECIFIED, CONTROL_PORT).into());
    let serving = serving(args.state_dir.as_deref(), address);
    let show = |finding: &Finding| {
        if !args.json {
            println!("{finding}");
        }
    };
    let listening = Interface::find(&args.interface).ok().map(|found| Listening::begin(&args.interface, found.index, args.group.ip()));
    let mut examined = examine(&args.interface, args.group, args.ttl, args.transmit, serving.as_ref());
    examined.findings.iter().for_each(show);
    let mut findings = examined.findings;
    let mut add = |finding: Finding| {
        show(&finding);
        findings.push(finding);
    };
    if let (true, Some(ready)) = (args.probe, &mut examined.ready) {
        let control = ControlPort::open(&remote::state_dir(args.state_dir.as_deref())?, address);
        if let Ok(control) = &control {
            eprintln!("receivers' doctors may ask for this sender: --server-fingerprint {}", control.fingerprint());
        }
        let stop = AtomicBool::new(false);
        add(match serving {
            Some(Serving { listed: listed @ 1.., .. }) => not_probed(listed),
            _ => match probe(ready, args.rate.bits_per_second, args.rounds, &stop) {
                Ok(sent) => probed(&sent),
                Err(error) => Finding::fail("probes", error.to_string(), "see the lines above"),
            },
        });
        add(control.map_or_else(|finding| finding, ControlPort::end));
    }
    match listening {
        Some(Ok(listening)) => add(listening.end(Duration::from_secs(args.listen))),
        Some(Err(error)) => add(Finding::warn("querier", format!("cannot listen for queries: {error}"), "run it as root")),
        None => {}
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    }
    Ok(ExitCode::from(Finding::worst(&findings).exit_code()))
}
