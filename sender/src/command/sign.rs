//! `discus sign`: signs a pack that exists.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use image::Pack;
use image::pack::sign;
use image::signature::SecretKey;

use super::progress;

/// Verify a pack and sign it. The file is replaced when the signed one is complete; an earlier signature goes.
#[derive(Args)]
#[command(after_help = super::exit::HELP)]
pub(crate) struct SignArgs {
    /// The pack.
    pack: PathBuf,
    /// The secret key: a file of `discus keygen` or `openssl genpkey -algorithm ed25519`.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Print the result as JSON, and no progress.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: SignArgs) -> anyhow::Result<ExitCode> {
    let key = SecretKey::load(&args.key)?;
    let pack = Pack::open(&args.pack)?;
    let signed = progress::show(args.json, |progress| sign(&pack, &key, progress));
    signed.with_context(|| format!("signing {}", args.pack.display()))?;
    let key = key.public_key().to_string();
    if args.json {
        println!("{}", serde_json::json!({ "pack": args.pack.display().to_string(), "signed_by": key }));
    } else {
        println!("{}: signed by {key}", args.pack.display());
    }
    Ok(ExitCode::SUCCESS)
}
