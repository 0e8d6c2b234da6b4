//! `discus verify`: proves a pack whole.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use image::Pack;
use indicatif::BinaryBytes;

use super::progress;

/// Read a whole pack and check every byte of it against its root.
#[derive(Args)]
#[command(after_help = super::exit::HELP)]
pub(crate) struct VerifyArgs {
    /// The pack.
    pack: PathBuf,
    /// Print the result as JSON, and no progress.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let pack = Pack::open(&args.pack)?;
    let report = progress::show(args.json, |progress| pack.verify(progress))?;
    if args.json {
        let report = serde_json::json!({
            "pack": args.pack.display().to_string(),
            "chunks": report.chunks,
            "stored_bytes": report.stored_bytes,
            "raw_bytes": report.raw_bytes,
            "manifests": report.manifests,
        });
        println!("{report}");
    } else {
        let (stored, raw) = (BinaryBytes(report.stored_bytes), BinaryBytes(report.raw_bytes));
        let (chunks, manifests) = (report.chunks, report.manifests);
        println!("{}: whole; {chunks} chunks ({stored} stored, {raw} raw), {manifests} manifests", args.pack.display());
    }
    Ok(ExitCode::SUCCESS)
}
