//! The doctors of both ends find what is wrong with a network, and nothing where nothing is. Need root; say so where they have none.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::lab::content::{Part, write_image};
use bench::lab::{Ended, Lab, LabOptions, Machine, Process, Programs};
use sender::control::ServerIdentity;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(40);
const PORT: &str = "4700";

fn main() -> ExitCode {
    support::run(&[
        ("a_sound_network_is_found_sound", a_sound_network_is_found_sound),
        ("multicast_that_does_not_arrive_is_found", multicast_that_does_not_arrive_is_found),
        ("a_receiver_with_a_smaller_mtu_is_found", a_receiver_with_a_smaller_mtu_is_found),
        ("an_interface_that_is_not_there_is_found", an_interface_that_is_not_there_is_found),
        ("the_doctors_know_each_other_by_the_fingerprint", the_doctors_know_each_other_by_the_fingerprint),
        ("another_sender_than_the_expected_one_is_found", another_sender_than_the_expected_one_is_found),
        ("a_running_sender_is_asked_for_an_image", a_running_sender_is_asked_for_an_image),
        ("receivers_that_are_being_installed_are_not_probed", receivers_that_are_being_installed_are_not_probed),
    ])
}

/// What both doctors of a lab say.
struct Said {
    sender: (Ended, Value),
    receiver: (Ended, Value),
}

impl Said {
    /// Runs both: the receiver's listens for so many seconds, the sender's probes up to 200 Mbit/s.
    fn of(lab: &Lab, programs: &Programs, machine: &Machine, listen_seconds: u64) -> Result<Said> {
        Said::with(lab, programs, machine, listen_seconds, [&[], &[]])
    }

    /// The same with further arguments for the receiver's and the sender's doctor.
    fn with(lab: &Lab, programs: &Programs, machine: &Machine, listen_seconds: u64, more: [&[&str]; 2]) -> Result<Said> {
        let scratch = tempfile::tempdir()?;
        let (interface, seconds) = (lab.interface.as_str(), listen_seconds.to_string());
        let target = scratch.path().to_string_lossy().into_owned();
        let listening = ["doctor", "--json", "--interface", interface, "--listen", &seconds, "--querier", "3", "--target", &target];
        let [receiver_more, sender_more] = more.map(|more| more.iter().copied());
        let listening = listening.into_iter().chain(receiver_more);
        let mut receiver = Process::start("receiver", scratch.path(), &machine.namespace, &programs.receive, listening)?;
        receiver.wait_for_line("listening", LIMIT, |line| line.starts_with("listening for probes").then_some(()))?;
        let probing = ["doctor", "--json", "--interface", interface, "--probe", "--rate", "200M", "--rounds", "2", "--listen", "1"];
        let probing = probing.into_iter().chain(sender_more);
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
    finding(findings, subject)?["verdict"].as_str().map(str::to_owned)
}

/// What was found about `subject`, in words; empty when nothing was.
fn found<'a>(findings: &'a Value, subject: &str) -> &'a str {
    finding(findings, subject).and_then(|finding| finding["found"].as_str()).unwrap_or_default()
}

fn finding<'a>(findings: &'a Value, subject: &str) -> Option<&'a Value> {
    findings.as_array()?.iter().find(|finding| finding["subject"] == subject)
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

fn the_doctors_know_each_other_by_the_fingerprint() -> Result<()> {
    let programs = Programs::built()?;
    let lab = Lab::up(&LabOptions::default())?;
    let state = tempfile::tempdir()?;
    let fingerprint = ServerIdentity::load_or_create(state.path())?.fingerprint().to_string();
    let (server, state) = (lab.sender.ipv4.to_string(), state.path().to_string_lossy());
    let receiver = ["--server", &server, "--server-fingerprint", &fingerprint];
    // The receiver's doctor is there before the sender's, and waits for it.
    let said = Said::with(&lab, &programs, &lab.receivers[0], 20, [&receiver, &["--state-dir", &state]])?;
    let (receiver, sender) = (said.receiver.1, said.sender.1);
    ensure_verdicts(&receiver, &[("control", "ok"), ("multicast", "ok"), ("packet size", "ok")])?;
    ensure!(found(&receiver, "control").contains(&format!("{server}:4700 answers")), "{receiver:#}");
    ensure_verdicts(&sender, &[("control", "ok")])?;
    ensure!(found(&sender, "control").contains(&format!("known by {}", lab.receivers[0].ipv4)), "{sender:#}");
    Ok(())
}

fn another_sender_than_the_expected_one_is_found() -> Result<()> {
    let programs = Programs::built()?;
    let lab = Lab::up(&LabOptions::default())?;
    let (state, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let fingerprint = ServerIdentity::load_or_create(state.path())?.fingerprint().to_string();
    let expected = ServerIdentity::load_or_create(other.path())?.fingerprint().to_string();
    let (server, state) = (lab.sender.ipv4.to_string(), state.path().to_string_lossy());
    let receiver = ["--server", &server, "--server-fingerprint", &expected];
    let said = Said::with(&lab, &programs, &lab.receivers[0], 20, [&receiver, &["--state-dir", &state]])?;
    let (ended, receiver) = said.receiver;
    // Multicast arrives all the same: which of the two is wrong has to be told apart.
    ensure_verdicts(&receiver, &[("control", "fail"), ("multicast", "ok")])?;
    ensure!(
        ended.code == Some(21) && [&expected, &fingerprint].iter().all(|text| found(&receiver, "control").contains(*text)),
        "{ended:?}"
    );
    let (_, sender) = said.sender;
    ensure_verdicts(&sender, &[("control", "warn")])?;
    ensure!(found(&sender, "control").contains(&format!("expected by {}", lab.receivers[0].ipv4)), "{sender:#}");
    Ok(())
}

/// Packs one small image, called web; answers with the pack's path and that of a state directory beside it.
fn small_pack(programs: &Programs, lab: &Lab, scratch: &Path) -> Result<(String, String)> {
    let path = |name: &str| scratch.join(name).to_string_lossy().into_owned();
    let (source, pack) = (path("source"), path("pack"));
    write_image(source.as_ref(), &[Part::Noise { seed: 1, bytes: 1 << 20 }])?;
    let packing = ["pack", "--output", &pack, &format!("web={source}")];
    let packing = Process::start("pack", scratch, &lab.sender.namespace, &programs.discus, packing)?.wait(LIMIT)?;
    ensure!(packing.code == Some(0), "{packing:?}");
    Ok((pack, path("state")))
}

fn a_running_sender_is_asked_for_an_image() -> Result<()> {
    let programs = Programs::built()?;
    let lab = Lab::up(&LabOptions { ipv6: true, ..LabOptions::default() })?;
    let (machine, interface) = (&lab.receivers[0], lab.interface.as_str());
    let scratch = tempfile::tempdir()?;
    let path = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
    let (pack, state) = small_pack(&programs, &lab, scratch.path())?;
    let server = lab.sender.ipv4.to_string();
    let look = |image: &str, fingerprint: &str| -> Result<(Ended, Value)> {
        let arguments = ["doctor", "--json", "--interface", interface, "--querier", "1", "--server", &server];
        let arguments = arguments.into_iter().chain(["--server-fingerprint", fingerprint, "--image", image]);
        let ended = Process::start("doctor", scratch.path(), &machine.namespace, &programs.receive, arguments)?.wait(LIMIT)?;
        let findings = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
        Ok((ended, findings))
    };
    let nobody = look("web", &format!("sha256:{}", "0".repeat(64)))?;
    ensure_verdicts(&nobody.1, &[("control", "fail")])?;
    ensure!(nobody.0.code == Some(21) && found(&nobody.1, "control").contains("no sender"), "{nobody:?}");

    // Groups that the receiver's doctor can know only from the sender.
    let serve =
        ["serve", "--pack", &pack, "--interface", interface, "--rate", "100M", "--state-dir", &state, "--group", "239.192.70.1:4711"];
    let mut serving = Process::start("serve", scratch.path(), &lab.sender.namespace, &programs.discus, serve)?;
    let fingerprint = serving.wait_for_fingerprint(LIMIT)?;
    let (ended, findings) = look("web", &fingerprint)?;
    ensure_verdicts(&findings, &[("control", "ok"), ("image", "ok"), ("session", "ok"), ("membership", "ok")])?;
    ensure!(found(&findings, "image").contains("239.192.70.1:4711"), "{findings:#}");
    ensure!(found(&findings, "membership").contains("239.192.70.1"), "{findings:#}");
    ensure!(ended.code == Some(20), "copy mode is a warning: {ended:?}");
    let (ended, findings) = look("nothing", &fingerprint)?;
    ensure_verdicts(&findings, &[("control", "ok"), ("image", "fail")])?;
    ensure!(ended.code == Some(21) && found(&findings, "image").contains("web"), "it says what is served: {ended:?}");
    lab.ip(&machine.namespace, &["link", "set", "dev", interface, "mtu", "1400"])?;
    ensure_verdicts(&look("web", &fingerprint)?.1, &[("image", "ok"), ("session", "fail")])?;

    // The sender's doctor leaves port and queue to the sender that has them, and says how that one's packets leave.
    let findings = probed_beside(&lab, &programs, &state)?;
    ensure_verdicts(&findings, &[("control", "ok"), ("transmit", "warn")])?;
    ensure!(found(&findings, "control").contains("discus serve has it"), "{findings:#}");
    ensure!(found(&findings, "transmit").starts_with("discus serve has the queue: AF_XDP copy mode"), "{findings:#}");
    ensure!(found(&findings, "probes").contains("1 round up to"), "{findings:#}");
    // One that cannot ask it says at least that the queue is taken.
    let findings = probed_beside(&lab, &programs, &path("another state"))?;
    ensure!(found(&findings, "transmit").contains("another program uses the queue"), "{findings:#}");
    ensure!(finding(&findings, "transmit").is_some_and(|finding| finding["advice"].to_string().contains("--state-dir")), "{findings:#}");
    ensure!(serving.ended()?.is_none(), "the sender was disturbed");
    Ok(())
}

/// What a sender's doctor finds that probes at 100 Mbit/s while `discus serve` runs on its machine.
fn probed_beside(lab: &Lab, programs: &Programs, state: &str) -> Result<Value> {
    let scratch = tempfile::tempdir()?;
    let probing = ["doctor", "--json", "--interface", &lab.interface, "--probe", "--rate", "100M", "--rounds", "1", "--listen", "0"];
    let probing = probing.into_iter().chain(["--state-dir", state]);
    let ended = Process::start("probe", scratch.path(), &lab.sender.namespace, &programs.discus, probing)?.wait(LIMIT)?;
    serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))
}

fn receivers_that_are_being_installed_are_not_probed() -> Result<()> {
    let programs = Programs::built()?;
    let lab = Lab::up(&LabOptions { cable: true, ..LabOptions::default() })?;
    let (machine, interface) = (&lab.receivers[0], lab.interface.as_str());
    let scratch = tempfile::tempdir()?;
    let path = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
    let (pack, state) = small_pack(&programs, &lab, scratch.path())?;
    let server = lab.sender.ipv4.to_string();
    // The one that is listed waits for another that never comes.
    let serve = ["serve", "--pack", &pack, "--interface", interface, "--rate", "100M", "--state-dir", &state, "--once", "2"];
    let mut serving = Process::start("serve", scratch.path(), &lab.sender.namespace, &programs.discus, serve)?;
    let fingerprint = serving.wait_for_fingerprint(LIMIT)?;
    let target = path("target");
    let receive = ["web", "--server", &server, "--server-fingerprint", &fingerprint, "--interface", interface, "--target", &target];
    let mut receiving = Process::start("receive", scratch.path(), &machine.namespace, &programs.receive, receive)?;
    receiving.wait_for_line("listed", LIMIT, |line| line.contains("on the sender's list").then_some(()))?;
    let findings = probed_beside(&lab, &programs, &state)?;
    ensure_verdicts(&findings, &[("probes", "warn")])?;
    ensure!(found(&findings, "probes").starts_with("not sent: discus serve has 1 on its list"), "{findings:#}");
    Ok(())
}
