//! The ways that packets can take, and that they reach only those who asked for them.

use std::fs;

use anyhow::{Context, Result, ensure};
use bench::lab::{LabOptions, Machine, inside};

use crate::fixtures::Fixtures;
use crate::world::{EASY_RATE, GROUP, PORT, ServeOptions, TRANSFER_LIMIT, World, finish, wait_until};

/// Exit code of a receiver that cannot reach the sender or does not trust it.
const SENDER_NOT_TRUSTED: i32 = 4;

/// Delivers the solo pack with these arguments to two receivers.
fn deliver(fixtures: &Fixtures, serve: &[&str], receive: [&[&str]; 2]) -> Result<[String; 3]> {
    let pack = fixtures.solo()?;
    let world = World::new(2)?;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(2), arguments: serve })?;
    let target = |index: usize| world.path(&format!("target{index}"));
    let start = |index: usize| world.receive(&sender, index, "solo", &target(index), receive[index]);
    let receivers = [start(0)?, start(1)?];
    let mut wrote = Vec::new();
    for receiver in receivers {
        let ended = receiver.wait(TRANSFER_LIMIT)?;
        ensure!(ended.code == Some(0), "the receiver ended with {:?}:\n{}", ended.code, ended.stderr);
        wrote.push(ended.stderr);
    }
    let ended = sender.process.wait(TRANSFER_LIMIT)?;
    ensure!(ended.code == Some(0), "the sender ended with {:?}:\n{}", ended.code, ended.stderr);
    for index in 0..2 {
        pack.assert_delivered("solo", &target(index))?;
    }
    let [first, second] = <[String; 2]>::try_from(wrote).ok().context("two receivers wrote")?;
    Ok([ended.stderr, first, second])
}

/// Whether one of the lines that a program wrote at its start names `mode` as its way.
fn says(wrote: &str, mode: &str) -> bool {
    wrote.to_lowercase().contains(&mode.to_lowercase())
}

pub(crate) fn udp_at_both_ends(fixtures: &Fixtures) -> Result<()> {
    let [sender, filtered, bare] = deliver(fixtures, &["--transmit", "udp"], [&["--intake", "udp"], &["--intake", "udp", "--xdp", "off"]])?;
    for wrote in [&sender, &filtered, &bare] {
        ensure!(says(wrote, "udp"), "the way is not stated:\n{wrote}");
    }
    Ok(())
}

pub(crate) fn af_xdp_to_udp_and_udp_to_af_xdp(fixtures: &Fixtures) -> Result<()> {
    let ways: [(&[&str], &str); 2] = [(&["--transmit", "af-xdp-copy"], "AF_XDP"), (&["--transmit", "udp"], "UDP")];
    for (transmit, stated) in ways {
        let [sender, by_socket, by_ring] = deliver(fixtures, transmit, [&["--intake", "udp"], &["--intake", "af-xdp-copy"]])?;
        ensure!(says(&sender, stated), "the sender does not state {stated}:\n{sender}");
        ensure!(says(&by_socket, "udp") && says(&by_ring, "AF_XDP"), "the way is not stated:\n{by_socket}\n{by_ring}");
    }
    Ok(())
}

pub(crate) fn an_ipv6_group(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.solo()?;
    let world = World::with(&LabOptions { receivers: 2, ipv6: true, ..LabOptions::default() })?;
    let server = format!("[{}]:{PORT}", world.lab.sender.ipv6.context("the lab has IPv6")?);
    let options = ServeOptions { once: Some(2), arguments: &["--group", "[ff18::d15c:1]:4700", "--listen", "[::]:4700"] };
    let sender = world.serve_at(&pack.path, &options, &server, EASY_RATE)?;
    let target = |index: usize| world.path(&format!("target{index}"));
    let by_ring = world.receive(&sender, 0, "solo", &target(0), &[])?;
    let by_socket = world.receive(&sender, 1, "solo", &target(1), &["--intake", "udp"])?;
    wait_until("membership of the IPv6 group", || {
        Ok(memberships(world.receiver(0), "igmp6")?.contains("ff1800000000000000000000d15c0001"))
    })?;
    finish(by_ring)?;
    finish(by_socket)?;
    sender.finish()?;
    pack.assert_delivered("solo", &target(0))?;
    pack.assert_delivered("solo", &target(1))
}

pub(crate) fn receivers_are_members_of_the_group_while_they_receive(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.solo()?;
    let world = World::new(1)?;
    // As /proc/net/igmp writes it: in the order of the machine's bytes.
    let group = format!("{:08X}", u32::from_ne_bytes(GROUP.parse::<std::net::Ipv4Addr>()?.octets()));
    let is_member = || Ok(memberships(world.receiver(0), "igmp")?.contains(&group));
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(1), ..ServeOptions::default() })?;
    ensure!(!is_member()?, "{group} is joined before anybody asked for it");
    let receiver = world.receive(&sender, 0, "solo", &world.path("target"), &[])?;
    wait_until("membership of the group", is_member)?;
    finish(receiver)?;
    sender.finish()?;
    ensure!(!is_member()?, "{group} was not left at the end");
    Ok(())
}

pub(crate) fn a_receiver_that_hears_nothing_joins_again(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.solo()?;
    let world = World::new(2)?;
    let group = format!("{:08X}", u32::from_ne_bytes(GROUP.parse::<std::net::Ipv4Addr>()?.octets()));
    // Nothing is sent before both are listed.
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(2), ..ServeOptions::default() })?;
    let mut first = world.receive(&sender, 0, "solo", &world.path("first"), &["--intake", "udp"])?;
    first.wait_for_line("joining again", TRANSFER_LIMIT, |line| line.contains("joined its groups again").then_some(()))?;
    ensure!(memberships(world.receiver(0), "igmp")?.contains(&group), "{group} was left and not joined again");
    let second = world.receive(&sender, 1, "solo", &world.path("second"), &[])?;
    finish(first)?;
    finish(second)?;
    sender.finish()?;
    pack.assert_delivered("solo", &world.path("first"))
}

/// What the kernel says about the groups that the machine has joined.
pub(crate) fn memberships(machine: &Machine, table: &str) -> Result<String> {
    // thread-self: /proc/net is that of the process's first thread, which is in another namespace.
    inside(&machine.namespace, || Ok(fs::read_to_string(format!("/proc/thread-self/net/{table}"))?))
}

pub(crate) fn another_senders_certificate_is_refused(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.solo()?;
    let world = World::new(1)?;
    let mut sender = world.serve(&pack.path, &ServeOptions { once: Some(1), ..ServeOptions::default() })?;
    let right = sender.fingerprint.clone();
    sender.fingerprint = format!("sha256:{}", "5a".repeat(32));
    let ended = world.receive(&sender, 0, "solo", &world.path("target"), &[])?.wait(TRANSFER_LIMIT)?;
    ensure!(ended.code == Some(SENDER_NOT_TRUSTED), "exit code {:?}:\n{}", ended.code, ended.stderr);
    ensure!(
        ended.stderr.contains(&right) && ended.stderr.contains(&sender.fingerprint),
        "both fingerprints should be named:\n{}",
        ended.stderr
    );
    ensure!(!world.path("target").exists() && !world.lab.has_xdp(world.receiver(0))?, "it left something behind");
    Ok(())
}
