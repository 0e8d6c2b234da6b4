//! Counters that a long job keeps and another thread may read to draw a progress line.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not begun.
    Idle,
    /// Packing, first pass: every page is hashed to find what the images share.
    Index,
    /// Packing, second pass: chunks are filled, compressed and written.
    Store,
    /// Chunks are read and checked.
    Verify,
    /// Chunks are read, decoded and written to the target.
    Restore,
    /// Data is being flushed, metadata written.
    Finish,
}

/// Progress of one job. Relaxed counters: they are read for display only.
#[derive(Debug, Default)]
pub struct Progress {
    stage: AtomicU8,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Progress {
    /// The stage, and how many bytes of how many it has handled. The total is 0 while it is not known.
    #[must_use]
    pub fn read(&self) -> (Stage, u64, u64) {
        let stage = match self.stage.load(Ordering::Relaxed) {
            1 => Stage::Index,
            2 => Stage::Store,
            3 => Stage::Verify,
            4 => Stage::Restore,
            5 => Stage::Finish,
            _ => Stage::Idle,
        };
        (stage, self.done_bytes.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed))
    }

    pub(crate) fn start(&self, stage: Stage, total_bytes: u64) {
        self.done_bytes.store(0, Ordering::Relaxed);
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
