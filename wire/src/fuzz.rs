//! Every parser of this crate, and its erasure code, as a function of bytes that returns whatever they are: what fuzzers call. No part of the interface.

use prost::Message;

use crate::erasure::{Decoder, Encoder, Error, Kernel, repair_symbols};
use crate::packet::Header;
use crate::proto::v1;
use crate::report::{ChunkRange, Report};
use crate::session::SessionParameters;
use crate::{SessionId, SymbolIndex};

/// A parser of foreign bytes.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[("packet", packet), ("report", report), ("erasure", erasure)];

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

/// A chunk, what of it was lost, and what came in its place: two bytes K, two the size of a symbol, one the number of repair symbols that are offered, two
/// for the index of each, then a bit for each lost source symbol; the rest, over and over, is the chunk. With every kernel the chunk comes back, or nothing
/// is touched and the error says what is wrong.
pub fn erasure(bytes: &[u8]) {
    let Some((&[k0, k1, size0, size1, offered], rest)) = bytes.split_first_chunk() else { return };
    let (k, symbol_bytes) = (u16::from_le_bytes([k0, k1]) % 300, 1 + u16::from_le_bytes([size0, size1]) % 2048);
    let Some((indices, rest)) = rest.split_at_checked(2 * usize::from(offered)) else { return };
    let Some((lost, data)) = rest.split_at_checked(usize::from(k).div_ceil(8)) else { return };
    let offered: Vec<u16> = indices.chunks_exact(2).map(|index| u16::from_le_bytes([index[0], index[1]])).collect();
    let source: Vec<u8> = data.iter().copied().chain([0]).cycle().take(usize::from(k) * usize::from(symbol_bytes)).collect();
    let mut repair = vec![0; usize::from(repair_symbols(k)) * usize::from(symbol_bytes)];
    if let Err(error) = Encoder::new(symbol_bytes).encode(k, &source, &mut repair) {
        assert!(error == Error::SourceSymbols(k) && (k == 0 || k + repair_symbols(k) > 256), "K = {k}: {error}");
        return;
    }
    let is_there = |index: SymbolIndex| lost[usize::from(index.0) / 8] >> (index.0 % 8) & 1 == 0;
    let missing: Vec<u16> = (0..k).filter(|&index| !is_there(SymbolIndex(index))).collect();
    let mut damaged = source.clone();
    for &index in &missing {
        damaged[usize::from(index) * usize::from(symbol_bytes)..][..usize::from(symbol_bytes)].fill(0xa5);
    }
    // Only as many as are needed are looked at.
    let used = &offered[..offered.len().min(missing.len())];
    let is_repair = |index: u16| (k..k + repair_symbols(k)).contains(&index);
    let wrong = used.iter().enumerate().find(|&(at, &index)| !is_repair(index) || used[..at].contains(&index)).map(|(_, &index)| index);
    for kernel in Kernel::available() {
        let mut cells = damaged.clone();
        let symbols = offered.iter().map(|&index| {
            let cell = usize::from(if is_repair(index) { index - k } else { 0 });
            (SymbolIndex(index), &repair[cell * usize::from(symbol_bytes)..][..usize::from(symbol_bytes)])
        });
        match Decoder::new(symbol_bytes).with_kernel(kernel).decode(k, &mut cells, is_there, symbols) {
            Ok(()) => assert!(cells == source, "{kernel:?}: another chunk came back"),
            Err(error) => {
                let have = usize::from(k) - missing.len() + used.len();
                let expected = wrong.map_or(Error::TooFew { have, want: k.into() }, Error::Repair);
                assert!(error == expected && (wrong.is_some() || have < usize::from(k)), "{kernel:?}: {error} instead of {expected}");
                assert!(cells == damaged, "{kernel:?}: touched although {error}");
            }
        }
    }
}
