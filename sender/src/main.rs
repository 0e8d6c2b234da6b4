//! `discus`: packs images, looks into packs, restores from them, and serves them.

mod command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use command::{dismiss, doctor, exit, inspect, keygen, pack, restore, serve, set, sign, status, tune, verify};

/// Provision many machines at once: images are packed together, and what they share is sent once.
#[derive(Parser)]
#[command(name = "discus", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Pack(pack::PackArgs),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
    Keygen(keygen::KeygenArgs),
    Sign(sign::SignArgs),
    Restore(restore::RestoreArgs),
    Serve(serve::ServeArgs),
    Status(status::StatusArgs),
    Set(set::SetArgs),
    Dismiss(dismiss::DismissArgs),
    Tune(tune::TuneArgs),
    Doctor(doctor::DoctorArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Pack(args) => pack::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Keygen(args) => keygen::run(args),
        Command::Sign(args) => sign::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Status(args) => status::run(args),
        Command::Set(args) => set::run(args),
        Command::Dismiss(args) => dismiss::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Doctor(args) => doctor::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("discus: {}", exit::explain(&error));
        ExitCode::from(exit::code_of(&error))
    })
}
