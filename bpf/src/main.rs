//! `discus-filter`: attaches the filter to an interface for a port range and a list of ids, shows what it does
//! with live traffic, and detaches when it ends.

mod command;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match command::run(&command::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("discus-filter: {error:#}");
            command::exit_code(&error)
        }
    }
}
