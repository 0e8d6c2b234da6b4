//! Where the contest takes place: the network of a scenario, the images, and what each contestant needs prepared that is no part of the transfer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::contestant::Contestant;
use super::scenario::{COMMON_TENTHS, LOSS, NARROW_MEGABITS, NARROW_QUEUE_PACKETS, Scenario};
use crate::lab::content::{Part, write_image};
use crate::lab::{Lab, LabOptions, Machine, Process, Programs, inside};
use crate::leavings::succeed;

/// Within this a server says that it is ready.
pub(super) const READY_LIMIT: Duration = Duration::from_secs(20);

/// See the module's text. All ends with it.
pub(super) struct Stage<'a> {
    // Dropped in this order: the impairment, then the network.
    _impairment: Option<Process>,
    pub(super) lab: Lab,
    pub(super) programs: &'a Programs,
    pub(super) directory: &'a Path,
    /// Of the images that the scenario needs, in order.
    pub(super) images: Vec<PathBuf>,
    /// Whether they are worth compressing on the way.
    pub(super) compressible: bool,
    pub(super) rate: &'a str,
}

impl<'a> Stage<'a> {
    pub(super) fn set(
        scenario: Scenario,
        programs: &'a Programs,
        directory: &'a Path,
        rate: &'a str,
        mtu_bytes: u32,
        images: Vec<PathBuf>,
        compressible: bool,
    ) -> Result<Stage<'a>> {
        let lab =
            Lab::up(&LabOptions { receivers: scenario.receivers(), mtu_bytes, cable: scenario == Scenario::One, ..LabOptions::default() })?;
        if scenario == Scenario::Narrow {
            lab.narrow(&lab.receivers.iter().collect::<Vec<_>>(), NARROW_MEGABITS, NARROW_QUEUE_PACKETS)?;
        }
        let mut impairment = None;
        if scenario == Scenario::Loss {
            for machine in lab.receivers.iter().chain([&lab.sender]) {
                let offloads = ["tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off"];
                let arguments = ["netns", "exec", &machine.namespace, "ethtool", "-K", &lab.interface];
                succeed(Command::new("ip").args(arguments).args(offloads))?;
            }
            let arguments = ["impair", "--interface", &lab.receivers[0].port, "--everything", "--loss", LOSS, "--json"];
            let mut process = Process::start("impair", directory, &lab.bridge, &programs.bench, arguments)?;
            process.wait_for_line("attaching the impairment", READY_LIMIT, |_| Some(()))?;
            impairment = Some(process);
        }
        Ok(Stage { _impairment: impairment, lab, programs, directory, images, compressible, rate })
    }

    /// Does what is not part of the transfer.
    pub(super) fn prepare(&self, contestants: &[Contestant]) -> Result<()> {
        if contestants.contains(&Contestant::Discus) {
            let mut pack = Command::new(&self.programs.discus);
            pack.arg("pack").arg("--output").arg(self.pack());
            for (index, image) in self.images.iter().enumerate() {
                pack.arg(format!("image{index}={}", image.display()));
            }
            succeed(&mut pack)?;
            if self.compressible {
                for index in 0..self.images.len() {
                    let mut restore = Command::new(&self.programs.discus);
                    restore.args(["restore", "--force", &format!("image{index}"), "--pack"]).arg(self.pack());
                    succeed(restore.arg("--output").arg(self.restored(index)))?;
                }
            }
        }
        for (index, image) in self.images.iter().enumerate() {
            if contestants.contains(&Contestant::Aria2) {
                // Pieces of 1 MiB, as is usual for files of this size.
                let announce = format!("http://{}:{}/announce", self.lab.sender.ipv4, super::unicast::TRACKER_PORT);
                let torrent = self.torrent(index);
                if torrent.exists() {
                    std::fs::remove_file(&torrent)?;
                }
                succeed(Command::new("mktorrent").args(["-l", "20", "-a", &announce, "-o"]).arg(torrent).arg(image))?;
            }
            if contestants.contains(&Contestant::Http) && self.compressible && !self.compressed(index).exists() {
                succeed(Command::new("zstd").args(["-q", "-3", "-T0", "-o"]).arg(self.compressed(index)).arg(image))?;
            }
        }
        Ok(())
    }

    /// What an image is once this contestant has delivered it. discus leaves out what file systems in real images do not use.
    pub(super) fn delivered_by(&self, contestant: Contestant, image: usize) -> PathBuf {
        match contestant {
            Contestant::Discus if self.compressible => self.restored(image),
            _ => self.images[image].clone(),
        }
    }

    fn restored(&self, image: usize) -> PathBuf {
        self.directory.join(format!("restored{image}.raw"))
    }

    pub(super) fn pack(&self) -> PathBuf {
        self.directory.join("pack")
    }

    pub(super) fn torrent(&self, image: usize) -> PathBuf {
        self.directory.join(format!("image{image}.torrent"))
    }

    pub(super) fn compressed(&self, image: usize) -> PathBuf {
        self.directory.join(format!("image{image}.zst"))
    }

    pub(super) fn process<S: AsRef<str>>(
        &self,
        name: &str,
        machine: &Machine,
        program: impl AsRef<Path>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Process> {
        let arguments: Vec<String> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        Process::start(name, self.directory, &machine.namespace, program.as_ref(), arguments)
    }

    /// Waits until somebody listens at the machine's port.
    pub(super) fn await_port(&self, machine: &Machine, port: u16) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        while inside(&machine.namespace, || Ok(TcpStream::connect((machine.ipv4, port))?)).is_err() {
            ensure!(Instant::now() < deadline, "nobody listens at port {port} of {}", machine.namespace);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// What an HTTP server in the namespace answers.
pub(super) fn http_get(namespace: &str, address: (Ipv4Addr, u16), path: &str) -> Result<Vec<u8>> {
    inside(namespace, || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.take(1 << 16).read_to_end(&mut answer)?;
        Ok(answer)
    })
}

/// Images of `bytes` each, incompressible; with several, most of each is common to all.
pub(super) fn make_images(directory: &Path, count: usize, bytes: u64) -> Result<Vec<PathBuf>> {
    let common = if count > 1 { bytes / 10 * COMMON_TENTHS / 4096 * 4096 } else { 0 };
    let make = |index: usize| {
        let path = directory.join(format!("image{index}.raw"));
        let own = Part::Noise { seed: 10 + index as u64, bytes: bytes - common };
        write_image(&path, &[Part::Noise { seed: 1, bytes: common }, own])?;
        Ok(path)
    };
    (0..count).map(make).collect()
}
