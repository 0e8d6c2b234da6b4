//! Every parser of this crate as a function of bytes that returns whatever they are: what fuzzers call. No part of the interface.

use prost::Message;

use crate::SessionId;
use crate::packet::Header;
use crate::proto::v1;
use crate::report::{ChunkRange, Report};
use crate::session::SessionParameters;

/// A parser of foreign bytes.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[("packet", packet), ("report", report)];

/// Chunks of the pack that reports are checked against.
const CHUNK_COUNT: u32 = 1000;

/// The payload of a UDP packet.
pub fn packet(bytes: &[u8]) {
    let Ok((header, symbol)) = Header::parse(bytes) else { return };
    let parameters = SessionParameters { session: SessionId(1), symbol_bytes: 1408, chunk_count: CHUNK_COUNT, chunk_bytes_max: 256 * 1024 };
    if parameters.admits(&header, symbol, |_| None) {
        assert!(header.source_symbols > 0 || symbol.is_empty(), "a symbol of a chunk without symbols");
    }
}

/// What a receiver tells its sender.
pub fn report(bytes: &[u8]) {
    let Ok(message) = v1::ReceiverMessage::decode(bytes) else { return };
    match message.message {
        Some(v1::receiver_message::Message::Ready(ready)) => {
            if let Ok(ranges) = ChunkRange::checked(&ready.want, CHUNK_COUNT) {
                assert!(ranges.iter().all(|range| range.first.0 + range.count <= CHUNK_COUNT));
            }
        }
        Some(v1::receiver_message::Message::Report(report)) => {
            if let Ok(report) = Report::checked(&report, CHUNK_COUNT) {
                assert!(report.deficits.iter().all(|deficit| deficit.chunk.0 < CHUNK_COUNT));
            }
        }
        _ => {}
    }
}
