//! One table of packets with the verdict that the filter owes each: the tests compare verdicts, the bench
//! measures nanoseconds, from the same rows.

mod packet;

pub use packet::{Frame, Network};

use crate::{FilterConfig, IdWidth, OnWanted, Verdict};

/// Number of ids in the fixtures' want set.
pub const ID_COUNT: u32 = 1000;
/// An id that is wanted.
pub const WANTED: u32 = 5;
/// An id that was wanted and has been cleared.
pub const FINISHED: u32 = 6;
/// An id that never was wanted.
pub const UNWANTED: u32 = 7;

/// First of the feed's four ports.
pub const PORT: u16 = 5000;
const PORT_COUNT: u16 = 4;
const MATCH_VALUE: u64 = 0x4645_4544_0001_cafe;
const ID_OFFSET_BYTES: usize = 8;
/// The feed's header: match bytes, id, and 16 bytes that the filter does not look at.
const HEADER_BYTES: usize = 28;
/// A payload that fills an Ethernet frame of 1500 bytes behind IPv6, like a real feed's.
const PAYLOAD_BYTES: usize = 1452;

/// Tag protocol identifier of a customer tag (802.1Q).
const TAG_CUSTOMER: u16 = 0x8100;
/// Tag protocol identifier of a provider tag (802.1ad).
const TAG_PROVIDER: u16 = 0x88a8;

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// A packet and what the filter owes it.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// What the packet is.
    pub name: &'static str,
    /// The Ethernet frame.
    pub packet: Vec<u8>,
    /// Whether the packet's receive queue has an AF_XDP socket.
    pub with_socket: bool,
    /// What the filter must say.
    pub verdict: Verdict,
}

/// The feed of the fixtures: four ports, eight match bytes, then a 32-bit id.
pub fn config() -> FilterConfig {
    FilterConfig {
        first_port: PORT,
        port_count: PORT_COUNT,
        match_offset: 0,
        match_value: MATCH_VALUE,
        match_mask: u64::MAX,
        id_offset: ID_OFFSET_BYTES as u16,
        id_width: IdWidth::U32,
        id_count: ID_COUNT,
        on_wanted: OnWanted::Redirect,
        min_payload_bytes: HEADER_BYTES as u16,
        streams: None,
    }
}

/// A payload of the feed.
pub fn payload(id: u32) -> Vec<u8> {
    let mut payload = MATCH_VALUE.to_be_bytes().to_vec();
    payload.extend(id.to_be_bytes());
    payload.resize(PAYLOAD_BYTES, 0xa5);
    payload
}

/// The table.
pub fn table() -> Vec<Fixture> {
    use Verdict::{Foreign, IdOutOfRange, Malformed, OtherSession, Unwanted, WantedPassed, WantedRedirected};

    let mut rows = Vec::new();
    let mut add = |name, packet: Vec<u8>, verdict| {
        rows.push(Fixture { name, packet, with_socket: verdict != WantedPassed, verdict });
    };
    let feed = |id| Frame::udp(PORT, payload(id));
    let wanted = || feed(WANTED);
    let v6 = |frame: Frame| Frame { network: Network::V6 { next_header: PROTOCOL_UDP }, ..frame };
    let tagged = |frame: Frame, tags: &[u16]| Frame { tags: tags.to_vec(), ..frame };
    let v4 = |options: usize, fragment_field, protocol| Network::V4 { options: vec![1; options], fragment_field, protocol };

    add("wanted", wanted().bytes(), WantedRedirected);
    add("wanted, queue without socket", wanted().bytes(), WantedPassed);
    add("wanted, last port", Frame::udp(PORT + PORT_COUNT - 1, payload(WANTED)).bytes(), WantedRedirected);
    add("unwanted", feed(UNWANTED).bytes(), Unwanted);
    add("finished", feed(FINISHED).bytes(), Unwanted);
    add("last id, unwanted", feed(ID_COUNT - 1).bytes(), Unwanted);
    add("id out of range by one", feed(ID_COUNT).bytes(), IdOutOfRange);
    add("id out of range, largest", feed(u32::MAX).bytes(), IdOutOfRange);

    add("IPv6 wanted", v6(wanted()).bytes(), WantedRedirected);
    add("IPv6 unwanted", v6(feed(UNWANTED)).bytes(), Unwanted);
    add("VLAN wanted", tagged(wanted(), &[TAG_CUSTOMER]).bytes(), WantedRedirected);
    add("VLAN unwanted", tagged(feed(UNWANTED), &[TAG_CUSTOMER]).bytes(), Unwanted);
    add("QinQ wanted", tagged(wanted(), &[TAG_PROVIDER, TAG_CUSTOMER]).bytes(), WantedRedirected);
    add("QinQ unwanted, IPv6", tagged(v6(feed(UNWANTED)), &[TAG_PROVIDER, TAG_CUSTOMER]).bytes(), Unwanted);
    add("two customer tags, wanted", tagged(wanted(), &[TAG_CUSTOMER, TAG_CUSTOMER]).bytes(), WantedRedirected);
    add("three VLAN tags", tagged(wanted(), &[TAG_PROVIDER, TAG_CUSTOMER, TAG_CUSTOMER]).bytes(), Foreign);
    add("IP options wanted", Frame { network: v4(4, 0, PROTOCOL_UDP), ..wanted() }.bytes(), WantedRedirected);
    add("IP options, longest, unwanted", Frame { network: v4(40, 0, PROTOCOL_UDP), ..feed(UNWANTED) }.bytes(), Unwanted);
    add("do-not-fragment flag, wanted", Frame { network: v4(0, 0x4000, PROTOCOL_UDP), ..wanted() }.bytes(), WantedRedirected);

    add("foreign UDP", Frame::udp(53, payload(UNWANTED)).bytes(), Foreign);
    add("foreign UDP, port before", Frame::udp(PORT - 1, payload(UNWANTED)).bytes(), Foreign);
    add("foreign UDP, port after", Frame::udp(PORT + PORT_COUNT, payload(UNWANTED)).bytes(), Foreign);
    add("foreign UDP, IPv6", v6(Frame::udp(53, payload(UNWANTED))).bytes(), Foreign);
    add("TCP", Frame { network: v4(0, 0, PROTOCOL_TCP), ..feed(UNWANTED) }.bytes(), Foreign);
    add("TCP, IPv6", Frame { network: Network::V6 { next_header: PROTOCOL_TCP }, ..feed(UNWANTED) }.bytes(), Foreign);
    add("ARP", Frame { network: Network::Other { ether_type: 0x0806 }, ..feed(UNWANTED) }.bytes(), Foreign);
    add("first fragment", Frame { network: v4(0, 0x2000, PROTOCOL_UDP), ..feed(UNWANTED) }.bytes(), Foreign);
    add("later fragment", Frame { network: v4(0, 185, PROTOCOL_UDP), ..feed(UNWANTED) }.bytes(), Foreign);
    add("IPv6 fragment header", Frame { network: Network::V6 { next_header: 44 }, ..feed(UNWANTED) }.bytes(), Foreign);
    add("IPv6 hop-by-hop header", Frame { network: Network::V6 { next_header: 0 }, ..feed(UNWANTED) }.bytes(), Foreign);
    add("IPv4 header length 4 words", edited(wanted(), 14, 0x44), Foreign);
    add("IPv4 version 6", edited(wanted(), 14, 0x65), Foreign);
    add("IPv6 version 4", edited(v6(wanted()), 14, 0x40), Foreign);
    add("garbage", (0..200).map(|at: u32| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect(), Foreign);
    add("zeros", vec![0; 64], Foreign);
    add("ones", vec![0xff; 64], Foreign);

    let other = |first: usize| {
        let mut bytes = payload(UNWANTED);
        bytes[first] ^= 1;
        Frame::udp(PORT, bytes)
    };
    add("other magic", other(0).bytes(), OtherSession);
    add("other session", other(7).bytes(), OtherSession);
    add("other session, IPv6", v6(other(7)).bytes(), OtherSession);
    add("empty datagram", Frame::udp(PORT, Vec::new()).bytes(), OtherSession);
    add("datagram shorter than the header", Frame::udp(PORT, payload(WANTED)[..HEADER_BYTES - 1].to_vec()).bytes(), Malformed);
    add("shortest datagram, wanted", Frame::udp(PORT, payload(WANTED)[..HEADER_BYTES].to_vec()).bytes(), WantedRedirected);
    // Its UDP length stands in bytes 38 and 39.
    add("UDP length 0", edited(Frame::udp(PORT, payload(WANTED)[..24].to_vec()), 39, 0), Malformed);

    let cut = |frame: Frame, bytes: usize| {
        let mut packet = frame.bytes();
        packet.truncate(bytes);
        packet
    };
    let q_in_q = || tagged(wanted(), &[TAG_PROVIDER, TAG_CUSTOMER]);
    add("cut after Ethernet", cut(wanted(), 14), Foreign);
    add("cut inside IPv4", cut(wanted(), 33), Foreign);
    add("cut after IPv4", cut(wanted(), 34), Foreign);
    add("cut inside IP options", cut(Frame { network: v4(40, 0, PROTOCOL_UDP), ..wanted() }, 60), Foreign);
    add("cut inside UDP", cut(wanted(), 41), Foreign);
    add("cut after UDP", cut(wanted(), 42), OtherSession);
    add("cut inside match bytes", cut(wanted(), 49), OtherSession);
    add("cut after match bytes", cut(wanted(), 50), Malformed);
    add("cut inside id", cut(wanted(), 53), Malformed);
    add("cut after VLAN's Ethernet", cut(q_in_q(), 14), Foreign);
    add("cut inside first tag", cut(q_in_q(), 17), Foreign);
    add("cut after first tag", cut(q_in_q(), 18), Foreign);
    add("cut after second tag", cut(q_in_q(), 22), Foreign);
    add("cut inside IPv6", cut(v6(wanted()), 53), Foreign);
    add("cut after IPv6", cut(v6(wanted()), 54), Foreign);
    add("cut after IPv6 UDP", cut(v6(wanted()), 62), OtherSession);
    add("cut inside id, IPv6", cut(v6(wanted()), 73), Malformed);
    rows
}

/// The frame's bytes with one of them replaced.
fn edited(frame: Frame, at: usize, value: u8) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes[at] = value;
    bytes
}
