//! How discus shares a link that is too narrow with another session of its own and with TCP, measured: real programs in network namespaces, all
//! through one queue that drops what does not fit.

mod stage;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::provenance::Provenance;
use crate::report::{Page, ReportArgs};
use stage::Stage;

/// Arguments of `discus-bench sharing`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "A discus sender and its receiver have 10 Gbit/s between them but for one link, made by tc's tbf. Needs root, iproute2 with tc.\n\
    Shares are of what the link carries, as the receivers' ports of the bridge count it (TCP: by its payload), in parts of a fair share."
)]
pub struct SharingArgs {
    /// Who else uses the link
    #[arg(long, value_enum, default_value = "session")]
    with: Other,
    /// TCP flows, with `--with tcp`
    #[arg(long, value_name = "N", default_value_t = 1)]
    flows: usize,
    /// Congestion control of the TCP flows, one that the kernel has
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    congestion: String,
    /// What the link carries, in Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 1000)]
    link: u64,
    /// Packets of 1514 bytes that wait before the link at most
    #[arg(long, value_name = "PACKETS", default_value_t = 300)]
    queue: u64,
    /// Time that shares are measured over
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Time from when all have started until then
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    settle: u64,
    /// Size of the image in MiB: it has to last
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    size: u64,
    /// Directory on the disk that is read from and written to
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// Who shares the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Other {
    /// Nobody.
    Nobody,
    /// A second discus sender with its own receiver.
    Session,
    /// TCP flows that send all the time.
    Tcp,
}

/// What came of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Sharing {
    #[serde(flatten)]
    provenance: Provenance,
    /// The link.
    pub link_bits_per_second: u64,
    /// Its queue.
    pub queue_packets: u64,
    /// Over how long.
    pub seconds: f64,
    /// Everybody's rate.
    pub parties: Vec<Party>,
    /// What all together had of the link.
    pub used: f64,
}

/// One that sends through the link.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Party {
    /// Who.
    pub name: String,
    /// Its rate.
    pub bits_per_second: f64,
    /// In parts of a fair share.
    pub of_fair_share: f64,
}

/// Measures and prints.
///
/// # Errors
/// Those of [`measure`], and when the result cannot be printed or appended.
pub fn run(args: &SharingArgs) -> Result<()> {
    let sharing = measure(args)?;
    let name = match args.with {
        Other::Nobody => "sharing-with-nobody".to_owned(),
        Other::Session => format!("sharing-{}m-with-a-session", args.link),
        Other::Tcp => format!("sharing-{}m-with-{}-tcp", args.link, args.flows),
    };
    let (title, text) = ("Sharing a link", sharing.markdown());
    let page = Page { name: &name, title, figures: &sharing, provenance: &sharing.provenance, text: &text, plots: Vec::new() };
    args.report.publish(&page)
}

/// Lets them share the link.
///
/// # Errors
/// When the network cannot be made, a program fails, or the image is delivered before the time is over.
pub fn measure(args: &SharingArgs) -> Result<Sharing> {
    if let Some(reason) = crate::lab::unavailable() {
        bail!("{reason}");
    }
    ensure!(args.link > 0 && args.queue > 0 && args.seconds > 0 && args.size > 0, "a link, a queue, a time and a size are needed");
    let mut stage = Stage::set(args.link, args.queue, args.size, &args.directory)?;
    stage.start_session(0)?;
    match args.with {
        Other::Nobody => {}
        Other::Session => stage.start_session(1)?,
        Other::Tcp => stage.start_tcp(args.flows, &args.congestion)?,
    }
    thread::sleep(Duration::from_secs(args.settle));
    let (started, before) = (Instant::now(), stage.bytes()?);
    thread::sleep(Duration::from_secs(args.seconds));
    let (seconds, after) = (started.elapsed().as_secs_f64(), stage.bytes()?);
    stage.ensure_all_run()?;
    let link_bits_per_second = args.link * 1_000_000;
    let fair = link_bits_per_second as f64 / after.len() as f64;
    let party = |((name, before), (_, after)): ((String, u64), (String, u64))| {
        let bits_per_second = after.saturating_sub(before) as f64 * 8.0 / seconds;
        Party { name, bits_per_second, of_fair_share: bits_per_second / fair }
    };
    let parties: Vec<Party> = before.into_iter().zip(after).map(party).collect();
    let used = parties.iter().map(|party| party.bits_per_second).sum::<f64>() / link_bits_per_second as f64;
    Ok(Sharing { provenance: Provenance::of_this_run(), link_bits_per_second, queue_packets: args.queue, seconds, parties, used })
}

impl SharingArgs {
    /// For tests: a short measurement with these.
    pub fn short(with: Other, flows: usize) -> SharingArgs {
        let congestion = "cubic".to_owned();
        SharingArgs {
            with,
            flows,
            congestion,
            link: 300,
            queue: 200,
            seconds: 4,
            settle: 2,
            // 300 Mbit/s for 7 s.
            size: 270,
            directory: "/var/tmp".into(),
            report: ReportArgs::default(),
        }
    }
}

impl Sharing {
    /// The result, as results/ keeps it.
    fn markdown(&self) -> String {
        let mut text = format!(
            "A link of {} Mbit/s with a queue of {} packets (tbf between two bridges), MTU 1500, AF_XDP in copy mode over veth, {:.1} s.\n\n| who | Mbit/s | of a fair share |\n| --- | --- | --- |\n",
            self.link_bits_per_second / 1_000_000,
            self.queue_packets,
            self.seconds
        );
        for party in &self.parties {
            text += &format!("| {} | {:.0} | {:.2} |\n", party.name, party.bits_per_second / 1e6, party.of_fair_share);
        }
        text + &format!("| together | {:.0} | {:.2} of the link |\n", self.used * self.link_bits_per_second as f64 / 1e6, self.used)
    }
}
