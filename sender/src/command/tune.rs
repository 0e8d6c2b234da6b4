//! `discus tune`: shows, changes and restores the settings of machine and interface that decide how fast packets pass.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use sender::tune::{Change, Memory, Setting, Wishes, apply, survey, undo};

/// Check, apply or undo settings of this machine and one interface that decide how fast packets pass.
///
/// Works on sending and receiving machines alike. Nothing is changed but by `apply`, which prints every change; `undo` restores what was there
/// before (a reboot does too).
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 all settings are as they should be (check), or were changed (apply, undo); 1 some are not, or could not be"
)]
pub(crate) struct TuneArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show each setting, what it is and what it should be
    Check(InterfaceArgs),
    /// Change the settings that are not as they should be
    Apply(InterfaceArgs),
    /// Put back what `apply` changed
    Undo(UndoArgs),
}

#[derive(Args)]
struct InterfaceArgs {
    /// The interface that images are sent or received on.
    #[arg(short, long, value_name = "IF")]
    interface: String,
    /// Give the interface this MTU; every machine and switch of the network must have it too.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(576..=65535))]
    mtu: Option<u32>,
    /// Let the card's interrupts go to these cores, such as 2-3.
    #[arg(long, value_name = "CORES")]
    interrupt_cores: Option<String>,
    /// Let kernel threads fetch the card's packets.
    #[arg(long)]
    threaded_napi: bool,
    /// Steer packets to this UDP port to one receive queue, such as 4700:0.
    #[arg(long, value_name = "PORT:QUEUE", value_parser = parse_steering)]
    steer: Option<(u16, u32)>,
    /// Where what was changed is remembered.
    #[arg(long, value_name = "DIR", default_value = "/run/discus")]
    state_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct UndoArgs {
    /// The interface.
    #[arg(short, long, value_name = "IF")]
    interface: String,
    /// Where what was changed is remembered.
    #[arg(long, value_name = "DIR", default_value = "/run/discus")]
    state_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn parse_steering(text: &str) -> Result<(u16, u32), String> {
    let parsed = text.split_once(':').and_then(|(port, queue)| Some((port.parse().ok()?, queue.parse().ok()?)));
    parsed.ok_or_else(|| "a UDP port and a receive queue are given as PORT:QUEUE, like 4700:0".to_owned())
}

pub(crate) fn run(args: TuneArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Check(args) => {
            let settings = look(&args)?;
            if args.json {
                println!("{}", serde_json::to_string_pretty(&settings)?);
            } else {
                settings.iter().for_each(|setting| println!("{}", line(setting)));
            }
            let due = settings.iter().filter(|setting| setting.is_due()).count();
            if due > 0 {
                eprintln!("{due} of {} settings should change: discus tune apply --interface {}", settings.len(), args.interface);
            }
            Ok(if due == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Action::Apply(args) => {
            let settings = look(&args)?;
            let mut memory = Memory::open(&state_file(&args.state_dir, &args.interface)?)?;
            let changes = apply(&settings, &mut memory)?;
            report(&changes, args.json, "nothing to change")
        }
        Action::Undo(args) => {
            let mut memory = Memory::open(&state_file(&args.state_dir, &args.interface)?)?;
            let changes = undo(&mut memory)?;
            report(&changes, args.json, "nothing to undo")
        }
    }
}

fn look(args: &InterfaceArgs) -> anyhow::Result<Vec<Setting>> {
    let wishes =
        Wishes { mtu_bytes: args.mtu, interrupt_cores: args.interrupt_cores.clone(), threaded_napi: args.threaded_napi, steer: args.steer };
    survey(Path::new("/"), &args.interface, &wishes).context("looking at the settings")
}

/// One file for each interface. Names of interfaces hold no slash, but the user's text may.
fn state_file(directory: &Path, interface: &str) -> anyhow::Result<PathBuf> {
    if interface.is_empty() || interface.contains('/') || interface.starts_with('.') {
        bail!("{interface:?} is no interface");
    }
    Ok(directory.join(format!("tune-{interface}.json")))
}

fn line(setting: &Setting) -> String {
    let Setting { name, current, wanted, why, .. } = setting;
    match wanted {
        Some(wanted) if setting.is_due() => format!("change  {name}: {current}, should be {wanted} ({why})"),
        Some(_) => format!("ok      {name}: {current}"),
        None => format!("info    {name}: {current} ({why})"),
    }
}

fn report(changes: &[Change], json: bool, nothing: &str) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(changes)?);
    } else if changes.is_empty() {
        println!("{nothing}");
    }
    for Change { name, from, to, error } in changes.iter().filter(|_| !json) {
        match error {
            None => println!("{name}: {from} -> {to}"),
            Some(error) => println!("{name}: stays {from}: {error}"),
        }
    }
    let failed = changes.iter().any(|change| change.error.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_names_a_file_of_its_own_directory() {
        let directory = Path::new("/run/discus");
        assert_eq!(state_file(directory, "eth1.4").unwrap(), Path::new("/run/discus/tune-eth1.4.json"));
        for hostile in ["", "../../etc/passwd", "a/b", "."] {
            assert!(state_file(directory, hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn steering_names_a_port_and_a_queue() {
        assert_eq!(parse_steering("4700:2"), Ok((4700, 2)));
        assert!(parse_steering("4700").is_err() && parse_steering("70000:0").is_err());
    }
}
