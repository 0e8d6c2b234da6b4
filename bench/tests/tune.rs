//! `discus tune` changes an interface and puts it back. Needs root; says so where it has none.

mod support;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::lab::{Ended, Lab, LabOptions, Process, Programs};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    support::run(&[("what_is_applied_is_undone", what_is_applied_is_undone)])
}

fn what_is_applied_is_undone() -> Result<()> {
    let programs = Programs::built()?;
    let lab = Lab::up(&LabOptions { cable: true, ..LabOptions::default() })?;
    let scratch = tempfile::tempdir()?;
    let state = scratch.path().join("state");
    let state = state.to_str().context("a temporary directory with an odd name")?;
    let tune = |action: &str, more: &[&str]| -> Result<Ended> {
        let arguments =
            ["tune", action, "--interface", &lab.interface, "--state-dir", state, "--json"].into_iter().chain(more.iter().copied());
        Process::start("tune", scratch.path(), &lab.sender.namespace, &programs.discus, arguments)?.wait(LIMIT)
    };
    let mtu = || -> Result<u64> {
        let links: Value = serde_json::from_str(&lab.ip(&lab.sender.namespace, &["-json", "link", "show", "dev", &lab.interface])?)?;
        links[0]["mtu"].as_u64().context("no MTU")
    };
    let before = mtu()?;
    let checked = tune("check", &["--mtu", "1400"])?;
    ensure!(checked.code == Some(1), "an MTU that differs is found: {checked:?}");
    ensure!(mtu()? == before, "check changes nothing");
    for mtu_asked in ["1400", "1300"] {
        let applied = tune("apply", &["--mtu", mtu_asked])?;
        let changes: Value = serde_json::from_str(&applied.stdout)?;
        let change =
            changes.as_array().and_then(|changes| changes.iter().find(|change| change["name"] == format!("{} MTU", lab.interface)));
        ensure!(change.is_some_and(|change| change["to"] == mtu_asked && change["error"].is_null()), "{applied:?}");
        ensure!(mtu()?.to_string() == mtu_asked, "the MTU is {}", mtu()?);
    }
    let undone = tune("undo", &[])?;
    ensure!(undone.code == Some(0), "{undone:?}");
    ensure!(mtu()? == before, "the MTU is {} again", mtu()?);
    let again = tune("undo", &[])?;
    ensure!(again.code == Some(0) && again.stdout.trim() == "[]", "there is nothing left to undo: {again:?}");
    let missing =
        Process::start("tune", scratch.path(), &lab.sender.namespace, &programs.discus, ["tune", "check", "--interface", "none0"])?
            .wait(LIMIT)?;
    ensure!(missing.code == Some(1) && missing.stderr.contains("no interface \"none0\""), "{missing:?}");
    Ok(())
}
