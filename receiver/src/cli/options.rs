//! The command line of `discus-receive`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser};
use image::signature::PublicKey;
use receiver::control::{Fingerprint, ServerAddress};
use receiver::engine::UnicastMode;
use receiver::intake::{IntakeMode, XdpMode};
use receiver::restore_rate::WriteTest;

const EXIT_CODES: &str = "Exit codes:
    0  the image is whole on the target
    2  usage; also: not enough --memory for this session
    3  the target was refused: mounted, in use, too small, exists without --force
    4  the sender cannot be reached, has another fingerprint, or does not serve the image
    5  the sender was lost and did not come back within --server-timeout, or cannot give what does not come by multicast
    6  an input/output error on the target
    7  the sender dismissed this receiver, or serves another pack now
    8  the network could not be set up: interface, groups, filter, AF_XDP
    9  the pack is not signed by --verify-key, or what the sender sent is not what was signed; nothing was written
  130  interrupted (SIGINT); 143: terminated (SIGTERM)
After any code but 0 the target does not look whole: a file has the name TARGET.partial, a device has no first page.
The same command with --resume goes on from there.

discus-receive doctor --interface IF looks for what would make a transfer fail or slow; it has a --help of its own.
(An image of the name `doctor` is received when some option stands before its name.)";

/// Receive an image from a discus sender and write it to a disk, a file or a directory.
#[derive(Parser, Debug)]
#[command(name = "discus-receive", version, after_long_help = EXIT_CODES, after_help = "Exit codes and more: --help")]
#[command(group(ArgGroup::new("trust").required(true).args(["server_fingerprint", "trust_any_server"])))]
pub(crate) struct Options {
    /// The image to receive, as the sender names it.
    pub(crate) image: String,

    /// The sender's control address, as `discus serve` prints it; the port may be left out when it is 4700.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) server: ServerAddress,

    /// The fingerprint of the sender's certificate, as `discus serve` prints it. Anybody else is refused.
    #[arg(long, value_name = "sha256:HEX")]
    pub(crate) server_fingerprint: Option<Fingerprint>,

    /// Take whoever answers for the sender. Whoever can answer can then decide what this machine runs.
    #[arg(long)]
    pub(crate) trust_any_server: bool,

    /// The public key that must have signed the pack: its file, or the key itself (the middle line of that file). Then even the
    /// sender can make this machine run nothing else. It is checked before anything is written.
    #[arg(long, value_name = "KEY|FILE", value_parser = parse_key)]
    pub(crate) verify_key: Option<PublicKey>,

    /// The interface on which the multicast arrives. Only --unicast always does without it.
    #[arg(long, value_name = "IF")]
    pub(crate) interface: Option<String>,

    /// Where the image goes: a block device or a file for a disk image, a directory for a tree.
    #[arg(long, value_name = "DEVICE|FILE|DIR")]
    pub(crate) target: PathBuf,

    /// Overwrite a file that exists, or write into a directory that is not empty. Never overwrites a device in use.
    #[arg(long)]
    pub(crate) force: bool,

    /// Keep what the target holds of the image already: an older version of it, or what an interrupted run has written. The target is read
    /// first, and only what differs is received. A file that exists is turned into the image. For disk images only.
    #[arg(long)]
    pub(crate) resume: bool,

    /// This machine's name on the sender's list [default: the host name].
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// The group that this machine belongs to, a rack for example: the sender's operator can give groups priorities.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) group: String,

    /// When to take the image over the connection to the sender instead of by multicast: when no packet of the streams has come within
    /// 10 s after the sender said that some will (auto), or always, which needs no interface, no filter and no privilege but those that
    /// the target wants; never: only single chunks that the sender does not multicast any more.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) unicast: UnicastMode,

    /// Write for at most 0.3 s, before anything is received, to find out what this machine can restore: the sender's plan depends on
    /// it. Nothing is changed by that: a file system is tested in a file without a name, and of a device, unless it is resumed, some
    /// blocks that the image will overwrite are read and written again as they are.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) write_test: WriteTest,

    /// What this machine restores, in bytes of the pack a second such as 100M, for those who know it better than the write test: it is not
    /// made then.
    #[arg(long, value_name = "BYTES", value_parser = parse_memory_bytes)]
    pub(crate) restore_rate: Option<usize>,

    /// Memory for packets and chunks in flight, in MiB, or with a suffix: 512M, 1G.
    #[arg(long, value_name = "SIZE", default_value = "192M", value_parser = parse_memory_bytes)]
    pub(crate) memory: usize,

    /// Threads that decode, hash and decompress [default: as many as there are cores beyond two, at most 4].
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,

    /// Cores to pin threads to, in the order intake, writer, workers [default: not pinned on fewer than four cores, else the
    /// last ones].
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', value_parser = parse_core)]
    pub(crate) cores: Vec<usize>,

    /// How packets come in.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) intake: IntakeMode,

    /// Where the filter runs: in the driver, in the kernel's generic path, or (off) in this program.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) xdp: XdpMode,

    /// Drive the card's receive queues from this program's own core while packets come, rather than be interrupted (AF_XDP only). It keeps
    /// that core busy; see the operator's guide.
    #[arg(long)]
    pub(crate) busy_poll: bool,

    /// How long to go on without the sender, in seconds.
    #[arg(long, value_name = "SECS", default_value = "60", value_parser = parse_seconds)]
    pub(crate) server_timeout: Duration,

    /// Print one JSON object on standard output at the end, on failure too; everything else goes to standard error.
    #[arg(long)]
    pub(crate) json: bool,

    /// Show no progress and no remarks: only errors, and the summary if --json asks for it.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// A number of MiB, or a number with suffix K, M or G (powers of 1024).
fn parse_memory_bytes(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        _ => (text, 20),
    };
    let number: usize = digits.parse().map_err(|_| "give a number of MiB, or 512M, or 1G".to_owned())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes <= 1 << 40).ok_or_else(|| "more than 1 TiB is a mistake".to_owned())
}

fn parse_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::from_argument(text).map_err(|error| error.to_string())
}

/// Reads the number of a core that this program may run on.
fn parse_core(text: &str) -> Result<usize, String> {
    let here: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    let known = text.parse().ok().filter(|core| here.contains(core));
    known.ok_or_else(|| format!("this program may run on {}", here.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| "give a number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    const HEX: &str = "sha256:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn parse(extra: &[&str]) -> Result<Options, clap::Error> {
        let base = ["discus-receive", "web", "--server", "10.0.0.1:4700", "--interface", "eth1", "--target", "/dev/sda"];
        Options::try_parse_from(base.iter().chain(extra))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Options::command().debug_assert();
    }

    #[test]
    fn whom_to_trust_must_be_said_once() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--trust-any-server"]).is_ok());
        assert!(parse(&["--server-fingerprint", HEX]).is_ok());
        assert!(parse(&["--server-fingerprint", HEX, "--trust-any-server"]).is_err());
        assert!(parse(&["--server-fingerprint", "sha256:12"]).is_err());
    }

    #[test]
    fn modes_have_the_documented_names() {
        let intakes = [
            ("auto", IntakeMode::Auto),
            ("af-xdp", IntakeMode::AfXdp),
            ("af-xdp-zero-copy", IntakeMode::AfXdpZeroCopy),
            ("af-xdp-copy", IntakeMode::AfXdpCopy),
            ("udp", IntakeMode::Udp),
        ];
        for (name, mode) in intakes {
            assert_eq!(parse(&["--trust-any-server", "--intake", name]).unwrap().intake, mode);
        }
        let filters = [("auto", XdpMode::Auto), ("driver", XdpMode::Driver), ("generic", XdpMode::Generic), ("off", XdpMode::Off)];
        for (name, mode) in filters {
            assert_eq!(parse(&["--trust-any-server", "--xdp", name]).unwrap().xdp, mode);
        }
    }

    #[test]
    fn unicast_is_taken_when_nothing_else_comes_unless_said_otherwise() {
        assert_eq!(parse(&["--trust-any-server"]).unwrap().unicast, UnicastMode::Auto);
        assert_eq!(parse(&["--trust-any-server", "--unicast", "always"]).unwrap().unicast, UnicastMode::Always);
        assert_eq!(parse(&["--trust-any-server", "--unicast", "never"]).unwrap().unicast, UnicastMode::Never);
        assert!(parse(&["--trust-any-server", "--unicast"]).is_err());
    }

    #[test]
    fn memory_is_in_mib_or_has_a_suffix() {
        assert_eq!(parse(&["--trust-any-server"]).unwrap().memory, 192 << 20);
        for (text, bytes) in [("64", 64 << 20), ("64M", 64 << 20), ("1G", 1 << 30), ("2048k", 2 << 20)] {
            assert_eq!(parse_memory_bytes(text), Ok(bytes));
        }
        for text in ["", "M", "-1", "1T", "99999999999999999999", "9999999G"] {
            assert!(parse_memory_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_may_be_given_as_text() {
        let key = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
        assert_eq!(parse(&["--trust-any-server", "--verify-key", key]).unwrap().verify_key.unwrap().to_string(), key);
        assert!(parse(&["--trust-any-server", "--verify-key", "/nowhere/fleet.pub"]).is_err());
    }

    #[test]
    fn cores_are_a_list() {
        let here = core_affinity::get_core_ids().unwrap()[0].id;
        let list = format!("{here},{here}");
        assert_eq!(parse(&["--trust-any-server", "--cores", &list]).unwrap().cores, [here, here]);
        assert!(parse(&["--trust-any-server", "--cores", &format!("{here},9999")]).is_err(), "no machine has it");
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(parse_seconds("-1").is_err());
        assert!(parse_seconds("soon").is_err());
    }
}
