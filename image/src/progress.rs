//! Counters that a long job keeps and another thread may read to draw a progress line, and to say which of the job's steps is the slowest.

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

/// A step of packing. Each has threads of its own and a queue before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sources are read.
    Read,
    /// Pages are hashed and looked up.
    Hash,
    /// Pages are put into chunks.
    Fill,
    /// Chunks are hashed and compressed.
    Compress,
    /// Chunks are written.
    Write,
}

/// Those that have a queue before them, in order.
const QUEUED: [Step; 4] = [Step::Hash, Step::Fill, Step::Compress, Step::Write];

/// What a step took from its queue, and how often more was waiting then.
#[derive(Debug, Default)]
struct Queue {
    taken: AtomicU64,
    crowded: AtomicU64,
}

/// What [`Progress::slowest`] has seen before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen([(u64, u64); QUEUED.len()]);

/// Progress of one job. Relaxed counters: they are read for display only.
#[derive(Debug, Default)]
pub struct Progress {
    stage: AtomicU8,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    queues: [Queue; QUEUED.len()],
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

    /// The step that the others have waited for since `seen`: the last one before which more was waiting most of the time, or else reading.
    /// `None` when nothing was done.
    pub fn slowest(&self, seen: &mut Seen) -> Option<Step> {
        let mut slowest = None;
        for ((step, queue), seen) in QUEUED.iter().zip(&self.queues).zip(&mut seen.0) {
            let now = (queue.taken.load(Ordering::Relaxed), queue.crowded.load(Ordering::Relaxed));
            let (taken, crowded) = (now.0.saturating_sub(seen.0), now.1.saturating_sub(seen.1));
            *seen = now;
            if taken > 0 {
                slowest.get_or_insert(Step::Read);
                if crowded * 2 > taken {
                    slowest = Some(*step);
                }
            }
        }
        slowest
    }

    /// Notes that `step` took something from its queue, and whether that was `crowded`.
    pub(crate) fn took(&self, step: Step, crowded: bool) {
        if let Some(queue) = QUEUED.iter().position(|queued| *queued == step).and_then(|at| self.queues.get(at)) {
            queue.taken.fetch_add(1, Ordering::Relaxed);
            queue.crowded.fetch_add(crowded.into(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_step_is_the_last_with_a_crowd_before_it() {
        let (progress, mut seen) = (Progress::default(), Seen::default());
        assert_eq!(progress.slowest(&mut seen), None);
        progress.took(Step::Hash, false);
        assert_eq!(progress.slowest(&mut seen), Some(Step::Read));
        for (step, crowded) in [(Step::Hash, true), (Step::Fill, true), (Step::Compress, true), (Step::Write, false)] {
            progress.took(step, crowded);
        }
        assert_eq!(progress.slowest(&mut seen), Some(Step::Compress));
        assert_eq!(progress.slowest(&mut seen), None);
    }
}
