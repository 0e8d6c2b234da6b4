//! `discus set`: changes the settings of a running sender.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use hyper::Method;
use sender::control::{PriorityArgument, Settings, SettingsPatch};

use super::rate::{Rate, display_rate};
use super::remote::{HELP, Remote, RemoteError, SenderArgs};

/// Change the rate and the priorities of a running sender. What is not named stays as it is; all changes are made or none.
#[derive(Args)]
#[command(after_help = HELP)]
#[command(group(ArgGroup::new("change").required(true).multiple(true).args(["rate", "priority"])))]
pub(crate) struct SetArgs {
    /// Never send faster: bits a second such as 5G, 2.5G, 900M.
    #[arg(long)]
    rate: Option<Rate>,
    /// Serve the receivers of an image, or those of a group, before others or after them: N from -100 to 100, higher first, or `none` to
    /// take back what was said. May be given several times.
    #[arg(long, value_name = "IMAGE=N|group:NAME=N")]
    priority: Vec<PriorityArgument>,
    /// Print the settings in force as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sender: SenderArgs,
}

pub(crate) fn run(args: SetArgs) -> anyhow::Result<ExitCode> {
    let mut patch = SettingsPatch { rate_cap_bits_per_second: args.rate.map(|rate| rate.bits_per_second), ..SettingsPatch::default() };
    args.priority.into_iter().for_each(|priority| patch.priorities.add(priority));
    let remote = Remote::new(&args.sender)?;
    let answer = remote.ask(Method::PATCH, "/settings", Some(serde_json::to_value(&patch)?))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(ExitCode::SUCCESS);
    }
    let settings = serde_json::from_value(answer).map_err(|_| RemoteError::Unreadable { server: remote.server().to_owned() })?;
    println!("settings  {}", describe(&settings));
    Ok(ExitCode::SUCCESS)
}

/// Settings in one line.
pub(super) fn describe(settings: &Settings) -> String {
    let rate = display_rate(settings.rate_cap_bits_per_second as f64);
    let priorities = settings.priorities.to_string();
    if priorities.is_empty() { format!("at most {rate}") } else { format!("at most {rate}; priorities {priorities}") }
}
