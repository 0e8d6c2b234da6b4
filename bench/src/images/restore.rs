//! `discus restore` of uncompressed chunks beside plain sequential writing with O_DIRECT, to the same disk, in turns.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::lab::Programs;
use crate::lab::content::{Part, write_image};
use crate::leavings::succeed;
use crate::provenance::median;

const MEBIBYTES: u64 = 2048;

/// Seconds of each turn.
#[derive(Debug, serde::Serialize)]
pub(super) struct Comparison {
    bytes: u64,
    restore_seconds: Vec<f64>,
    plain_seconds: Vec<f64>,
}

/// Both end with fsync. The pack is in the page cache, the data of plain writing is in memory.
pub(super) fn compare(programs: &Programs, scratch: &Path, turns: usize) -> Result<Comparison> {
    let (source, pack, target) = (scratch.join("noise"), scratch.join("noise.pack"), scratch.join("target"));
    write_image(&source, &[Part::Noise { seed: 3, bytes: MEBIBYTES << 20 }])?;
    let mut command = Command::new(&programs.discus);
    command.args(["pack", "--codec", "none", "--output"]).arg(&pack).arg(format!("noise={}", source.display()));
    succeed(&mut command)?;
    let mut comparison = Comparison { bytes: MEBIBYTES << 20, restore_seconds: Vec::new(), plain_seconds: Vec::new() };
    for turn in 1..=turns {
        rustix::fs::sync();
        // Into the page cache, so that both only write.
        std::io::copy(&mut fs::File::open(&pack)?, &mut std::io::sink())?;
        let mut restore = Command::new(&programs.discus);
        restore.args(["restore", "noise", "--pack"]).arg(&pack).arg("--output").arg(&target);
        let restored = timed(&mut restore)?;
        fs::remove_file(&target)?;
        rustix::fs::sync();
        let mut plain = Command::new("dd");
        plain.arg("if=/dev/zero").arg(format!("of={}", target.display()));
        plain.args(["bs=1M", "oflag=direct", "conv=fsync", "status=none", &format!("count={MEBIBYTES}")]);
        let written = timed(&mut plain)?;
        fs::remove_file(&target)?;
        eprintln!("restore {turn}/{turns}: {restored:.2} s; dd with O_DIRECT: {written:.2} s");
        comparison.restore_seconds.push(restored);
        comparison.plain_seconds.push(written);
    }
    Ok(comparison)
}

fn timed(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    succeed(command)?;
    Ok(start.elapsed().as_secs_f64())
}

impl Comparison {
    pub(super) fn markdown(&self) -> String {
        let rate = |seconds: &[f64]| self.bytes as f64 / 1e9 / median(seconds.iter().copied());
        let (restore, plain) = (rate(&self.restore_seconds), rate(&self.plain_seconds));
        format!(
            "\n`discus restore` of {} MiB of incompressible data onto a file: {restore:.2} GB/s; `dd bs=1M oflag=direct conv=fsync` of as much: {plain:.2} GB/s; ratio {:.2} (medians of {} turns each, in turn; fsync included)\n",
            self.bytes >> 20,
            restore / plain,
            self.plain_seconds.len(),
        )
    }
}
