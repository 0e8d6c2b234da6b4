//! `discus-bench limits` and `pacing` measure what they say: on a veth pair of their own, and between two hosts. Needs root; says so where it has none.

mod support;

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::lab::{Lab, LabOptions, Process, Programs};
use serde_json::Value;

/// Nothing here takes longer unless it is broken.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    support::run(&[
        ("the_filter_drops_and_the_ring_fetches_what_was_sent", over_a_veth_pair),
        ("two_hosts_find_a_rate_without_loss", between_two_hosts),
        ("what_leaves_at_a_rate_is_counted_by_the_interface", at_a_rate),
    ])
}

fn over_a_veth_pair() -> Result<()> {
    let programs = Programs::built()?;
    let mut command = Command::new(&programs.bench);
    let output = command.args(["limits", "--only", "network", "--seconds", "0.1", "--json"]).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let flows = report["network"].as_array().context("no trials")?;
    ensure!(flows.len() >= 10, "{} trials", flows.len());
    let has = |key: &str, value: Value| flows.iter().any(|flow| flow[key] == value || flow["sent"][key] == value);
    ensure!(has("queues", 2.into()) && has("mode", "udp".into()) && has("mode", "udp-gso".into()), "not every way of sending was tried");
    for flow in flows {
        let what = flow["what"].as_str().context("a trial without a name")?;
        let number = |value: &Value| value.as_u64().with_context(|| format!("{what}: {value} is no number"));
        let (sent, seen) = (number(&flow["sent"]["packets"])?, number(&flow["arrived"]["seen"])?);
        let (dropped, fetched) = (number(&flow["arrived"]["dropped"])?, number(&flow["arrived"]["fetched"])?);
        ensure!(
            sent > 1000 && seen <= sent && fetched + dropped <= seen,
            "{what}: {sent} sent, {seen} seen, {dropped} dropped, {fetched} fetched"
        );
        if what.ends_with("dropped by the filter") && !what.contains('%') {
            ensure!(fetched == 0 && dropped == seen, "{what}: {dropped} of {seen} dropped, {fetched} fetched");
        } else {
            ensure!(fetched > 0, "{what}: nothing was fetched");
        }
        if what.contains("90 %") {
            let share = dropped as f64 / seen as f64;
            ensure!((0.88..0.92).contains(&share), "{what}: {dropped} of {seen} dropped");
        }
    }
    Ok(())
}

fn at_a_rate() -> Result<()> {
    let programs = Programs::built()?;
    let mut command = Command::new(&programs.bench);
    let output = command.args(["pacing", "--rates", "200", "--seconds", "0.5", "--json"]).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let row = &report["rows"][0];
    // More than the rate never leaves for long; less may, on a machine that has other work.
    let mean = row["mean"].as_f64().context("no mean")?;
    ensure!(mean > 0.1 && mean < 1.1, "{row}");
    let windows = row["windows"].as_array().context("no windows")?;
    ensure!(windows.len() == 3, "{row}");
    for window in windows {
        let number = |name: &str| window[name].as_f64().with_context(|| format!("{name} is missing in {window}"));
        ensure!(number("least")? <= number("percentile_99")? && number("percentile_99")? <= number("most")?, "{window}");
        ensure!(number("most")? >= 0.9 * mean, "{row}");
    }
    Ok(())
}

fn between_two_hosts() -> Result<()> {
    let programs = Programs::built()?;
    let lab = Lab::up(&LabOptions { cable: true, ..LabOptions::default() })?;
    let machine = lab.receivers.first().context("no receiver")?;
    let scratch = tempfile::tempdir()?;
    let rx = ["limits", "rx", "--interface", &lab.interface, "--connections", "1"];
    let mut rx = Process::start("rx", scratch.path(), &machine.namespace, &programs.bench, rx)?;
    rx.wait_for_line("waiting", LIMIT, |line| line.contains("waiting for").then_some(()))?;
    let to = format!("{}:4778", machine.ipv4);
    let tx = [
        "limits",
        "tx",
        "--interface",
        &lab.interface,
        "--to",
        &to,
        "--frames",
        "1478",
        "--seconds",
        "0.1",
        "--resolution",
        "0.2",
        "--json",
    ];
    let tx = Process::start("tx", scratch.path(), &lab.sender.namespace, &programs.bench, tx)?.wait(LIMIT)?;
    ensure!(tx.code == Some(0), "tx: {}", tx.stderr);
    let report: Value = serde_json::from_str(&tx.stdout)?;
    let frames = report["frames"].as_array().context("no frames")?;
    ensure!(frames.len() == 1, "{report}");
    for trial in frames[0]["trials"].as_array().context("no trials")? {
        ensure!(trial["arrived"].as_u64() <= trial["sent"].as_u64() && trial["arrived"].as_u64() > Some(0), "{trial}");
    }
    ensure!(rx.wait(LIMIT)?.code == Some(0), "rx failed");
    Ok(())
}
