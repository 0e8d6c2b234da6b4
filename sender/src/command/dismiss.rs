//! `discus dismiss`: takes a receiver off a running sender's list.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde_json::json;

use super::remote::{HELP, Remote, SenderArgs};

/// Take a receiver off the list of a running sender. Its agent is told the reason and ends; the target stays incomplete.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct DismissArgs {
    /// The receiver, by the number that `discus status` shows.
    #[arg(value_name = "ID")]
    receiver: u64,
    /// What the receiver's operator is told.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sender: SenderArgs,
}

pub(crate) fn run(args: DismissArgs) -> anyhow::Result<ExitCode> {
    let remote = Remote::new(&args.sender)?;
    let body = args.reason.map(|reason| json!({ "reason": reason }));
    let answer = remote.ask(Method::DELETE, &format!("/receivers/{}", args.receiver), body)?;
    if args.json {
        println!("{answer}");
    } else {
        println!("receiver {} is dismissed: {}", args.receiver, answer["reason"].as_str().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}
