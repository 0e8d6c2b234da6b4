//! What the doctors of sender and receiver send and hear, and how they say what they have found: findings, the probe stream and what its loss means ([`throughput`]), and the
//! queries by which a network shows that somebody keeps account of multicast memberships.

mod querier;
pub mod throughput;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::packet::{Header, Kind};
use crate::session::{ParameterError, SessionParameters, symbol_bytes_for_mtu};
use crate::{ChunkId, Sequence, SessionId, StreamId, SymbolIndex};

pub use querier::Listening;

/// How good a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but could be better or is not certain.
    Warn,
    /// Transfers will not work like that.
    Fail,
}

impl Verdict {
    /// The exit code of a doctor whose worst finding this is.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Ok => 0,
            Verdict::Warn => 20,
            Verdict::Fail => 21,
        }
    }
}

/// One line of a doctor.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, unless it is as it should be.
    pub advice: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(subject: &'static str, found: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    /// It could be better.
    pub fn warn(subject: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    /// It has to be mended.
    pub fn fail(subject: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Fail, found: found.into(), advice: Some(advice.into()) }
    }

    /// The worst of `findings`; nothing found is well.
    pub fn worst(findings: &[Finding]) -> Verdict {
        findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        write!(f, "{verdict}  {:<12} {}", self.subject, self.found)?;
        match &self.advice {
            Some(advice) => write!(f, "\n      {:<12} → {advice}", ""),
            None => Ok(()),
        }
    }
}

/// Reads a group and its port, as a command line has them.
///
/// # Errors
/// What is wrong, for who typed it.
pub fn parse_group(text: &str) -> Result<SocketAddr, String> {
    let group: SocketAddr = text.parse().map_err(|_| "an address and a port are wanted, such as 239.192.68.1:4700".to_owned())?;
    if group.ip().is_multicast() { Ok(group) } else { Err(format!("{} is not a multicast group", group.ip())) }
}

/// The session of probe streams. That of a pack is a hash, which is this with a chance of 2^-32.
const PROBE_SESSION: SessionId = SessionId(0xD0C7_0125);
/// Steps of a round at most: rates that double from 100 Mbit/s reach 1 Tbit/s in 15.
pub const PROBE_STEPS_MAX: u32 = 32;
/// Symbol bytes of the packets of step 0, which any network passes.
pub const SMALL_SYMBOL_BYTES: u16 = 64;
const PROBE_BYTES: usize = 24;
/// The longest chunk that packs have by default.
pub const USUAL_CHUNK_BYTES: u32 = 256 << 10;
const SMALL_CHUNK_BYTES: u32 = 32 << 10;

/// What a probe packet says of the step that it belongs to. It is the start of its symbol; zeros fill the rest.
///
/// A round has a step of small packets, number 0, and then steps of full ones, each at a higher rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which round: differs from round to round.
    pub round: u32,
    /// Which step of it.
    pub step: u32,
    /// How many steps the round has.
    pub steps: u32,
    /// How many packets the step has.
    pub packets: u32,
    /// The rate of the step, bits a second on the wire.
    pub bits_per_second: u64,
}

impl Probe {
    /// The parameters under which probes are ordinary packets, full ones with `symbol_bytes`.
    pub fn parameters(symbol_bytes: u16) -> SessionParameters {
        SessionParameters { session: PROBE_SESSION, symbol_bytes, chunk_count: PROBE_STEPS_MAX, chunk_bytes_max: USUAL_CHUNK_BYTES }
    }

    /// The header of packet `number` of the step.
    pub fn header(&self, number: u32) -> Header {
        Header {
            kind: Kind::Symbol,
            session: PROBE_SESSION,
            chunk: ChunkId(self.step),
            symbol: SymbolIndex((number % 128) as u16),
            source_symbols: 128,
            sequence: Sequence(number),
            stream: StreamId(0),
        }
    }

    /// Writes it to the start of `symbol`, which has at least [`SMALL_SYMBOL_BYTES`].
    pub fn write(&self, symbol: &mut [u8]) {
        let words = [self.round, self.step, self.steps, self.packets];
        let bytes = words.into_iter().flat_map(u32::to_be_bytes).chain(self.bits_per_second.to_be_bytes());
        symbol.iter_mut().zip(bytes).for_each(|(byte, new)| *byte = new);
    }

    /// What the packet says; `None` for what is no probe.
    pub fn parse(header: &Header, symbol: &[u8]) -> Option<Probe> {
        let (bytes, _) = symbol.split_first_chunk::<PROBE_BYTES>()?;
        let word = |at: usize| bytes[at * 4..][..4].iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte));
        let bits_per_second = u64::from(word(4)) << 32 | u64::from(word(5));
        let probe = Probe { round: word(0), step: word(1), steps: word(2), packets: word(3), bits_per_second };
        let is_sound = header.kind == Kind::Symbol
            && header.session == PROBE_SESSION
            && header.chunk.0 == probe.step
            && probe.step < probe.steps
            && probe.steps <= PROBE_STEPS_MAX
            && header.sequence.0 < probe.packets;
        is_sound.then_some(probe)
    }
}

/// The symbols of full probes at an MTU: those of packs with the usual chunks, and where these are too long for the MTU, of packs with smaller ones.
///
/// # Errors
/// When the MTU is too small for either.
pub fn probe_symbol_bytes(mtu_bytes: usize) -> Result<u16, ParameterError> {
    symbol_bytes_for_mtu(mtu_bytes, USUAL_CHUNK_BYTES).or_else(|_| symbol_bytes_for_mtu(mtu_bytes, SMALL_CHUNK_BYTES))
}

/// Whether `packet`, from its IP header on as a raw socket gives it, is a general or group query of IGMP (RFC 3376, 4.1: type 0x11).
pub fn is_igmp_query(packet: &[u8]) -> bool {
    let Some(&first) = packet.first() else { return false };
    let header_bytes = usize::from(first & 0x0F) * 4;
    first >> 4 == 4 && header_bytes >= 20 && packet.get(9) == Some(&2) && packet.get(header_bytes) == Some(&0x11)
}

/// Whether `packet`, ICMPv6 without its IP header as a raw socket gives it, is an MLD query (RFC 3810, 5.1: type 130).
pub fn is_mld_query(packet: &[u8]) -> bool {
    packet.first() == Some(&130)
}

/// What having heard a querier, or none, within `seconds` means for the group's family.
fn querier(heard_from: Option<IpAddr>, seconds: u64) -> Finding {
    match heard_from {
        Some(address) => Finding::ok("querier", format!("queries for memberships come from {address}")),
        None => Finding::warn(
            "querier",
            format!("no query for multicast memberships within {seconds} s (queriers send one every 125 s, or when asked for at start)"),
            "switches that snoop (IGMP, MLD) stop forwarding a group some minutes after the last query: turn a querier on in one switch or router, or snooping off",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_probe_is_an_ordinary_packet_and_reads_back() {
        let probe = Probe { round: 7, step: 3, steps: 9, packets: 1000, bits_per_second: 10_000_000_000 };
        let mut symbol = [0; SMALL_SYMBOL_BYTES as usize];
        probe.write(&mut symbol);
        assert_eq!(Probe::parse(&probe.header(999), &symbol), Some(probe));
        assert_eq!(Probe::parse(&probe.header(1000), &symbol), None, "a number beyond the last");
        assert_eq!(Probe::parse(&Header { chunk: ChunkId(4), ..probe.header(0) }, &symbol), None);
        assert_eq!(Probe::parse(&Header { session: SessionId(1), ..probe.header(0) }, &symbol), None);
        assert_eq!(Probe::parse(&probe.header(0), &symbol[..PROBE_BYTES - 1]), None);
    }

    proptest! {
        #[test]
        fn any_symbol_is_a_sound_probe_or_none(symbol in proptest::collection::vec(any::<u8>(), 0..64), step in 0_u32..64, number: u32) {
            let header = Probe { round: 0, step, steps: 1, packets: 1, bits_per_second: 1 }.header(number);
            if let Some(probe) = Probe::parse(&header, &symbol) {
                prop_assert!(probe.step < PROBE_STEPS_MAX && number < probe.packets);
            }
        }
    }

    #[test]
    fn queries_are_told_from_reports() {
        let igmp = |kind: u8| {
            let mut packet = [0; 32];
            // With the router alert option: six words of header.
            (packet[0], packet[9], packet[24]) = (0x46, 2, kind);
            packet
        };
        assert!(is_igmp_query(&igmp(0x11)) && !is_igmp_query(&igmp(0x22)));
        assert!((0..32).all(|end| !is_igmp_query(&igmp(0x11)[..end.min(24)])));
        assert!(is_mld_query(&[130, 0]) && !is_mld_query(&[143]) && !is_mld_query(&[]));
    }

    #[test]
    fn the_worst_finding_decides_and_advice_stands_below_its_line() {
        let findings = [Finding::ok("a", "fine"), Finding::warn("b", "slow", "buy a faster one")];
        assert_eq!(Finding::worst(&findings), Verdict::Warn);
        assert_eq!(Finding::worst(&[]).exit_code(), 0);
        assert!(findings[1].to_string().contains("\n") && findings[1].to_string().contains("→ buy"));
    }
}
