//! How tests that need network namespaces are run: where there are none they say so, and count as ignored.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

/// A statement of behaviour and what shows it.
pub(crate) type Check = (&'static str, fn() -> Result<()>);

/// Runs them as the command line asks.
pub(crate) fn run(checks: &[Check]) -> ExitCode {
    let arguments = Arguments::from_args();
    let missing = bench::lab::unavailable();
    if let Some(reason) = missing.as_ref().filter(|_| !arguments.list) {
        eprintln!("skipped: {reason}");
    }
    let trial = |&(name, check): &Check| {
        Trial::test(name, move || check().map_err(|error| format!("{error:#}").into())).with_ignored_flag(missing.is_some())
    };
    libtest_mimic::run(&arguments, checks.iter().map(trial).collect()).exit_code()
}
