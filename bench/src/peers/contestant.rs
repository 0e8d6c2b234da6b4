//! The programs that are compared: their names, the packages' programs that they need, and how they are run.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::scenario::Want;
use super::session::Session;
use super::stage::Stage;
use super::{multicast, unicast};
use crate::provenance::install_peers;

/// Who transfers the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contestant {
    /// AF_XDP at both ends where the driver allows, O_DIRECT onto the disk, fsync
    Discus,
    /// udp-sender and udp-receiver, full duplex, as fast as they can
    Udpcast,
    /// uftp without rate limit, uftpd
    Uftp,
    /// BitTorrent: aria2 at all machines, one of them a seeder, and opentracker
    Aria2,
    /// A daemon, and one rsync for each machine, at once
    Rsync,
    /// One TCP stream for each machine, at once
    Nc,
    /// nginx with sendfile, and one curl for each machine, at once
    Http,
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Contestant::Discus => "discus",
            Contestant::Udpcast => "udpcast",
            Contestant::Uftp => "UFTP",
            Contestant::Aria2 => "BitTorrent (aria2)",
            Contestant::Rsync => "rsync",
            Contestant::Nc => "nc",
            Contestant::Http => "HTTP (nginx, curl)",
        })
    }
}

impl Contestant {
    /// The options that shape the transfer, for the report.
    pub(crate) fn commands(self, rate: &str, compressible: bool) -> String {
        let text = match (self, compressible) {
            (Contestant::Discus, _) => return format!("`discus serve --rate {rate}`, `discus-receive`"),
            (Contestant::Udpcast, false) => "`udp-sender --full-duplex`, `udp-receiver`",
            (Contestant::Udpcast, true) => "`udp-sender --full-duplex --pipe 'zstd -1 -T0'`, `udp-receiver --pipe 'zstd -d'`",
            (Contestant::Uftp, _) => "`uftp -R -1 -Y none`, `uftpd -t`",
            (Contestant::Aria2, _) => "`opentracker`, `aria2c` as seeder, `aria2c --file-allocation=none`",
            (Contestant::Rsync, false) => "`rsync --daemon`, `rsync --whole-file`",
            (Contestant::Rsync, true) => "`rsync --daemon`, `rsync --whole-file --compress --compress-choice=zstd`",
            (Contestant::Nc, false) => "`nc -N HOST < image`, `nc -l > target`",
            (Contestant::Nc, true) => "`zstd -1 -T0 | nc -N HOST`, `nc -l | zstd -d > target`",
            (Contestant::Http, false) => "`nginx` (sendfile), `curl -o target`",
            (Contestant::Http, true) => "`nginx` (sendfile; compressed before by `zstd -3`), `curl | zstd -d > target`",
        };
        text.to_owned()
    }

    /// Whether a session of its own delivers only one image to who is there at its start.
    fn is_one_image_to_all(self) -> bool {
        matches!(self, Contestant::Udpcast | Contestant::Uftp)
    }

    /// What has to run one after the other: each a session with its receivers.
    pub(crate) fn sessions(self, wants: &[Want]) -> Vec<Vec<Want>> {
        if !self.is_one_image_to_all() {
            return vec![wants.to_vec()];
        }
        let mut sessions: Vec<Vec<Want>> = Vec::new();
        for want in wants {
            match sessions.iter_mut().find(|session| session.iter().all(|other| (other.image, other.late) == (want.image, want.late))) {
                Some(session) => session.push(*want),
                None => sessions.push(vec![*want]),
            }
        }
        sessions
    }

    /// Starts what waits for the transfer to begin.
    pub(super) fn begin(self, stage: &Stage<'_>, wants: &[Want]) -> Result<Session> {
        let session = match self {
            Contestant::Discus => multicast::discus(stage, wants),
            Contestant::Udpcast => multicast::udpcast(stage, wants),
            Contestant::Uftp => multicast::uftp(stage, wants),
            Contestant::Aria2 => unicast::aria2(stage, wants),
            Contestant::Rsync => unicast::rsync(stage, wants),
            Contestant::Nc => unicast::nc(stage, wants),
            Contestant::Http => unicast::http(stage, wants),
        };
        session.with_context(|| format!("starting {self}"))
    }

    /// Where the machine's image is when it has been delivered.
    pub(super) fn target(self, stage: &Stage<'_>, want: &Want) -> PathBuf {
        let name = stage.images[want.image].file_name().unwrap_or_default();
        match self {
            // These choose the file's name themselves.
            Contestant::Uftp | Contestant::Aria2 => stage.directory.join(format!("machine{}", want.machine)).join(name),
            _ => stage.directory.join(format!("target{}", want.machine)),
        }
    }

    /// Programs that have to be there, besides ours and those of every Debian.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Contestant::Discus => &[],
            Contestant::Udpcast => &["udp-sender"],
            Contestant::Uftp => &["uftpd"],
            Contestant::Aria2 => &["aria2c", "opentracker", "mktorrent"],
            Contestant::Rsync => &["rsync"],
            Contestant::Nc => &["nc.openbsd", "zstd"],
            Contestant::Http => &["nginx", "curl", "zstd"],
        }
    }
}

/// Installs the contestants that are missing.
pub(crate) fn install(contestants: &[Contestant]) -> Result<()> {
    let programs: Vec<&str> = contestants.iter().flat_map(|contestant| contestant.programs()).copied().chain(["ethtool"]).collect();
    install_peers(&programs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::scenario::Scenario;

    #[test]
    fn who_sends_one_image_to_all_needs_a_session_for_each_image_and_for_who_comes_late() {
        let sessions = |contestant: Contestant, scenario: Scenario| contestant.sessions(&scenario.wants()).len();
        for scenario in [Scenario::One, Scenario::Four, Scenario::Different, Scenario::Late] {
            assert_eq!(sessions(Contestant::Discus, scenario), 1);
            assert_eq!(sessions(Contestant::Http, scenario), 1);
        }
        assert_eq!(sessions(Contestant::Udpcast, Scenario::Four), 1);
        assert_eq!(sessions(Contestant::Udpcast, Scenario::Different), 4);
        assert_eq!(sessions(Contestant::Uftp, Scenario::Late), 2);
    }
}
