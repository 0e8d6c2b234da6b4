//! discus beside other ways to bring images to machines: the same images, machines, links and disk, each contestant as its users run it,
//! interleaved repetitions, medians and ranges.
//!
//! Every contestant is timed the same way, by the clock on the wall: from the start of the first program that makes the transfer begin
//! until all machines have their images and these are flushed to the disk. Servers that wait are started before; what is made once and
//! used often (the pack, torrents, compressed files) is made before too. What has to run in several sessions pays for the start of
//! all but the first. Each delivered byte is compared with the original.

mod contestant;
mod multicast;
mod report;
mod scenario;
mod session;
mod stage;
mod unicast;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;

use crate::lab::Programs;
use crate::lab::content::first_difference;
use crate::provenance::Provenance;
use crate::report::{Page, ReportArgs};
use crate::scratch::Scratch;
use contestant::Contestant;
use report::{Comparison, Section};
use scenario::{Scenario, Want};
use stage::{Stage, make_images};

/// A transfer that is slower hangs.
const SLOWEST_BITS_PER_SECOND: u64 = 20_000_000;

/// Arguments of `discus-bench peers`.
#[derive(Args, Clone, Debug)]
pub struct PeersArgs {
    /// Situations to compare in; one after the other
    #[arg(long, value_delimiter = ',', default_value = "one,four,different,loss,late,narrow")]
    scenario: Vec<Scenario>,
    /// Contestants, in the order of their turns
    #[arg(long, value_delimiter = ',', default_value = "discus,udpcast,uftp,aria2,rsync,nc,http")]
    contestants: Vec<Contestant>,
    /// Size of each made-up image in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    size: u64,
    /// Real images instead of made-up incompressible ones; those who can compress on the way, as their users do
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "size")]
    images: Vec<PathBuf>,
    /// How often each contestant delivers in each situation; the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    repetitions: usize,
    /// MTU of all links
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    mtu: u32,
    /// Cap of discus' sender, bits per second on the wire
    #[arg(long, default_value = "10G")]
    rate: String,
    /// Directory on the disk that is read from and written to
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

/// One delivery.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Turn {
    /// Until every machine had its image on the disk.
    pub(crate) seconds: f64,
    /// What left the sender's interface, whole frames without preamble and gap.
    pub(crate) sent_bytes: u64,
}

/// Runs the comparison and prints it.
///
/// # Errors
/// When a contestant cannot be installed, discus fails, does not end in time or delivers something else than it was given, or another one does so every time.
pub fn run(args: &PeersArgs) -> Result<()> {
    if let Some(reason) = crate::lab::unavailable() {
        bail!("{reason}");
    }
    ensure!(args.repetitions > 0 && args.size > 0 && !args.contestants.is_empty(), "nothing to compare");
    let programs = Programs::built()?;
    contestant::install(&args.contestants)?;
    let provenance = Provenance::of_this_run();
    let name = if args.images.is_empty() { "peers" } else { "peers-images" };
    let mut comparison = Comparison::read(&args.report, name, &provenance);
    for &scenario in &args.scenario {
        let section = compare(args, &programs, scenario, &provenance).with_context(|| scenario.title())?;
        comparison.put(section);
        // After each scenario: what has been measured is kept when a later one fails.
        let title = "discus beside other ways to bring images to machines";
        let text = comparison.markdown();
        let plots = vec![(name.to_owned(), comparison.plot().svg())];
        args.report.publish(&Page { name, title, figures: &comparison, provenance: &provenance, text: &text, plots })?;
    }
    Ok(())
}

/// All contestants in one situation.
fn compare(args: &PeersArgs, programs: &Programs, scenario: Scenario, provenance: &Provenance) -> Result<Section> {
    // uftpd takes absolute paths only.
    let directory = fs::canonicalize(&args.directory).with_context(|| format!("finding {}", args.directory.display()))?;
    let scratch = Scratch::new(&directory)?;
    let compressible = !args.images.is_empty();
    let images = if compressible {
        ensure!(args.images.len() >= scenario.images(), "{} needs {} images", scenario.title(), scenario.images());
        args.images[..scenario.images()].iter().map(fs::canonicalize).collect::<std::io::Result<_>>()?
    } else {
        make_images(&scratch.path, scenario.images(), args.size << 20)?
    };
    let image_bytes = images.iter().map(|image| Ok(fs::metadata(image)?.len())).sum::<Result<u64>>()? / images.len().max(1) as u64;
    let stage = Stage::set(scenario, programs, &scratch.path, &args.rate, args.mtu, images, compressible)?;
    stage.prepare(&args.contestants)?;

    let mut section = Section::new(scenario, image_bytes, compressible, args, provenance);
    // By contestant: when the late one comes.
    let mut half = vec![Duration::ZERO; args.contestants.len()];
    if scenario == Scenario::Late {
        for (half, &contestant) in half.iter_mut().zip(&args.contestants) {
            let alone = Want { machine: 0, image: 0, late: false };
            let turn = take_turn(&stage, contestant, &[alone], Duration::ZERO).with_context(|| format!("{contestant}, alone"))?;
            *half = Duration::from_secs_f64(turn.seconds / 2.0);
        }
    }
    for repetition in 1..=args.repetitions {
        for (&contestant, &late_after) in args.contestants.iter().zip(&half) {
            let turn = take_turn(&stage, contestant, &scenario.wants(), late_after);
            let at = format!("{}: {contestant} {repetition}/{}", scenario.title(), args.repetitions);
            match turn {
                Ok(turn) => {
                    eprintln!("{at}: {:.2} s", turn.seconds);
                    section.add(contestant, turn, &args.rate);
                }
                Err(error) if contestant == Contestant::Discus => return Err(error.context(at)),
                // That a transfer fails is a result too.
                Err(error) => {
                    eprintln!("{at}: failed: {error:#}");
                    section.add_failure(contestant);
                    for want in scenario.wants() {
                        let _ = fs::remove_file(contestant.target(&stage, &want));
                    }
                }
            }
        }
    }
    section.check()?;
    Ok(section)
}

fn take_turn(stage: &Stage<'_>, contestant: Contestant, wants: &[Want], late_after: Duration) -> Result<Turn> {
    // What the turn before left to be written must not be written during this one.
    rustix::fs::sync();
    for want in wants {
        if let Some(directory) = contestant.target(stage, want).parent() {
            fs::create_dir_all(directory)?;
        }
    }
    let mut sessions = contestant.sessions(wants).into_iter();
    let first = contestant.begin(stage, &sessions.next().unwrap_or_default())?;
    let sent_before = stage.lab.transmitted(&stage.lab.sender)?.bytes;
    let bytes = stage.images.iter().map(|image| Ok(fs::metadata(image)?.len())).sum::<Result<u64>>()? * wants.len() as u64;
    let began = Instant::now();
    let deadline = began + Duration::from_secs(60 + bytes * 8 / SLOWEST_BITS_PER_SECOND);
    let late_at = began + late_after;
    thread::scope(|scope| -> Result<()> {
        let mut flushes = Vec::new();
        first.run(stage, late_at, deadline, scope, &mut flushes)?;
        for session in sessions {
            contestant.begin(stage, &session)?.run(stage, late_at, deadline, scope, &mut flushes)?;
        }
        for flush in flushes {
            flush.join().map_err(|_| anyhow!("flushing panicked"))??;
        }
        Ok(())
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let sent_bytes = stage.lab.transmitted(&stage.lab.sender)?.bytes.saturating_sub(sent_before);
    for want in wants {
        check(stage, contestant, want)?;
    }
    Ok(Turn { seconds, sent_bytes })
}

/// What was delivered is the image; it is removed.
fn check(stage: &Stage<'_>, contestant: Contestant, want: &Want) -> Result<()> {
    let (source, target) = (stage.delivered_by(contestant, want.image), contestant.target(stage, want));
    let bytes = fs::metadata(&source)?.len();
    ensure!(fs::metadata(&target)?.len() == bytes, "the delivered file has another size");
    if let Some(offset) = first_difference(&source, &target, bytes)? {
        bail!("the delivered file differs at byte {offset}");
    }
    fs::remove_file(&target)?;
    Ok(())
}
