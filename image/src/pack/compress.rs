//! Raw chunks to stored chunks: several threads compress and hash, one writes them to the file in the order they were filled in.

use std::collections::{BTreeMap, HashMap};

use crossbeam_channel::{Receiver, Sender};

use super::Pack;
use super::chunk_buffer::{ChunkBuffer, Spare};
use super::chunk_file::ChunkFile;
use super::format::ALIGN_BYTES;
use super::records::ChunkRecord;
use super::sign::copy_range;
use crate::units::round_up;
use crate::{ChunkId, Codec, Error, Progress, Result, Step};

/// A chunk whose pages are all there.
pub(super) struct RawChunk {
    /// Its position in the order of being filled.
    pub(super) number: u64,
    pub(super) id: ChunkId,
    pub(super) segment: u32,
    pub(super) raw: ChunkBuffer,
}

/// A chunk ready to be written.
pub(super) struct StoredChunk {
    number: u64,
    id: ChunkId,
    record: ChunkRecord,
    bytes: Bytes,
}

/// Where a chunk's stored bytes are.
enum Bytes {
    /// Here.
    New(ChunkBuffer),
    /// In the earlier pack, from this offset on.
    Kept(u64),
}

/// The chunks of an earlier pack by the BLAKE3 of their raw bytes: what is the same is copied as it is stored there.
pub(super) struct Earlier<'a> {
    pub(super) pack: &'a Pack,
    pub(super) chunks: HashMap<[u8; 32], ChunkId>,
}

/// How chunks are compressed.
#[derive(Clone, Copy)]
pub(super) struct Compression<'a> {
    pub(super) codec: Codec,
    pub(super) level: i32,
    pub(super) earlier: Option<&'a Earlier<'a>>,
}

/// A chunk is stored compressed when that saves at least a fiftieth: less is not worth the receivers' time.
fn worth_it(stored: usize, raw: usize) -> bool {
    stored + raw / 50 < raw
}

/// Compresses with one codec.
enum Compressor {
    None,
    Lz4 { scratch: Vec<u8> },
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Compressor {
    fn new(compression: &Compression<'_>) -> Result<Self> {
        let level = compression.level;
        Ok(match compression.codec {
            Codec::None => Self::None,
            Codec::Lz4 => Self::Lz4 { scratch: Vec::new() },
            Codec::Zstd => {
                let made = zstd::bulk::Compressor::new(level);
                Self::Zstd(Box::new(made.map_err(|error| Error::Parameter(format!("zstd level {level}: {error}")))?))
            }
        })
    }

    /// Puts the stored bytes into `stored`, and returns the codec; `None` when it is not worth it. What fails to compress, or has no room, is
    /// stored as it is.
    fn compress(&mut self, raw: &[u8], stored: &mut ChunkBuffer) -> Option<Codec> {
        let codec = match self {
            Self::None => return None,
            Self::Lz4 { scratch } => {
                scratch.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                let stored_bytes = lz4_flex::block::compress_into(raw, scratch).ok()?;
                let compressed = scratch.get(..stored_bytes).filter(|compressed| worth_it(compressed.len(), raw.len()))?;
                stored.append(compressed);
                Codec::Lz4
            }
            Self::Zstd(compressor) => {
                stored.fill(|room| compressor.compress_to_buffer(raw, room)).ok()?;
                Codec::Zstd
            }
        };
        worth_it(stored.len(), raw.len()).then_some(codec)
    }
}

/// One compressing thread.
pub(super) fn compress(
    chunks: &Receiver<RawChunk>,
    done: &Sender<StoredChunk>,
    compression: Compression<'_>,
    spare: &Spare,
    progress: &Progress,
) -> Result<()> {
    let mut compressor = Compressor::new(&compression)?;
    for RawChunk { number, id, segment, raw } in chunks {
        progress.took(Step::Compress, chunks.len() > 1);
        let raw_bytes = raw.len() as u32;
        let raw_hash = *blake3::hash(&raw).as_bytes();
        let kept = compression.earlier.and_then(|earlier| {
            let kept = *earlier.chunks.get(&raw_hash)?;
            let record = earlier.pack.chunks().get(kept.index())?;
            (record.raw_bytes == raw_bytes).then_some(record)
        });
        let (record, bytes) = match kept {
            Some(kept) => {
                spare.give_back(raw);
                (ChunkRecord { segment, raw_hash: Some(raw_hash), ..kept.clone() }, Bytes::Kept(kept.offset))
            }
            None => {
                let mut stored = spare.take(raw.len());
                let (codec, hash, stored) = match compressor.compress(&raw, &mut stored) {
                    Some(codec) => {
                        spare.give_back(raw);
                        (codec, *blake3::hash(&stored).as_bytes(), stored)
                    }
                    None => {
                        spare.give_back(stored);
                        (Codec::None, raw_hash, raw)
                    }
                };
                let stored_bytes = stored.len() as u32;
                let record = ChunkRecord { offset: 0, stored_bytes, raw_bytes, segment, codec, hash, raw_hash: Some(raw_hash) };
                (record, Bytes::New(stored))
            }
        };
        done.send(StoredChunk { number, id, record, bytes }).map_err(|_| Error::Stopped)?;
    }
    Ok(())
}

/// What the writing thread returns.
pub(super) struct Written {
    /// By chunk id.
    pub(super) records: Vec<Option<ChunkRecord>>,
    /// Where they end in the file.
    pub(super) data_end: u64,
}

/// The writing thread.
pub(super) fn write(
    chunks: &Receiver<StoredChunk>,
    mut file: ChunkFile<'_>,
    count: u32,
    earlier: Option<&Earlier<'_>>,
    spare: &Spare,
    progress: &Progress,
) -> Result<Written> {
    let mut records = vec![None; count as usize];
    let mut offset = ALIGN_BYTES as u64;
    // Bounded by the chunks that are in the queues and in the compressing threads.
    let mut early = BTreeMap::new();
    let mut next = 0;
    for chunk in chunks {
        progress.took(Step::Write, chunks.len() > 1);
        early.insert(chunk.number, chunk);
        while let Some(StoredChunk { id, mut record, bytes, .. }) = early.remove(&next) {
            next += 1;
            record.offset = offset;
            let padded_bytes = round_up(record.stored_bytes.into(), ALIGN_BYTES as u64);
            match (bytes, earlier) {
                (Bytes::New(mut stored), _) => {
                    stored.pad();
                    file.write(&stored, offset)?;
                    spare.give_back(stored);
                }
                (Bytes::Kept(from), Some(earlier)) => copy_range(earlier.pack, from..from + padded_bytes, file.partial(), offset)?,
                // Only a compressor that was given an earlier pack keeps anything.
                (Bytes::Kept(_), None) => return Err(Error::Stopped),
            }
            offset += padded_bytes;
            if let Some(place) = records.get_mut(id.index()) {
                *place = Some(record);
            }
        }
    }
    Ok(Written { records, data_end: offset })
}
