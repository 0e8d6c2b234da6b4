//! BitTorrent, rsync, nc and HTTP: an own transfer for each machine, all at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::contestant::Contestant;
use super::scenario::Want;
use super::session::{Session, State, Watched};
use super::stage::{READY_LIMIT, Stage, http_get};
use crate::provenance::output_of;

pub(super) const TRACKER_PORT: u16 = 6969;
const PEER_PORT: u16 = 6881;
const RSYNC_PORT: u16 = 8730;
const NC_PORT: u16 = 9000;
const HTTP_PORT: u16 = 8080;
/// `timeout` ends what a shell has started, should this program be killed: 5 minutes are longer than any transfer.
const SHELL_LIMIT: &str = "300";

/// A program that is started when its machine wants something.
fn starts(stage: &Stage<'_>, contestant: Contestant, want: &Want, program: &str, arguments: Vec<String>) -> Watched {
    let machine = stage.lab.receivers[want.machine].clone();
    let state = State::Waits { machine, program: program.into(), arguments, late: want.late };
    Watched { name: format!("{program}{}", want.machine), state, delivers: vec![contestant.target(stage, want)] }
}

fn shell(command: String) -> Vec<String> {
    vec![SHELL_LIMIT.to_owned(), "bash".to_owned(), "-o".to_owned(), "pipefail".to_owned(), "-c".to_owned(), command]
}

/// A tracker and a seeder at the sender; who has parts of an image gives them to others until it is whole.
pub(super) fn aria2(stage: &Stage<'_>, wants: &[Want]) -> Result<Session> {
    let sender = &stage.lab.sender;
    let images: Vec<usize> = (0..stage.images.len()).filter(|image| wants.iter().any(|want| want.image == *image)).collect();
    // Debian's tracker serves only what is listed; it drops root's rights, and reads the list after that.
    let list = stage.directory.join("torrents");
    let mut hashes = String::new();
    for &image in &images {
        let shown = output_of("aria2c", &["--show-files", &stage.torrent(image).to_string_lossy()]);
        let hash = shown.lines().find_map(|line| line.strip_prefix("Info Hash: ")).context("aria2c shows no hash of the torrent")?;
        hashes.push_str(&(hash.to_uppercase() + "\n"));
    }
    fs::write(&list, hashes)?;
    fs::set_permissions(stage.directory, fs::Permissions::from_mode(0o755))?;
    let (port, directory, address) = (TRACKER_PORT.to_string(), stage.directory.to_string_lossy(), sender.ipv4.to_string());
    let track = ["-i", &address, "-p", &port, "-d", &directory, "-u", "nobody", "-w", "torrents"];
    let tracker = stage.process("opentracker", sender, "opentracker", track)?;
    stage.await_port(sender, TRACKER_PORT)?;
    let mut servers = vec![tracker];
    for (index, &image) in images.iter().enumerate() {
        let source = stage.images[image].parent().unwrap_or(Path::new("/"));
        let port = PEER_PORT + 1 + index as u16;
        let mut seed = peer_options(source, port);
        seed.extend(["--seed-ratio=0.0", "--bt-seed-unverified=true", "--allow-overwrite=true"].map(str::to_owned));
        seed.push(stage.torrent(image).to_string_lossy().into_owned());
        servers.push(stage.process(&format!("seeder{image}"), sender, "aria2c", seed)?);
    }
    let deadline = Instant::now() + READY_LIMIT;
    let complete = || -> Result<usize> {
        let answer = http_get(&sender.namespace, (sender.ipv4, TRACKER_PORT), "/scrape")?;
        Ok(String::from_utf8_lossy(&answer).matches("8:completei1e").count())
    };
    while complete()? < images.len() {
        ensure!(Instant::now() < deadline, "the seeders have not reached the tracker");
        std::thread::sleep(Duration::from_millis(50));
    }
    let watched = wants.iter().map(|want| {
        let target = Contestant::Aria2.target(stage, want);
        let mut leech = peer_options(target.parent().unwrap_or(stage.directory), PEER_PORT);
        leech.push("--seed-time=0".to_owned());
        leech.push(stage.torrent(want.image).to_string_lossy().into_owned());
        starts(stage, Contestant::Aria2, want, "aria2c", leech)
    });
    Ok(Session { watched: watched.collect(), servers })
}

fn peer_options(directory: &Path, port: u16) -> Vec<String> {
    let fixed = [
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--file-allocation=none",
        "--summary-interval=0",
        "--show-console-readout=false",
        "--console-log-level=warn",
    ];
    let own = [format!("--dir={}", directory.display()), format!("--listen-port={port}")];
    fixed.map(str::to_owned).into_iter().chain(own).collect()
}

/// A daemon at the sender; nothing to compare with at the receivers.
pub(super) fn rsync(stage: &Stage<'_>, wants: &[Want]) -> Result<Session> {
    let sender = &stage.lab.sender;
    let configuration = stage.directory.join("rsyncd.conf");
    let root = stage.images[0].parent().unwrap_or(Path::new("/"));
    fs::write(&configuration, format!("use chroot = no\nuid = 0\ngid = 0\n[images]\npath = {}\nread only = yes\n", root.display()))?;
    let (port, configuration) = (format!("--port={RSYNC_PORT}"), format!("--config={}", configuration.display()));
    let server = stage.process("rsyncd", sender, "rsync", ["--daemon", "--no-detach", &port, &configuration])?;
    stage.await_port(sender, RSYNC_PORT)?;
    let watched = wants.iter().map(|want| {
        let name = stage.images[want.image].file_name().unwrap_or_default().to_string_lossy();
        let mut arguments = vec!["--whole-file".to_owned()];
        if stage.compressible {
            arguments.extend(["--compress", "--compress-choice=zstd"].map(str::to_owned));
        }
        arguments.push(format!("rsync://{}:{RSYNC_PORT}/images/{name}", sender.ipv4));
        arguments.push(Contestant::Rsync.target(stage, want).to_string_lossy().into_owned());
        starts(stage, Contestant::Rsync, want, "rsync", arguments)
    });
    Ok(Session { watched: watched.collect(), servers: vec![server] })
}

/// The receivers listen; the sender has one nc for each.
pub(super) fn nc(stage: &Stage<'_>, wants: &[Want]) -> Result<Session> {
    let mut watched = Vec::new();
    for want in wants {
        let machine = &stage.lab.receivers[want.machine];
        let target = Contestant::Nc.target(stage, want);
        let decompress = if stage.compressible { "| zstd -q -d " } else { "" };
        let listen = shell(format!("nc.openbsd -l {NC_PORT} {decompress}> '{}'", target.display()));
        let process = stage.process(&format!("nc-listen{}", want.machine), machine, "timeout", listen)?;
        watched.push(Watched { name: format!("nc -l {}", want.machine), state: State::Runs(process), delivers: vec![target] });
        let image = stage.images[want.image].display();
        let source = if stage.compressible { format!("zstd -q -1 -T0 -c '{image}' |") } else { format!("exec < '{image}';") };
        let send = shell(format!("{source} nc.openbsd -N {} {NC_PORT}", machine.ipv4));
        let state = State::Waits { machine: stage.lab.sender.clone(), program: "timeout".into(), arguments: send, late: want.late };
        watched.push(Watched { name: format!("nc-send{}", want.machine), state, delivers: Vec::new() });
        await_listener(stage, &machine.namespace)?;
    }
    Ok(Session { servers: Vec::new(), watched })
}

/// Without a connection, which would be the one that nc takes.
fn await_listener(stage: &Stage<'_>, namespace: &str) -> Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    let listens = || output_of("ip", &["netns", "exec", namespace, "ss", "--no-header", "-ltn"]).contains(&format!(":{NC_PORT}"));
    while !listens() {
        ensure!(Instant::now() < deadline, "nc does not listen in {namespace}, files in {}", stage.directory.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// nginx with sendfile, as Debian configures it, but in one process, which ends with this program; it is far from a core's work.
pub(super) fn http(stage: &Stage<'_>, wants: &[Want]) -> Result<Session> {
    let sender = &stage.lab.sender;
    let (directory, root) = (stage.directory.display(), stage.images[0].parent().unwrap_or(Path::new("/")).display());
    let configuration = stage.directory.join("nginx.conf");
    let text = format!(
        "daemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\nevents {{ worker_connections 768; }}\n\
         http {{ sendfile on; tcp_nopush on; access_log off; server {{ listen {HTTP_PORT}; location / {{ root {root}; }} location /compressed/ {{ alias {directory}/; }} }} }}\n"
    );
    fs::write(&configuration, text)?;
    let server = stage.process("nginx", sender, "nginx", ["-c", &configuration.to_string_lossy()])?;
    stage.await_port(sender, HTTP_PORT)?;
    let watched = wants.iter().map(|want| {
        let target = Contestant::Http.target(stage, want);
        let address = format!("http://{}:{HTTP_PORT}", sender.ipv4);
        if stage.compressible {
            let url = format!("{address}/compressed/image{}.zst", want.image);
            let command = shell(format!("curl --silent --fail '{url}' | zstd -q -d > '{}'", target.display()));
            return starts(stage, Contestant::Http, want, "timeout", command);
        }
        let name = stage.images[want.image].file_name().unwrap_or_default().to_string_lossy();
        let arguments = ["--silent", "--show-error", "--fail", "--output", &target.to_string_lossy(), &format!("{address}/{name}")];
        starts(stage, Contestant::Http, want, "curl", arguments.map(str::to_owned).to_vec())
    });
    Ok(Session { watched: watched.collect(), servers: vec![server] })
}
