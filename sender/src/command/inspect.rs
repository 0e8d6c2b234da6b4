//! `discus inspect`: shows what is in a pack.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use image::Pack;

use super::pack_report::PackReport;

/// Show the images of a pack, what they share, and what one combined pass saves.
#[derive(Args)]
#[command(after_help = super::exit::HELP)]
pub(crate) struct InspectArgs {
    /// The pack.
    pack: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    PackReport::of(&Pack::open(&args.pack)?)?.print(args.json)?;
    Ok(ExitCode::SUCCESS)
}
