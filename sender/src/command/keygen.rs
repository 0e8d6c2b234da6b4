//! `discus keygen`: makes a pair of keys for signing packs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use image::signature::generate_files;

/// Make a pair of keys: NAME.key signs packs and must stay secret, NAME.pub verifies them.
#[derive(Args)]
#[command(after_help = super::exit::HELP)]
pub(crate) struct KeygenArgs {
    /// The files' name without extension. Neither may exist.
    #[arg(short, long, value_name = "NAME")]
    output: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: KeygenArgs) -> anyhow::Result<ExitCode> {
    let (secret, public, key) = generate_files(&args.output)?;
    if args.json {
        let report = serde_json::json!({
            "secret_key": secret.display().to_string(),
            "public_key": public.display().to_string(),
            "key": key.to_string(),
        });
        println!("{report}");
    } else {
        println!("secret key  {}: keep it to yourself\npublic key  {}: {key}", secret.display(), public.display());
    }
    Ok(ExitCode::SUCCESS)
}
