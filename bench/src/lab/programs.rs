//! The programs under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

use crate::leavings::succeed;

/// Paths of the project's programs, built from the present sources.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `discus`, the sender.
    pub discus: PathBuf,
    /// `discus-receive`.
    pub receive: PathBuf,
    /// `discus-bench`, for its impairment of links.
    pub bench: PathBuf,
}

impl Programs {
    /// Builds the programs of the whole workspace (cargo does nothing when they are fresh) with the profile that the present program was
    /// built with, so that a test never runs against what an earlier build left behind.
    ///
    /// # Errors
    /// When cargo fails or the present program does not lie in a target directory.
    pub fn built() -> Result<Programs> {
        static BUILT: OnceLock<Result<Programs, String>> = OnceLock::new();
        BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(|error| anyhow!(error))
    }
}

fn build() -> Result<Programs> {
    let present = std::env::current_exe().context("finding the present program")?;
    // Test programs lie in target/PROFILE/deps, programs in target/PROFILE.
    let mut directory = present.parent().context("the present program has no directory")?;
    if directory.ends_with("deps") {
        directory = directory.parent().unwrap_or(directory);
    }
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some("release") => "release",
        _ => bail!("{} is not in a cargo target directory: run this through cargo", present.display()),
    };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--workspace", "--bins", "--profile", profile, "--manifest-path"]).arg(manifest);
    for name in set_by_cargo() {
        command.env_remove(name);
    }
    succeed(&mut command)?;
    let program = |name: &str| directory.join(name);
    Ok(Programs { discus: program("discus"), receive: program("discus-receive"), bench: program("discus-bench") })
}

/// The variables with which cargo tells a test about its own package. Build scripts (that of `ring` is one) look at some of them, so that
/// a cargo which inherits them would build half of the dependencies again, and the next one outside of a test once more.
fn set_by_cargo() -> impl Iterator<Item = std::ffi::OsString> {
    const PREFIXES: [&str; 7] =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_", "CARGO_RUSTC_CURRENT_DIR", "CARGO_TARGET_TMPDIR"];
    let is_set_by_cargo = |name: &std::ffi::OsString| {
        name.to_str().is_some_and(|name| name == "LD_LIBRARY_PATH" || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
    };
    std::env::vars_os().map(|(name, _)| name).filter(is_set_by_cargo)
}
