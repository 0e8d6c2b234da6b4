//! The command line of `discus-filter`, and its translation into the filter's configuration.

use anyhow::{Context, bail};
use bpf::{AttachMode, FilterConfig, IdWidth, OnWanted};
use clap::{Parser, ValueEnum};

use super::ids::Ids;

const ABOUT: &str = "Attach the discus XDP filter to an interface and watch what it does.

The filter looks at every packet that the interface receives. Packets of the feed (UDP to --port whose \
--match-value bytes agree) pass only if their id is listed with --ids; the feed's other packets are dropped \
before the kernel's network stack sees them. Everything else passes untouched.";

const EXAMPLES: &str = "Examples:
  # A feed on ports 5000 to 5003 whose payload starts with \"FEED\" and has a 32-bit id at byte 8
  discus-filter --interface eth1 --port 5000-5003 --match-value 46454544 --id-offset 8 --ids 0-99,200

  # Take nothing: how many packets a second can this machine drop?
  discus-filter --interface eth1 --port 5000 --id-offset 8 --ids none --duration 10 --json

Output, once a second (with --json an object per line):
  seen            all packets        wanted      of the feed and listed: passed on
  foreign         other traffic      unwanted    of the feed and not listed: dropped
  other session   our port, other match bytes: passed
  bad             of the feed, but too short or an id beyond the list: dropped

Exit codes:
  0  ended by Ctrl-C, SIGTERM or --duration, and detached
  1  another error                  2  wrong arguments
  3  no right to load the filter    4  no such interface
  5  another XDP program is there   6  the kernel refused the filter

The kernel detaches the filter when this program ends, however it ends.";

/// Arguments.
#[derive(Debug, Parser)]
#[command(name = "discus-filter", version, about = ABOUT, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Interface to attach to
    #[arg(short, long, value_name = "IF")]
    pub(crate) interface: String,

    /// UDP destination port of the feed, or a range such as 5000-5003
    #[arg(short, long, value_name = "P[-Q]", value_parser = parse_ports)]
    port: (u16, u16),

    /// Ids that pass: numbers and ranges such as 0-99,200; `none`, or `all` with --id-count
    #[arg(long, value_name = "LIST")]
    pub(crate) ids: Ids,

    /// Number of ids; larger ids count as out of range [default: the largest listed id and one]
    #[arg(long, value_name = "N")]
    id_count: Option<u32>,

    /// Where the id starts, in bytes from the start of the UDP payload
    #[arg(long, value_name = "BYTES")]
    id_offset: u16,

    /// Width of the id, big-endian, in bytes
    #[arg(long, value_name = "BYTES", default_value = "4", value_parser = parse_width)]
    id_width: IdWidth,

    /// Bytes that every packet of the feed carries, as up to 16 hexadecimal digits in the order of the packet;
    /// without them everything on the port is the feed's
    #[arg(long, value_name = "HEX", value_parser = parse_bytes)]
    match_value: Option<Bytes>,

    /// Which bits of the match bytes count, as many digits as --match-value [default: all]
    #[arg(long, value_name = "HEX", value_parser = parse_bytes, requires = "match_value")]
    match_mask: Option<Bytes>,

    /// Where the match bytes start; the payload must hold eight bytes from there
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    match_offset: u16,

    /// Shortest payload that a packet of the feed can have
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    min_payload: u16,

    /// What becomes of wanted packets. `redirect` sends them to the AF_XDP socket of their receive queue; this
    /// program opens none, so they pass, but cost what they will cost a program that does
    #[arg(long, value_enum, default_value_t = Wanted::Pass)]
    on_wanted: Wanted,

    /// Where in the receive path to attach: `driver` is fast and needs the driver's help, `generic` works everywhere
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub(crate) mode: Mode,

    /// End after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) duration: Option<f64>,

    /// Report as JSON, one object per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Up to eight bytes as they stand in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes {
    bytes: [u8; 8],
    len: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Wanted {
    Pass,
    Redirect,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    Auto,
    Driver,
    Generic,
}

impl From<Mode> for AttachMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Driver => Self::Driver,
            Mode::Generic => Self::Generic,
        }
    }
}

impl Arguments {
    /// The filter's configuration.
    pub(crate) fn config(&self) -> anyhow::Result<FilterConfig> {
        let (first_port, last_port) = self.port;
        let id_count = match (self.id_count, self.ids.largest()) {
            (Some(count), Some(largest)) if largest >= count => {
                bail!(bpf::Error::Config(format!("id {largest} is listed, but there are {count} ids")))
            }
            (Some(count), _) => count,
            (None, Some(largest)) => largest.checked_add(1).context("the largest id is too large")?,
            (None, None) if self.ids == Ids::All => bail!(bpf::Error::Config("--ids all needs --id-count".to_owned())),
            (None, None) => 1,
        };
        let (match_value, match_mask) = match (self.match_value, self.match_mask) {
            (None, _) => (0, 0),
            (Some(value), None) => (value.number(), Bytes { bytes: [0xff; 8], len: value.len }.number()),
            (Some(value), Some(mask)) if mask.len == value.len => (value.number(), mask.number()),
            (Some(_), Some(_)) => bail!(bpf::Error::Config("--match-value and --match-mask must be equally long".to_owned())),
        };
        Ok(FilterConfig {
            first_port,
            // The parser refuses the one range that has 65536 ports.
            port_count: last_port - first_port + 1,
            match_offset: self.match_offset,
            match_value,
            match_mask,
            id_offset: self.id_offset,
            id_width: self.id_width,
            id_count,
            on_wanted: match self.on_wanted {
                Wanted::Pass => OnWanted::Pass,
                Wanted::Redirect => OnWanted::Redirect,
            },
            min_payload_bytes: self.min_payload,
            streams: None,
        })
    }
}

impl Bytes {
    /// The bytes as the upper ones of a big-endian number.
    fn number(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..self.len].copy_from_slice(&self.bytes[..self.len]);
        u64::from_be_bytes(bytes)
    }
}

fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| text.trim().parse::<u16>().map_err(|_| format!("{text:?} is no port"));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first == 0 || last < first {
        return Err("ports go from 1 to 65535, the smaller first".to_owned());
    }
    Ok((first, last))
}

fn parse_width(text: &str) -> Result<IdWidth, String> {
    match text {
        "1" => Ok(IdWidth::U8),
        "2" => Ok(IdWidth::U16),
        "4" => Ok(IdWidth::U32),
        _ => Err("an id is 1, 2 or 4 bytes wide".to_owned()),
    }
}

fn parse_bytes(text: &str) -> Result<Bytes, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    if digits.is_empty() || digits.len() > 16 || !digits.len().is_multiple_of(2) {
        return Err("2 to 16 hexadecimal digits, two for each byte".to_owned());
    }
    let mut bytes = [0; 8];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|error| error.to_string())?;
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(format!("{pair:?} is no hexadecimal number"));
        }
        *byte = u8::from_str_radix(pair, 16).map_err(|error| error.to_string())?;
    }
    Ok(Bytes { bytes, len: digits.len() / 2 })
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    // A year, well within what clocks and durations take.
    const SECONDS_MAX: f64 = 31_536_000.0;
    text.parse().ok().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds)).ok_or_else(|| "seconds, at most a year of them".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> anyhow::Result<FilterConfig> {
        let arguments = [&["discus-filter", "--interface", "x", "--id-offset", "8"], more].concat();
        Arguments::try_parse_from(arguments)?.config()
    }

    #[test]
    fn match_bytes_stand_as_in_the_packet() {
        let config = parse(&["--port", "5000-5003", "--ids", "0-9", "--match-value", "0x46454544"]).unwrap();
        assert_eq!((config.match_value, config.match_mask), (0x4645_4544_0000_0000, 0xffff_ffff_0000_0000));
        assert_eq!((config.first_port, config.port_count, config.id_count), (5000, 4, 10));
        let masked = parse(&["--port", "1-65535", "--ids", "none", "--match-value", "4645", "--match-mask", "ff0f"]).unwrap();
        assert_eq!((masked.match_mask, masked.port_count, masked.id_count), (0xff0f_0000_0000_0000, 65_535, 1));
    }

    #[test]
    fn without_match_bytes_everything_on_the_port_is_the_feeds() {
        assert_eq!(parse(&["--port", "7", "--ids", "all", "--id-count", "5"]).unwrap().match_mask, 0);
    }

    #[test]
    fn contradictions_are_refused() {
        for arguments in [
            &["--port", "5003-5000", "--ids", "1"][..],
            &["--port", "0", "--ids", "1"],
            &["--port", "65536", "--ids", "1"],
            &["--port", "7", "--ids", "all"],
            &["--port", "7", "--ids", "5", "--id-count", "5"],
            &["--port", "7", "--ids", "5", "--id-width", "3"],
            &["--port", "7", "--ids", "5", "--match-value", "123"],
            &["--port", "7", "--ids", "5", "--match-value", "+1"],
            &["--port", "7", "--ids", "5", "--match-value", "1234", "--match-mask", "ff"],
            &["--port", "7", "--ids", "5", "--match-mask", "ff"],
            &["--port", "7", "--ids", "5", "--duration", "-1"],
        ] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
