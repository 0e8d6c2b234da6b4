//! Raw chunks to stored chunks: several threads compress and hash, one writes them to the file in the order they were filled in.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crossbeam_channel::{Receiver, Sender};

use super::format::ALIGN_BYTES;
use super::records::ChunkRecord;
use crate::units::round_up;
use crate::{ChunkId, Codec, Error, Result};

/// A chunk whose pages are all there.
pub(super) struct RawChunk {
    /// Its position in the order of being filled.
    pub(super) number: u64,
    pub(super) id: ChunkId,
    pub(super) segment: u32,
    pub(super) raw: Vec<u8>,
}

/// A chunk ready to be written.
pub(super) struct StoredChunk {
    number: u64,
    id: ChunkId,
    record: ChunkRecord,
    stored: Vec<u8>,
}

/// How chunks are compressed.
#[derive(Clone, Copy)]
pub(super) struct Compression {
    pub(super) codec: Codec,
    pub(super) level: i32,
}

/// A chunk is stored compressed when that saves at least a fiftieth: less is not worth the receivers' time.
fn worth_it(stored: usize, raw: usize) -> bool {
    stored + raw / 50 < raw
}

/// One compressing thread.
pub(super) fn compress(chunks: &Receiver<RawChunk>, done: &Sender<StoredChunk>, compression: Compression) -> Result<()> {
    let mut compressor = zstd::bulk::Compressor::new(compression.level)
        .map_err(|error| Error::Parameter(format!("zstd level {}: {error}", compression.level)))?;
    for RawChunk { number, id, segment, raw } in chunks {
        let raw_bytes = raw.len() as u32;
        let raw_hash = |compressed: &Option<Vec<u8>>| compressed.as_ref().map(|_| *blake3::hash(&raw).as_bytes());
        let compressed = match compression.codec {
            // What fails to compress is stored as it is.
            Codec::Zstd => compressor.compress(&raw).ok().filter(|stored| worth_it(stored.len(), raw.len())),
            Codec::None => None,
        };
        let raw_hash = raw_hash(&compressed);
        let (codec, stored) = compressed.map_or((Codec::None, raw), |stored| (Codec::Zstd, stored));
        let hash = *blake3::hash(&stored).as_bytes();
        let record = ChunkRecord {
            offset: 0,
            stored_bytes: stored.len() as u32,
            raw_bytes,
            segment,
            codec,
            hash,
            raw_hash: raw_hash.or(Some(hash)),
        };
        done.send(StoredChunk { number, id, record, stored }).map_err(|_| Error::Stopped)?;
    }
    Ok(())
}

/// The writing thread: returns the records by chunk id, and where they end in the file.
pub(super) fn write(chunks: &Receiver<StoredChunk>, file: &File, path: &Path, count: u32) -> Result<(Vec<Option<ChunkRecord>>, u64)> {
    let mut records = vec![None; count as usize];
    let mut offset = ALIGN_BYTES as u64;
    // Bounded by the chunks that are in the queues and in the compressing threads.
    let mut early = BTreeMap::new();
    let mut next = 0;
    for chunk in chunks {
        early.insert(chunk.number, chunk);
        while let Some(StoredChunk { id, mut record, mut stored, .. }) = early.remove(&next) {
            next += 1;
            record.offset = offset;
            stored.resize(round_up(stored.len() as u64, ALIGN_BYTES as u64) as usize, 0);
            file.write_all_at(&stored, offset).map_err(Error::io("writing", path))?;
            offset += stored.len() as u64;
            records[id.index()] = Some(record);
        }
    }
    Ok((records, offset))
}
