//! The threads of a serving sender.
//!
//! ```text
//! control events → dispatcher (scheduler) → reader (pack, cache, repair symbols) → transmitter per stream → network
//!                        ↑                                                                │
//!                        └─────────────────────── a job is done ──────────────────────────┘
//! ```
//!
//! Channels are bounded by the number of jobs under way, so no send blocks, and memory is the chunk
//! cache, taken at start, plus the UMEM of each stream.

mod cache;
mod cores;
mod disk;
mod job;
mod pace;
mod quorum;
mod reader;
mod transmitter;

pub use cores::Cores;
pub use quorum::Tally;

use crate::transmit;
use std::io;
use std::path::PathBuf;
use wire::ChunkId;

/// Chunks in memory unless the operator says otherwise: at 10 Gbit/s the last 100 ms, several times what a repair takes to be asked for.
pub const CACHE_BYTES_DEFAULT: usize = 128 * 1024 * 1024;
/// Chunks of one group at most: what the scheduler interleaves.
#[allow(dead_code)]
const GROUP_CHUNKS_MAX: usize = 16;

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pack's file cannot be opened a second time, for reading chunks.
    #[error("opening {} for direct reads: {source}", path.display())]
    OpenPack {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk failed.
    #[error("reading {} of {}: {source}", chunk.map_or_else(|| "chunks".to_owned(), |chunk| format!("chunk {chunk}")), path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The chunk, when it is known.
        chunk: Option<ChunkId>,
        /// Why.
        source: io::Error,
    },
    /// A chunk is not what the pack's table says.
    #[error("{} is damaged: {source}; check it with `discus verify` and pack it again", path.display())]
    Rotten {
        /// The file.
        path: PathBuf,
        /// Which chunk, and how.
        source: image::Error,
    },
    /// The scheduler asked for a symbol that does not exist: a defect of this program.
    #[error("chunk {chunk}: {source}")]
    Encode {
        /// The chunk.
        chunk: ChunkId,
        /// What is wrong.
        source: wire::erasure::Error,
    },
    /// The scheduler asked for a chunk that does not exist or does not fit: a defect of this program.
    #[error("chunk {0} is not in the pack or larger than the pack allows")]
    NoChunk(ChunkId),
    /// The network failed.
    #[error(transparent)]
    Transmit(#[from] transmit::Error),
    /// No memory for the chunk cache.
    #[error("taking memory for the chunk cache: {0}; --memory gives it less")]
    Memory(#[source] image::Error),
    /// The system has no more threads.
    #[error("starting the {name} thread: {source}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}
