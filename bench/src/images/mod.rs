//! `discus pack` beside other ways to store the same disk images: time, stored bytes, memory; and `discus restore` beside plain O_DIRECT writing.
//!
//! All images are read into the page cache first, so that what is compared is the work and not the disk. Every contestant runs as its users run
//! it, on as many cores as it takes by itself. Memory is the sum of the peak resident sizes of the programs of a pipeline.

mod contestants;
mod restore;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::lab::Programs;
use crate::provenance::{Provenance, install_peers, median};
use crate::report::{Page, ReportArgs};
use crate::scratch::Scratch;
use contestants::Contestant;

/// Arguments of `discus-bench images`.
#[derive(Args, Clone, Debug)]
pub struct ImagesArgs {
    /// The disk images, such as scripts/role-images makes
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// How often each contestant stores them; the median of the times counts
    #[arg(long, value_name = "N", default_value_t = 1)]
    repetitions: usize,
    /// Contestants, in the order of their turns
    #[arg(long, value_delimiter = ',', default_values_t = Contestant::ALL)]
    only: Vec<Contestant>,
    /// Turns of `discus restore` and of plain writing of 2 GiB; 0 leaves that comparison out
    #[arg(long, value_name = "N", default_value_t = 3)]
    restores: usize,
    /// Directory on the disk that is written to
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    #[command(flatten)]
    report: ReportArgs,
}

#[derive(Debug, serde::Serialize)]
struct Report {
    #[serde(flatten)]
    provenance: Provenance,
    /// Sizes of the images, and what of them is not a hole in the file.
    logical_bytes: u64,
    allocated_bytes: u64,
    images: usize,
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore: Option<restore::Comparison>,
}

#[derive(Debug, serde::Serialize)]
struct Row {
    contestant: Contestant,
    seconds: Vec<f64>,
    stored_bytes: u64,
    peak_memory_bytes: u64,
}

/// Runs the comparison and prints it.
///
/// # Errors
/// When a contestant cannot be installed or fails.
pub fn run(args: &ImagesArgs) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "partclone reads through loop devices: run this as root");
    ensure!(args.repetitions > 0, "nothing to compare");
    let programs = Programs::built()?;
    install_peers(&["casync", "partclone.ext4", "qemu-img", "zstd", "/usr/bin/time"])?;
    let scratch = Scratch::new(&args.directory)?;
    let mut allocated_bytes = 0;
    let mut logical_bytes = 0;
    let images = args.images.iter().map(|path| path.canonicalize().with_context(|| format!("finding {}", path.display())));
    let images = images.collect::<Result<Vec<_>>>()?;
    for image in &images {
        // Into the page cache.
        std::io::copy(&mut fs::File::open(image)?, &mut std::io::sink())?;
        let metadata = fs::metadata(image)?;
        logical_bytes += metadata.len();
        allocated_bytes += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    }
    let mut report = Report {
        provenance: Provenance::of_this_run(),
        logical_bytes,
        allocated_bytes,
        images: images.len(),
        rows: Vec::new(),
        restore: None,
    };
    for repetition in 1..=args.repetitions {
        for &contestant in &args.only {
            let output = scratch.path.join("output");
            fs::create_dir(&output)?;
            rustix::fs::sync();
            let start = Instant::now();
            let peak_memory_bytes = contestant.store(&programs, &images, &output, &scratch.path)?;
            let seconds = start.elapsed().as_secs_f64();
            let stored_bytes = bytes_under(&output)?;
            fs::remove_dir_all(&output)?;
            eprintln!("{contestant} {repetition}/{}: {seconds:.1} s, {} MiB", args.repetitions, stored_bytes >> 20);
            match report.rows.iter_mut().find(|row| row.contestant == contestant) {
                Some(row) => {
                    row.seconds.push(seconds);
                    row.peak_memory_bytes = row.peak_memory_bytes.max(peak_memory_bytes);
                }
                None => report.rows.push(Row { contestant, seconds: vec![seconds], stored_bytes, peak_memory_bytes }),
            }
        }
    }
    if args.restores > 0 {
        report.restore = Some(restore::compare(&programs, &scratch.path, args.restores)?);
    }
    let (title, text) = ("Storing disk images", report.markdown());
    args.report.publish(&Page { name: "images", title, figures: &report, provenance: &report.provenance, text: &text, plots: Vec::new() })
}

impl Report {
    fn markdown(&self) -> String {
        let mut text = format!(
            "{} disk images of {} MiB together, {} MiB of them allocated in their files; all in the page cache.\n\n",
            self.images,
            self.logical_bytes >> 20,
            self.allocated_bytes >> 20,
        );
        text += "| | s | to the first row | stored, MiB | to the first row | peak memory, MiB | run as |\n| --- | --- | --- | --- | --- | --- | --- |\n";
        let first = self.rows.first();
        for row in &self.rows {
            let seconds = |row: &Row| median(row.seconds.iter().copied());
            text += &format!(
                "| {} | {:.1} | {:.2} | {} | {:.2} | {} | {} |\n",
                row.contestant,
                seconds(row),
                first.map_or(0.0, |first| seconds(row) / seconds(first)),
                row.stored_bytes >> 20,
                first.map_or(0.0, |first| row.stored_bytes as f64 / first.stored_bytes as f64),
                row.peak_memory_bytes >> 20,
                row.contestant.command(),
            );
        }
        if let Some(restore) = &self.restore {
            text += &restore.markdown();
        }
        text
    }
}

/// Bytes that the files under a directory take on the disk.
fn bytes_under(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let metadata = entry.as_ref().map_or_else(|_| bail!("reading {}", directory.display()), |entry| Ok(entry.metadata()?))?;
            if metadata.is_dir() {
                directories.push(entry?.path());
            } else {
                bytes += metadata.len();
            }
        }
    }
    Ok(bytes)
}
