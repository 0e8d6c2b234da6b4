//! What a disk takes and gives with io_uring and O_DIRECT, measured by fio (its own file, removed at the end).

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::leavings::succeed;
use crate::scratch::Scratch;

/// One figure.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Rate {
    pub(super) direction: &'static str,
    pub(super) block_bytes: u64,
    pub(super) depth: u32,
    pub(super) gigabytes_per_second: f64,
}

/// Block sizes and depths: those of single pages, of chunks, and of many chunks.
const POINTS: [(u64, u32); 6] = [(4 << 10, 1), (4 << 10, 32), (256 << 10, 1), (256 << 10, 8), (256 << 10, 32), (1 << 20, 8)];

/// Measures writing and reading a file of `mebibytes` in `directory`, at most `seconds` for each point.
pub(super) fn measure(directory: &Path, mebibytes: u64, seconds: u64) -> Result<Vec<Rate>> {
    let scratch = Scratch::new(directory)?;
    let file = &scratch.path.join("fio");
    let mut rates = Vec::new();
    // Written once before, so that no point pays for the allocation of blocks.
    fio(file, mebibytes, 0, "write", 1 << 20, 8)?;
    for (direction, operation) in [("write", "write"), ("read", "read")] {
        for (block_bytes, depth) in POINTS {
            let bytes_per_second = fio(file, mebibytes, seconds, operation, block_bytes, depth)?;
            rates.push(Rate { direction, block_bytes, depth, gigabytes_per_second: bytes_per_second / 1e9 });
        }
    }
    Ok(rates)
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    read: Side,
    write: Side,
}

#[derive(Deserialize)]
struct Side {
    bw_bytes: f64,
}

fn fio(file: &Path, mebibytes: u64, seconds: u64, operation: &str, block_bytes: u64, depth: u32) -> Result<f64> {
    let mut command = Command::new("fio");
    command.args(["--name=limits", "--ioengine=io_uring", "--direct=1", "--output-format=json", "--end_fsync=1", "--randrepeat=0"]);
    command.arg(format!("--filename={}", file.display())).arg(format!("--size={mebibytes}M")).arg(format!("--rw={operation}"));
    command.arg(format!("--bs={block_bytes}")).arg(format!("--iodepth={depth}"));
    if seconds > 0 {
        command.args(["--time_based", &format!("--runtime={seconds}")]);
    }
    let output = succeed(&mut command)?;
    // Warnings may stand before the object.
    let text = String::from_utf8_lossy(&output);
    let json = text.find('{').map_or("", |at| &text[at..]);
    let output: Output = serde_json::from_str(json).context("reading what fio printed")?;
    let job = output.jobs.first().context("fio reported no job")?;
    Ok(if operation == "read" { job.read.bw_bytes } else { job.write.bw_bytes })
}
