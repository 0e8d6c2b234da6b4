//! Several queues of the sender's card: each has an AF_XDP socket and a thread, and streams are dealt to them in turn.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use bench::lab::{LabOptions, Process, inside};
use sender::interface::Interface;
use sender::transmit::{self, Choice, Mode, TransmitConfig};

use crate::fixtures::Fixtures;
use crate::world::{ServeOptions, ServeSummary, World, finish};

const IMAGES: [&str; 3] = ["web", "db", "files"];
/// Packets of the sender's machine that are not of the stream: IGMP, ARP, the control connections and manifests.
const OTHER_PACKETS_MAX: u64 = 5_000;

/// Three machines that each restore a quarter of what the sender may send, so that it uses four streams.
fn deliver(fixtures: &Fixtures, world: &World) -> Result<(ServeSummary, String)> {
    let pack = fixtures.fleet()?;
    let arguments = ["--queue", "0,1", "--straggler", "wait"];
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(3), arguments: &arguments })?;
    let said = world.operate(&["status", "--json"])?;
    let start = |(index, image): (usize, &&str)| world.receive(&sender, index, image, &world.path(image), &["--restore-rate", "12M"]);
    let receivers: Vec<Process> = IMAGES.iter().enumerate().map(start).collect::<Result<_>>()?;
    for receiver in receivers {
        finish(receiver)?;
    }
    let summary = sender.finish()?;
    for image in IMAGES {
        pack.assert_delivered(image, &world.path(image))?;
    }
    let status: serde_json::Value = serde_json::from_str(&said)?;
    let line = status["traffic"]["transmit"]["description"].as_str().context("the status says how packets leave")?;
    Ok((summary, line.to_owned()))
}

fn ethtool(namespace: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(["netns", "exec", namespace, "ethtool"]).args(arguments).output().context("ethtool")?;
    ensure!(output.status.success(), "ethtool {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Packets that came to each queue of the bridge's port to the sender, as the kernel counts them there. A veth has a packet arrive on the queue by which it
/// left.
fn arrived(world: &World) -> Result<[u64; 2]> {
    let text = ethtool(&world.lab.bridge, &["-S", &world.lab.sender.port])?;
    let of = |queue| {
        let name = format!("rx_queue_{queue}_xdp_packets:");
        let count = text.lines().find_map(|line| line.trim().strip_prefix(&name)?.trim().parse().ok());
        count.with_context(|| format!("no {name} in {text}"))
    };
    Ok([of(0)?, of(1)?])
}

pub(crate) fn streams_leave_by_both_queues_of_the_senders_card(fixtures: &Fixtures) -> Result<()> {
    let world = World::with(&LabOptions { receivers: 3, queues: 2, ..LabOptions::default() })?;
    // A veth counts by queue what it takes through NAPI, which it has for GRO, and uses for all when the other end joins no segments itself.
    ethtool(&world.lab.bridge, &["-K", &world.lab.sender.port, "gro", "on"])?;
    ethtool(&world.lab.sender.namespace, &["-K", &world.lab.interface, "tso", "off"])?;
    let (summary, line) = deliver(fixtures, &world)?;
    let arrived = arrived(&world)?;
    ensure!(line.contains("lan0 queue 0") && line.contains("lan0 queue 1"), "{line}");
    ensure!(summary.transmit == "af-xdp-copy" && summary.transmitters.len() == 2, "{summary:?}");
    for (transmitter, queue) in summary.transmitters.iter().zip([0, 1]) {
        ensure!(transmitter.queue == Some(queue) && transmitter.mode == "af-xdp-copy", "{transmitter:?}");
        let (sent, arrived) = (transmitter.packets_sent, arrived[queue as usize]);
        // Each has two of the four streams, none of which is without a class of its own.
        ensure!(sent > 1_000, "only {sent} packets left by queue {queue}");
        ensure!(
            arrived >= sent && arrived < sent + OTHER_PACKETS_MAX,
            "{arrived} packets arrived on queue {queue}, {sent} were sent there"
        );
    }
    let overhead = summary.symbols_sent as f64 / summary.symbols_needed as f64;
    ensure!(overhead < 1.05, "sent {overhead:.4} of what was needed");
    Ok(())
}

pub(crate) fn a_queue_that_is_taken_falls_back_alone(fixtures: &Fixtures) -> Result<()> {
    let world = World::with(&LabOptions { receivers: 3, queues: 2, ..LabOptions::default() })?;
    // Another program has queue 1: this one.
    let other = inside(&world.lab.sender.namespace, || {
        let interface = Interface::find(&world.lab.interface)?;
        let (group, choice) = ("239.192.70.1:4800".parse()?, Choice::AfXdpCopy);
        let source = (interface.source_for([239, 192, 70, 1].into())?, 4800).into();
        Ok(transmit::open(&TransmitConfig {
            interface,
            queue: 1,
            source,
            groups: vec![group],
            hops: 1,
            payload_bytes: 1000,
            choice,
            busy_poll: false,
        })?)
    })?;
    ensure!(other.transmit.mode() == Mode::AfXdpCopy, "{}", other.description);
    let (summary, line) = deliver(fixtures, &world)?;
    drop(other);
    ensure!(line.contains("not all queues the same way") && line.contains("another program uses the queue"), "{line}");
    ensure!(summary.transmit == "af-xdp-copy+udp-gso", "{summary:?}");
    let ways: Vec<_> = summary.transmitters.iter().map(|each| (each.queue, each.mode.as_str())).collect();
    ensure!(ways == [(Some(0), "af-xdp-copy"), (None, "udp-gso")], "{ways:?}");
    ensure!(summary.transmitters.iter().all(|each| each.packets_sent > 1_000), "{summary:?}");
    Ok(())
}
