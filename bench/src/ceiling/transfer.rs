//! A transfer by the programs that operators run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::lab::content::first_difference;
use crate::lab::{Lab, Process, Programs};
use crate::leavings::succeed;

const START_LIMIT: Duration = Duration::from_secs(30);
const RUN_LIMIT: Duration = Duration::from_secs(180);
/// Above what the link can do.
const RATE: &str = "40G";

/// A delivered image.
pub(super) struct Done {
    /// Of image, from the first packet until the target is whole and flushed.
    pub(super) gigabits_per_second: f64,
    pub(super) symbol_bytes: u16,
}

/// What `discus serve --json` prints, as far as it is asked for here.
#[derive(Deserialize)]
struct Served {
    symbol_bytes: u16,
}

/// What `discus-receive --json` prints.
#[derive(Deserialize)]
struct Received {
    seconds: f64,
    data_bytes: u64,
}

/// Packs `source`, as operators do.
pub(super) fn pack(programs: &Programs, directory: &Path, source: &Path) -> Result<PathBuf> {
    let pack = directory.join("pack");
    let mut packing = Command::new(&programs.discus);
    packing.arg("pack").arg("--output").arg(&pack).arg(format!("source={}", source.display()));
    succeed(&mut packing)?;
    Ok(pack)
}

/// Delivers the pack's image once onto `target`, a device or a file that is not there yet, and compares it with `source`.
pub(super) fn run(lab: &Lab, programs: &Programs, directory: &Path, source: &Path, pack: &Path, target: &Path) -> Result<Done> {
    // What the turn before left to be written must not be written during this one.
    rustix::fs::sync();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (pack, state, interface) = (text(pack), text(&directory.join("state")), &lab.interface);
    let serve = ["serve", "--json", "--pack", &pack, "--interface", interface, "--rate", RATE, "--state-dir", &state, "--once", "1"];
    let mut serving = Process::start("serve", directory, &lab.sender.namespace, &programs.discus, serve)?;
    let fingerprint = serving.wait_for_fingerprint(START_LIMIT)?;
    let (server, target_text) = (format!("{}:4700", lab.sender.ipv4), text(target));
    let receive = ["source", "--json", "--server", &server, "--server-fingerprint", &fingerprint, "--interface", interface];
    let receive = receive.into_iter().chain(["--target", &target_text]);
    let machine = lab.receivers.first().context("the lab has no receiver")?;
    let receiving = Process::start("receive", directory, &machine.namespace, &programs.receive, receive)?;
    let ended = receiving.wait(RUN_LIMIT)?;
    ensure!(ended.code == Some(0), "discus-receive ended with {:?}:\n{}", ended.code, ended.stderr);
    let received: Received = serde_json::from_str(&ended.stdout).context("reading the receiver's summary")?;
    let ended = serving.wait(START_LIMIT)?;
    let served: Served = serde_json::from_str(&ended.stdout).context("reading the sender's summary")?;
    if let Some(offset) = first_difference(source, target, std::fs::metadata(source)?.len())? {
        bail!("the delivered file differs at byte {offset}");
    }
    if target.metadata()?.is_file() {
        std::fs::remove_file(target)?;
    }
    let gigabits_per_second = received.data_bytes as f64 * 8e-9 / received.seconds.max(1e-9);
    Ok(Done { gigabits_per_second, symbol_bytes: served.symbol_bytes })
}
