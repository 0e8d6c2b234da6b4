//! The programs that are compared, and how each is run: with the options that its manual gives for one receiver on a clean LAN.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::lab::{Lab, Machine, Process, Programs};
use crate::provenance::install_peers;

/// Within this a server says that it is ready.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Who transfers the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contestant {
    /// AF_XDP at both ends where the driver allows, O_DIRECT onto the disk, fsync.
    Discus,
    /// udp-sender and udp-receiver, full duplex, as fast as they can.
    Udpcast,
    /// uftp without rate limit, uftpd.
    Uftp,
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Contestant::Discus => "discus",
            Contestant::Udpcast => "udpcast",
            Contestant::Uftp => "UFTP",
        })
    }
}

impl Contestant {
    /// The options that shape the transfer, for the report.
    pub(crate) fn commands(self, rate: &str) -> String {
        match self {
            Contestant::Discus => format!("`discus serve --rate {rate}`, `discus-receive`"),
            Contestant::Udpcast => "`udp-sender --full-duplex`, `udp-receiver`".to_owned(),
            Contestant::Uftp => "`uftp -R -1 -Y none`, `uftpd -t`".to_owned(),
        }
    }
}

/// Where the contest takes place.
pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) programs: &'a Programs,
    pub(crate) directory: &'a Path,
    pub(crate) source: &'a Path,
    pub(crate) rate: &'a str,
}

/// A transfer whose one end waits for the other.
pub(crate) struct Transfer<'a> {
    waiting: Process,
    stage: &'a Stage<'a>,
    contestant: Contestant,
    start: Vec<String>,
    delivered: PathBuf,
}

/// Installs the contestants that are missing.
pub(crate) fn install(contestants: &[Contestant]) -> Result<()> {
    let needs = |contestant| match contestant {
        Contestant::Discus => None,
        Contestant::Udpcast => Some("udp-sender"),
        Contestant::Uftp => Some("uftpd"),
    };
    let programs: Vec<&str> = contestants.iter().filter_map(|&contestant| needs(contestant)).collect();
    install_peers(&programs)
}

impl Stage<'_> {
    /// Does what is not part of the transfer.
    pub(crate) fn prepare(&self, contestants: &[Contestant]) -> Result<()> {
        if contestants.contains(&Contestant::Discus) {
            let mut command = Command::new(&self.programs.discus);
            command.arg("pack").arg("--output").arg(self.pack()).arg(format!("source={}", self.source.display())).stdin(Stdio::null());
            let output = command.output().context("running discus pack")?;
            ensure!(output.status.success(), "discus pack: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts the end that waits; [`Transfer::run`] starts the other.
    pub(crate) fn start(&self, contestant: Contestant, target: &Path) -> Result<Transfer<'_>> {
        let interface = &self.lab.interface;
        let arguments = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let target_text = target.to_string_lossy();
        let source_text = self.source.to_string_lossy();
        match contestant {
            Contestant::Discus => {
                let (pack, state) = (self.pack(), self.directory.join("state"));
                let (pack, state) = (pack.to_string_lossy(), state.to_string_lossy());
                let serve = ["serve", "--pack", &pack, "--interface", interface, "--rate", self.rate, "--state-dir", &state, "--once", "1"];
                let mut waiting = self.process("discus", &self.lab.sender, &self.programs.discus, serve)?;
                let fingerprint = waiting.wait_for_line("printing its fingerprint", READY_LIMIT, |line| {
                    let at = line.find("sha256:")?;
                    line.get(at..at + "sha256:".len() + 64).map(str::to_owned)
                })?;
                let server = format!("{}:4700", self.lab.sender.ipv4);
                let receive = [
                    "source",
                    "--server",
                    &server,
                    "--server-fingerprint",
                    &fingerprint,
                    "--interface",
                    interface,
                    "--target",
                    &target_text,
                ];
                let start = arguments(&receive);
                Ok(Transfer { waiting, stage: self, contestant, start, delivered: target.to_owned() })
            }
            Contestant::Udpcast => {
                let send =
                    ["--interface", interface, "--file", &source_text, "--full-duplex", "--nokbd", "--no-progress", "--min-receivers", "1"];
                let mut waiting = self.process("udp-sender", &self.lab.sender, Path::new("udp-sender"), send)?;
                waiting.wait_for_line("waiting for its receiver", READY_LIMIT, |line| line.starts_with("Broadcasting").then_some(()))?;
                let start = arguments(&["--interface", interface, "--file", &target_text, "--nokbd", "--no-progress"]);
                Ok(Transfer { waiting, stage: self, contestant, start, delivered: target.to_owned() })
            }
            Contestant::Uftp => {
                let directory = self.directory.join("uftp");
                fs::create_dir_all(&directory)?;
                let receive = ["-d", "-t", "-I", interface, "-D", &directory.to_string_lossy()];
                let mut waiting = self.process("uftpd", &self.lab.receivers[0], Path::new("uftpd"), receive)?;
                // The last that it says at its start; uftp repeats its announcement until somebody answers.
                waiting.wait_for_line("loading its key", READY_LIMIT, |line| line.contains("Loaded").then_some(()))?;
                let start = arguments(&["-R", "-1", "-I", interface, "-Y", "none", &source_text]);
                let delivered = directory.join(self.source.file_name().unwrap_or(OsStr::new("source")));
                Ok(Transfer { waiting, stage: self, contestant, start, delivered })
            }
        }
    }

    fn process<'b>(&self, name: &str, machine: &Machine, program: &Path, arguments: impl IntoIterator<Item = &'b str>) -> Result<Process> {
        Process::start(name, self.directory, &machine.namespace, program, arguments)
    }

    fn pack(&self) -> PathBuf {
        self.directory.join("source.pack")
    }
}

impl Transfer<'_> {
    /// Starts the end that makes the transfer begin and waits until the file is there; returns where.
    pub(crate) fn run(self, limit: Duration) -> Result<PathBuf> {
        let Transfer { waiting, stage, contestant, start, delivered } = self;
        let (name, machine, program) = match contestant {
            Contestant::Discus => ("discus-receive", &stage.lab.receivers[0], stage.programs.receive.as_path()),
            Contestant::Udpcast => ("udp-receiver", &stage.lab.receivers[0], Path::new("udp-receiver")),
            Contestant::Uftp => ("uftp", &stage.lab.sender, Path::new("uftp")),
        };
        let ended = stage.process(name, machine, program, start.iter().map(String::as_str))?.wait(limit)?;
        if ended.code != Some(0) {
            bail!("{name} ended with {:?}:\n{}{}", ended.code, ended.stdout, ended.stderr);
        }
        // uftpd serves for ever; the drop ends it. The others' waiting ends know that they are done.
        drop(waiting);
        Ok(delivered)
    }
}
