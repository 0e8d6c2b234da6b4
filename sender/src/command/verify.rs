//! `discus verify`: proves a pack whole.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use image::Pack;
use image::signature::PublicKey;
use indicatif::BinaryBytes;

use super::progress;

/// Read a whole pack and check every byte of it against its root.
#[derive(Args)]
#[command(after_help = super::exit::HELP)]
pub(crate) struct VerifyArgs {
    /// The pack.
    pack: PathBuf,
    /// Also check that this public key signed it: its file, or the key itself.
    #[arg(long, value_name = "KEY|FILE")]
    key: Option<String>,
    /// Print the result as JSON, and no progress.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let key = args.key.as_deref().map(PublicKey::from_argument).transpose()?;
    let pack = Pack::open(&args.pack)?;
    if let Some(key) = &key {
        pack.proof().check_signature(key).with_context(|| args.pack.display().to_string())?;
    }
    let report = progress::show(args.json, |progress| pack.verify(progress))?;
    if args.json {
        let report = serde_json::json!({
            "pack": args.pack.display().to_string(),
            "chunks": report.chunks,
            "stored_bytes": report.stored_bytes,
            "raw_bytes": report.raw_bytes,
            "manifests": report.manifests,
            "signed_by": pack.proof().signed_by().map(|key| key.to_string()),
            "signature_checked": key.is_some(),
        });
        println!("{report}");
    } else {
        let (stored, raw) = (BinaryBytes(report.stored_bytes), BinaryBytes(report.raw_bytes));
        let (chunks, manifests) = (report.chunks, report.manifests);
        let signature = match (key, pack.proof().signed_by()) {
            (Some(key), _) => format!("signed by {key}"),
            (None, Some(by)) => format!("signed by {by} (not compared with a key: --key)"),
            (None, None) => "not signed".to_owned(),
        };
        println!("{}: whole; {chunks} chunks ({stored} stored, {raw} raw), {manifests} manifests; {signature}", args.pack.display());
    }
    Ok(ExitCode::SUCCESS)
}
