//! `discus restore`: re-creates an image from a pack without a network.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use image::Pack;
use image::restore::{TargetOptions, restore};
use indicatif::BinaryBytes;

use super::progress;

/// Re-create an image from a pack in a file, on a block device, or a tree in a directory.
#[derive(Args)]
#[command(after_help = super::exit::HELP)]
pub(crate) struct RestoreArgs {
    /// The image's name.
    image: String,
    /// The pack.
    #[arg(long)]
    pack: PathBuf,
    /// The file, block device or directory to write. A device that is in use is always refused.
    #[arg(short, long, value_name = "TARGET")]
    output: PathBuf,
    /// Replace an existing file, or restore into a directory that is not empty, replacing files of the same name.
    #[arg(long)]
    force: bool,
    /// Print the result as JSON, and no progress.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let pack = Pack::open(&args.pack)?;
    let image = pack.image_index(&args.image)?;
    let started = Instant::now();
    let options = TargetOptions { force: args.force, ..TargetOptions::default() };
    let report = progress::show(args.json, |progress| restore(&pack, image, &args.output, &options, progress));
    let report = report.with_context(|| format!("restoring {} to {}", args.image, args.output.display()))?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        let report = serde_json::json!({
            "image": args.image,
            "target": args.output.display().to_string(),
            "data_bytes": report.data_bytes,
            "logical_bytes": report.logical_bytes,
            "stored_bytes": report.stored_bytes,
            "seconds": seconds,
            "notes": report.notes,
        });
        println!("{report}");
    } else {
        for note in &report.notes {
            eprintln!("note: {note}");
        }
        let (data, logical) = (BinaryBytes(report.data_bytes), BinaryBytes(report.logical_bytes));
        let rate = BinaryBytes((report.data_bytes as f64 / seconds) as u64);
        println!("{} restored to {}: {data} of data in {logical}, {seconds:.1} s, {rate}/s", args.image, args.output.display());
    }
    Ok(ExitCode::SUCCESS)
}
