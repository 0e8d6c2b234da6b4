//! discus, udpcast and UFTP: with the options that their manuals give for a clean LAN.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::contestant::Contestant;
use super::scenario::Want;
use super::session::{Session, State, Watched};
use super::stage::{READY_LIMIT, Stage};

/// One pack, one session for all, whatever they want and whenever they come.
pub(super) fn discus(stage: &Stage<'_>, wants: &[Want]) -> Result<Session> {
    let (pack, state) = (stage.pack(), stage.directory.join("state"));
    let (pack, state, count) = (pack.to_string_lossy(), state.to_string_lossy(), wants.len().to_string());
    let interface = &stage.lab.interface;
    let serve = ["serve", "--pack", &pack, "--interface", interface, "--rate", stage.rate, "--state-dir", &state, "--once", &count];
    let mut server = stage.process("discus", &stage.lab.sender, &stage.programs.discus, serve)?;
    let fingerprint = server.wait_for_fingerprint(READY_LIMIT)?;
    let address = format!("{}:4700", stage.lab.sender.ipv4);
    let watched = wants.iter().map(|want| {
        let target = Contestant::Discus.target(stage, want);
        let (image, target_text) = (format!("image{}", want.image), target.to_string_lossy().into_owned());
        let receive =
            [&image, "--server", &address, "--server-fingerprint", &fingerprint, "--interface", interface, "--target", &target_text];
        let state = State::Waits {
            machine: stage.lab.receivers[want.machine].clone(),
            program: stage.programs.receive.clone(),
            arguments: receive.map(str::to_owned).to_vec(),
            late: want.late,
        };
        Watched { name: format!("discus-receive{}", want.machine), state, delivers: vec![target] }
    });
    Ok(Session { watched: watched.collect(), servers: vec![server] })
}

/// A session of one image to those who are there.
pub(super) fn udpcast(stage: &Stage<'_>, wants: &[Want]) -> Result<Session> {
    let interface = &stage.lab.interface;
    let Some(first) = wants.first() else { return Ok(Session { servers: Vec::new(), watched: Vec::new() }) };
    let (image, count) = (stage.images[first.image].to_string_lossy(), wants.len().to_string());
    let mut send = vec!["--interface", interface, "--file", &image, "--full-duplex", "--nokbd", "--no-progress", "--min-receivers", &count];
    if stage.compressible {
        send.extend(["--pipe", "zstd -q -1 -T0"]);
    }
    let mut server = stage.process("udp-sender", &stage.lab.sender, "udp-sender", send)?;
    server.wait_for_line("waiting for its receiver", READY_LIMIT, |line| line.starts_with("Broadcasting").then_some(()))?;
    let watched = wants.iter().map(|want| {
        let target = Contestant::Udpcast.target(stage, want);
        let mut receive =
            vec!["--interface", interface, "--nokbd", "--no-progress", "--file"].into_iter().map(str::to_owned).collect::<Vec<_>>();
        receive.push(target.to_string_lossy().into_owned());
        if stage.compressible {
            receive.extend(["--pipe", "zstd -q -d"].map(str::to_owned));
        }
        let machine = stage.lab.receivers[want.machine].clone();
        let state = State::Waits { machine, program: "udp-receiver".into(), arguments: receive, late: want.late };
        Watched { name: format!("udp-receiver{}", want.machine), state, delivers: vec![target] }
    });
    Ok(Session { watched: watched.collect(), servers: vec![server] })
}

/// A session of one image to those who are named; uftpd waits at them.
pub(super) fn uftp(stage: &Stage<'_>, wants: &[Want]) -> Result<Session> {
    let interface = &stage.lab.interface;
    let (mut servers, mut delivers) = (Vec::new(), Vec::new());
    for want in wants {
        let target = Contestant::Uftp.target(stage, want);
        let directory = target.parent().unwrap_or(stage.directory);
        fs::create_dir_all(directory)?;
        let receive = ["-d", "-t", "-I", interface, "-D", &directory.to_string_lossy()];
        let mut server = stage.process(&format!("uftpd{}", want.machine), &stage.lab.receivers[want.machine], "uftpd", receive)?;
        // The last that it says at its start; uftp repeats its announcement until all have answered.
        server.wait_for_line("loading its key", READY_LIMIT, |line| line.contains("Loaded").then_some(()))?;
        servers.push(server);
        delivers.push(target);
    }
    let Some(first) = wants.first() else { return Ok(Session { servers, watched: Vec::new() }) };
    // Named by their identifiers, which are their addresses: it then begins when all have answered, not after a fixed time.
    let identifier = |want: &Want| format!("0x{:08X}", u32::from(stage.lab.receivers[want.machine].ipv4));
    let hosts = wants.iter().map(identifier).collect::<Vec<_>>().join(",");
    let image = stage.images[first.image].to_string_lossy();
    let send = ["-R", "-1", "-I", interface, "-Y", "none", "-H", &hosts, &image];
    let state = State::Waits {
        machine: stage.lab.sender.clone(),
        program: Path::new("uftp").to_owned(),
        arguments: send.map(str::to_owned).to_vec(),
        late: first.late,
    };
    Ok(Session { servers, watched: vec![Watched { name: "uftp".to_owned(), state, delivers }] })
}
