//! The doctors of both ends find what is wrong with a network, and nothing where nothing is. Need root; say so where they have none.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::lab::{Ended, Lab, LabOptions, Machine, Process, Programs};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(40);
const PORT: &str = "4700";

type Check = fn() -> Result<()>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let missing = bench::lab::unavailable();
    if let Some(reason) = missing.as_ref().filter(|_| !arguments.list) {
        eprintln!("skipped: {reason}");
    }
    let checks: [(&str, Check); 4] = [
        ("a_sound_network_is_found_sound", a_sound_network_is_found_sound),
        ("multicast_that_does_not_arrive_is_found", multicast_that_does_not_arrive_is_found),
        ("a_receiver_with_a_smaller_mtu_is_found", a_receiver_with_a_smaller_mtu_is_found),
        ("an_interface_that_is_not_there_is_found", an_interface_that_is_not_there_is_found),
    ];
    let trial = |(name, check): (&str, Check)| {
        Trial::test(name, move || check().map_err(|error| format!("{error:#}").into())).with_ignored_flag(missing.is_some())
    };
    libtest_mimic::run(&arguments, checks.into_iter().map(trial).collect()).exit_code()
}

/// What both doctors of a lab say.
struct Said {
    sender: (Ended, Value),
    receiver: (Ended, Value),
}

impl Said {
    /// Runs both: the receiver's listens for so many seconds, the sender's probes up to 200 Mbit/s.
    fn of(lab: &Lab, programs: &Programs, machine: &Machine, listen_seconds: u64) -> Result<Said> {
        let scratch = tempfile::tempdir()?;
        let (interface, seconds) = (lab.interface.as_str(), listen_seconds.to_string());
        let target = scratch.path().to_string_lossy().into_owned();
        let listening = ["doctor", "--json", "--interface", interface, "--listen", &seconds, "--querier", "3", "--target", &target];
        let mut receiver = Process::start("receiver", scratch.path(), &machine.namespace, &programs.receive, listening)?;
        receiver.wait_for_line("listening", LIMIT, |line| line.starts_with("listening for probes").then_some(()))?;
        let probing = ["doctor", "--json", "--interface", interface, "--probe", "--rate", "200M", "--rounds", "2", "--listen", "1"];
        let sender = Process::start("sender", scratch.path(), &lab.sender.namespace, &programs.discus, probing)?;
        let with_json = |ended: Ended| -> Result<(Ended, Value)> {
            let findings = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
            Ok((ended, findings))
        };
        Ok(Said { sender: with_json(sender.wait(LIMIT)?)?, receiver: with_json(receiver.wait(LIMIT)?)? })
    }
}

/// The verdict of the finding on `subject`.
fn verdict(findings: &Value, subject: &str) -> Option<String> {
    let finding = findings.as_array()?.iter().find(|finding| finding["subject"] == subject)?;
    finding["verdict"].as_str().map(str::to_owned)
}

fn ensure_verdicts(findings: &Value, expected: &[(&str, &str)]) -> Result<()> {
    for (subject, wanted) in expected {
        ensure!(verdict(findings, subject).as_deref() == Some(wanted), "{subject} is not {wanted}: {findings:#}");
    }
    Ok(())
}

fn a_sound_network_is_found_sound() -> Result<()> {
    let programs = Programs::built()?;
    // A bridge with a querier, which queries every 2 s.
    let lab = Lab::up(&LabOptions::default())?;
    let said = Said::of(&lab, &programs, &lab.receivers[0], 20)?;
    let (ended, findings) = &said.receiver;
    let sound = ["interface", "io_uring", "filter", "membership", "multicast", "packet size", "querier"].map(|subject| (subject, "ok"));
    ensure_verdicts(findings, &sound)?;
    // How fast disk and network of this machine are is for it to say; copy mode is a warning.
    ensure!(verdict(findings, "disk").is_some() && verdict(findings, "rate").is_some_and(|verdict| verdict != "fail"), "{findings:#}");
    ensure!(ended.code == Some(20), "{ended:?}");
    let (ended, findings) = &said.sender;
    ensure_verdicts(findings, &[("interface", "ok"), ("card", "ok"), ("transmit", "warn")])?;
    ensure!(verdict(findings, "probes").is_some_and(|verdict| verdict != "fail") && ended.code == Some(20), "{findings:#}");
    Ok(())
}

fn multicast_that_does_not_arrive_is_found() -> Result<()> {
    let programs = Programs::built()?;
    let lab = Lab::up(&LabOptions::default())?;
    let scratch = tempfile::tempdir()?;
    let port = &lab.receivers[0].port;
    let arguments = ["impair", "--interface", port, "--port", PORT, "--loss", "100%", "--json"];
    let mut impairing = Process::start("impair", scratch.path(), &lab.bridge, &programs.bench, arguments)?;
    impairing.wait_for_line("attaching the impairment", LIMIT, |_| Some(()))?;
    let (ended, findings) = Said::of(&lab, &programs, &lab.receivers[0], 4)?.receiver;
    ensure_verdicts(&findings, &[("membership", "ok"), ("multicast", "fail")])?;
    ensure!(ended.code == Some(21), "{ended:?}");
    ensure!(ended.stdout.contains("querier") && ended.stdout.contains("--probe"), "the advice is missing: {ended:?}");
    Ok(())
}

fn a_receiver_with_a_smaller_mtu_is_found() -> Result<()> {
    let programs = Programs::built()?;
    let lab = Lab::up(&LabOptions { cable: true, ..LabOptions::default() })?;
    let machine = &lab.receivers[0];
    lab.ip(&machine.namespace, &["link", "set", "dev", &lab.interface, "mtu", "1400"])?;
    let (ended, findings) = Said::of(&lab, &programs, machine, 20)?.receiver;
    ensure_verdicts(&findings, &[("multicast", "ok"), ("packet size", "fail")])?;
    // A cable has no switch that queries.
    ensure_verdicts(&findings, &[("querier", "warn")])?;
    ensure!(ended.code == Some(21), "{ended:?}");
    Ok(())
}

fn an_interface_that_is_not_there_is_found() -> Result<()> {
    let programs = Programs::built()?;
    let lab = Lab::up(&LabOptions { cable: true, ..LabOptions::default() })?;
    let scratch = tempfile::tempdir()?;
    for program in [&programs.discus, &programs.receive] {
        let arguments = ["doctor", "--interface", "none0"];
        let ended = Process::start("doctor", scratch.path(), &lab.sender.namespace, program, arguments)?.wait(LIMIT)?;
        ensure!(ended.code == Some(21) && ended.stdout.contains("FAIL  interface"), "{ended:?}");
    }
    Ok(())
}
