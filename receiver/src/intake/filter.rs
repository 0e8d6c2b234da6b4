//! Which packets get as far as the assembler: those of the session whose chunk is wanted. The eBPF filter decides it in the kernel;
//! where it cannot be had, the same decision is made here, packet by packet.

use std::net::SocketAddr;

use bpf::{AttachMode, Filter, FilterConfig, IdWidth, Mark, OnWanted, STREAMS_MAX, Streams, WantSet};
use serde::Serialize;
use wire::StreamId;
use wire::packet::{CHUNK_ID_OFFSET, HEADER_BYTES, MATCH_OFFSET, SEQUENCE_OFFSET, STREAM_ID_OFFSET, filter_match};
use wire::session::SessionParameters;

use super::Error;
use crate::interface::Interface;

/// Where the operator wants packets filtered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// In the driver, else in the kernel's generic path, else in user space.
    #[default]
    Auto,
    /// In the driver or not at all.
    Driver,
    /// In the kernel's generic path or not at all.
    Generic,
    /// In user space.
    Off,
}

/// Packets of the session's ports by what the filter did with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PacketCounts {
    /// Packets that carry this session's match bytes.
    pub seen: u64,
    /// Let through: wanted.
    pub accepted: u64,
    /// Ended in the filter: not wanted, or nonsense.
    pub dropped: u64,
}

/// The filter of one session on one interface.
pub struct PacketFilter {
    wants: WantSet,
    place: Place,
}

enum Place {
    Kernel(Filter),
    UserSpace { because: String, match_value: u64, match_mask: u64, counts: PacketCounts, marks: Marks },
}

impl PacketFilter {
    /// A filter for the packets that are sent to `groups`, with nothing wanted yet. `redirect`: wanted packets go to AF_XDP sockets
    /// where there are some.
    ///
    /// # Errors
    /// [`Error::Filter`] when `mode` asks for a place that cannot be had.
    pub fn attach(
        interface: &Interface,
        parameters: &SessionParameters,
        groups: &[SocketAddr],
        redirect: bool,
        mode: XdpMode,
    ) -> Result<PacketFilter, Error> {
        let attach_mode = match mode {
            XdpMode::Auto => AttachMode::Auto,
            XdpMode::Driver => AttachMode::Driver,
            XdpMode::Generic => AttachMode::Generic,
            XdpMode::Off => return Ok(Self::in_user_space(parameters, "asked for".to_owned())),
        };
        let config = filter_config(parameters, groups, if redirect { OnWanted::Redirect } else { OnWanted::Pass });
        match Filter::attach(interface.name(), &config, attach_mode) {
            Ok(filter) => Ok(PacketFilter { wants: filter.want_set(), place: Place::Kernel(filter) }),
            Err(error) if mode == XdpMode::Auto => Ok(Self::in_user_space(parameters, error.to_string())),
            Err(error) => Err(Error::Filter(error)),
        }
    }

    /// For an intake where nothing comes.
    pub(super) fn without_packets(parameters: &SessionParameters) -> PacketFilter {
        Self::in_user_space(parameters, "unicast".to_owned())
    }

    fn in_user_space(parameters: &SessionParameters, because: String) -> PacketFilter {
        let (match_value, match_mask) = filter_match(parameters.session);
        PacketFilter {
            wants: WantSet::in_memory(id_count(parameters)),
            place: Place::UserSpace {
                because,
                match_value,
                match_mask,
                counts: PacketCounts::default(),
                marks: Marks::new(parameters.chunk_count),
            },
        }
    }

    /// The chunks whose packets are let through, and the id of syncs.
    pub fn want_set(&self) -> WantSet {
        self.wants.clone()
    }

    /// Whether packets are filtered before the network stack sees them.
    pub fn is_in_kernel(&self) -> bool {
        matches!(self.place, Place::Kernel(_))
    }

    /// The filter in the kernel, or why there is none.
    pub(super) fn kernel(&self) -> Result<&Filter, &str> {
        match &self.place {
            Place::Kernel(filter) => Ok(filter),
            Place::UserSpace { because, .. } => Err(because),
        }
    }

    /// Whether `payload` gets through; true at once when the kernel has seen to it.
    #[inline]
    pub fn admits(&mut self, payload: &[u8]) -> bool {
        let Place::UserSpace { match_value, match_mask, counts, marks, .. } = &mut self.place else {
            return true;
        };
        let is_ours = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes) & *match_mask == *match_value;
        if !payload.get(MATCH_OFFSET..).and_then(|rest| rest.first_chunk()).is_some_and(is_ours) {
            return false;
        }
        counts.seen += 1;
        let id = payload.get(CHUNK_ID_OFFSET..HEADER_BYTES).and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
        let wanted = id.is_some_and(|id| self.wants.contains(id));
        *(if wanted { &mut counts.accepted } else { &mut counts.dropped }) += 1;
        if let Some(id) = id {
            marks.note(payload, id, wanted);
        }
        wanted
    }

    /// What ended here before the last sync of `stream` that was seen here; None of a stream that is not counted.
    pub fn mark(&self, stream: StreamId) -> Option<Mark> {
        match &self.place {
            Place::Kernel(filter) => filter.mark(stream.0),
            Place::UserSpace { marks, .. } => marks.of(stream),
        }
    }

    /// Packets so far.
    pub fn counts(&self) -> PacketCounts {
        match &self.place {
            Place::Kernel(filter) => filter
                .counters()
                .map(|counters| PacketCounts { seen: counters.feed(), accepted: counters.accepted(), dropped: counters.dropped() })
                .unwrap_or_default(),
            Place::UserSpace { counts, .. } => *counts,
        }
    }

    /// Where it runs and why there, for the operator.
    pub fn describe(&self) -> String {
        match &self.place {
            Place::Kernel(filter) => format!("XDP in {}", filter.mode()),
            Place::UserSpace { because, .. } => format!("in user space ({because})"),
        }
    }
}

/// What the program in the kernel knows of the streams, kept here where there is none.
struct Marks {
    /// The id of syncs.
    mark_id: u32,
    streams: Box<[(u32, Mark); STREAMS_MAX]>,
}

impl Marks {
    fn new(mark_id: u32) -> Marks {
        Marks { mark_id, streams: Box::new([(0, Mark { sequence: 0, unwanted: 0 }); STREAMS_MAX]) }
    }

    /// A packet of the session with `id`.
    fn note(&mut self, payload: &[u8], id: u32, is_wanted: bool) {
        let stream = payload.get(STREAM_ID_OFFSET..).and_then(|rest| rest.first_chunk()).map(|bytes| u16::from_be_bytes(*bytes));
        let Some((unwanted, mark)) = stream.and_then(|stream| self.streams.get_mut(usize::from(stream))) else { return };
        if !is_wanted {
            *unwanted = unwanted.wrapping_add(u32::from(id < self.mark_id));
        } else if id == self.mark_id {
            let sequence = payload.get(SEQUENCE_OFFSET..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes));
            *mark = Mark { sequence, unwanted: *unwanted };
        }
    }

    fn of(&self, stream: StreamId) -> Option<Mark> {
        self.streams.get(usize::from(stream.0)).map(|&(_, mark)| mark)
    }
}

/// The want set has a bit for every chunk and one more, for syncs, which carry the number of chunks in place of a chunk's id.
fn id_count(parameters: &SessionParameters) -> u32 {
    parameters.chunk_count.saturating_add(1)
}

fn filter_config(parameters: &SessionParameters, groups: &[SocketAddr], on_wanted: OnWanted) -> FilterConfig {
    let (match_value, match_mask) = filter_match(parameters.session);
    let ports = || groups.iter().map(SocketAddr::port);
    // One range that covers all streams: a packet of another feed on a port in between fails the match and passes.
    let first_port = ports().min().unwrap_or(0);
    let last_port = ports().max().unwrap_or(0);
    FilterConfig {
        first_port,
        port_count: (last_port - first_port).saturating_add(1),
        match_offset: MATCH_OFFSET as u16,
        match_value,
        match_mask,
        id_offset: CHUNK_ID_OFFSET as u16,
        id_width: IdWidth::U32,
        id_count: id_count(parameters),
        on_wanted,
        min_payload_bytes: HEADER_BYTES as u16,
        streams: Some(Streams {
            stream_offset: STREAM_ID_OFFSET as u16,
            sequence_offset: SEQUENCE_OFFSET as u16,
            mark_id: parameters.chunk_count,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::packet::{Header, Kind};
    use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

    const PARAMETERS: SessionParameters =
        SessionParameters { session: SessionId(7), symbol_bytes: 64, chunk_count: 10, chunk_bytes_max: 4096 };

    fn payload(session: u32, chunk: u32) -> Vec<u8> {
        let header = Header {
            kind: Kind::Symbol,
            session: SessionId(session),
            chunk: ChunkId(chunk),
            symbol: SymbolIndex(0),
            source_symbols: 1,
            sequence: Sequence(0),
            stream: StreamId(0),
        };
        let mut bytes = [0; HEADER_BYTES];
        header.write(&mut bytes, Symbol::empty());
        bytes.to_vec()
    }

    #[test]
    fn without_xdp_the_same_packets_get_through() {
        let lo = Interface::find("lo").unwrap();
        let mut filter = PacketFilter::attach(&lo, &PARAMETERS, &[], false, XdpMode::Off).unwrap();
        filter.want_set().set(3);
        filter.want_set().set(10);
        assert!(filter.admits(&payload(7, 3)));
        assert!(filter.admits(&payload(7, 10)), "a sync");
        assert!(!filter.admits(&payload(7, 4)), "not wanted");
        assert!(!filter.admits(&payload(7, 11)), "out of range");
        assert!(!filter.admits(&payload(8, 3)), "another session");
        for cut in 0..HEADER_BYTES {
            assert!(!filter.admits(&payload(7, 3)[..cut]), "cut at {cut}");
        }
        let cut_behind_the_match = (HEADER_BYTES - 8) as u64;
        assert_eq!(filter.counts(), PacketCounts { seen: 4 + cut_behind_the_match, accepted: 2, dropped: 2 + cut_behind_the_match });
    }

    #[test]
    fn without_xdp_marks_tell_the_same() {
        let lo = Interface::find("lo").unwrap();
        let mut filter = PacketFilter::attach(&lo, &PARAMETERS, &[], false, XdpMode::Off).unwrap();
        filter.want_set().set(10);
        let packet = |header: Header| {
            let mut bytes = [0; HEADER_BYTES];
            header.write(&mut bytes, Symbol::empty());
            bytes
        };
        let symbol = |stream| {
            let (kind, session, chunk, symbol) = (Kind::Symbol, PARAMETERS.session, ChunkId(4), SymbolIndex(0));
            packet(Header { kind, session, chunk, symbol, source_symbols: 1, sequence: Sequence(1), stream: StreamId(stream) })
        };
        let sync = |stream, at| packet(Header::sync(PARAMETERS.session, 10, StreamId(stream), Sequence(at)));
        [symbol(1), symbol(1), symbol(2), symbol(1)].iter().for_each(|payload| assert!(!filter.admits(payload)));
        assert!(filter.admits(&sync(1, 70)) && !filter.admits(&symbol(1)) && filter.admits(&sync(2, 9)) && !filter.admits(&symbol(64)));
        assert_eq!(filter.mark(StreamId(1)), Some(Mark { sequence: 70, unwanted: 3 }));
        assert_eq!(filter.mark(StreamId(2)), Some(Mark { sequence: 9, unwanted: 1 }));
        assert_eq!(filter.mark(StreamId(64)), None);
    }

    #[test]
    fn one_port_range_covers_all_streams() {
        let groups = ["239.1.1.1:4702", "239.1.1.2:4700"].map(|group| group.parse().unwrap());
        let config = filter_config(&PARAMETERS, &groups, OnWanted::Pass);
        assert_eq!((config.first_port, config.port_count, config.id_count), (4700, 3, 11));
    }
}
