//! The ground that the other tests stand on: the lab does what they take for granted.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use bench::lab::{Lab, LabOptions, Machine, Process, inside};

use crate::fixtures::Fixtures;
use crate::world::{GROUP, PORT, scratch, wait_until};

pub(crate) fn a_lab_and_its_processes_are_gone_when_they_are_dropped(_: &Fixtures) -> Result<()> {
    let (lab, directory) = (Lab::up(&LabOptions::default())?, scratch()?);
    let namespaces = [&lab.bridge, &lab.sender.namespace, &lab.receivers[0].namespace].map(|name| Path::new("/run/netns").join(name));
    let sleeper = Process::start("sleep", directory.path(), &lab.sender.namespace, Path::new("sleep"), ["60"])?;
    let process = Path::new("/proc").join(sleeper.id().to_string());
    ensure!(namespaces.iter().all(|path| path.exists()) && process.exists(), "there was nothing to remove");
    drop(sleeper);
    drop(lab);
    ensure!(!process.exists(), "the process still runs");
    ensure!(!namespaces.iter().any(|path| path.exists()), "a namespace is left");
    Ok(())
}

pub(crate) fn the_bridge_forwards_a_group_to_its_members_only(_: &Fixtures) -> Result<()> {
    let lab = Lab::up(&LabOptions { receivers: 2, ..LabOptions::default() })?;
    // The bridge floods until its querier has waited for one response interval.
    std::thread::sleep(Duration::from_millis(500));
    let (member, stranger) = (socket(&lab.receivers[0])?, socket(&lab.receivers[1])?);
    member.join_multicast_v4(&GROUP.parse()?, &lab.receivers[0].ipv4)?;
    let received = |machine: &Machine| -> Result<u64> {
        let text = lab.ip(&machine.namespace, &["-json", "-statistics", "link", "show", "dev", &lab.interface])?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        links[0]["stats64"]["rx"]["packets"].as_u64().ok_or_else(|| anyhow::anyhow!("no counter in {text}"))
    };
    let sender = inside(&lab.sender.namespace, || Ok(UdpSocket::bind(("0.0.0.0", 0))?))?;
    let mut packet = [0; 16];
    // The join takes a moment to reach the bridge.
    wait_until("the first packet at the member", || {
        sender.send_to(b"first", (GROUP, PORT))?;
        Ok(member.recv(&mut packet).is_ok())
    })?;
    let before = received(&lab.receivers[1])?;
    for _ in 0..100 {
        sender.send_to(b"discus", (GROUP, PORT))?;
    }
    sender.send_to(b"last", (GROUP, PORT))?;
    wait_until("the last packet at the member", || Ok(matches!(member.recv(&mut packet), Ok(4))))?;
    // The bridge has handled all of them by now; what came besides is IGMP itself.
    let strays = received(&lab.receivers[1])? - before;
    drop(stranger);
    ensure!(strays < 10, "{strays} packets came to a machine that is no member");
    Ok(())
}

fn socket(machine: &Machine) -> Result<UdpSocket> {
    inside(&machine.namespace, || {
        let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(socket)
    })
}
