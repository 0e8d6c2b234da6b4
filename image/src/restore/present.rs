//! What a target holds already: its present content is read at the places that the manifest names, and hashed. Several threads, each with
//! an io_uring of its own, so that a disk always has reads to do while all cores hash.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::buffer_pool::BufferPool;
use super::gather::{Piece, gather};
use super::places::{Place, Places};
use super::ring::{Completion, HoldId, Ring};
use crate::manifest::{ChunkDescriptor, Manifest};
use crate::units::{pages_of, round_up};
use crate::{ChunkId, Error, PAGE_BYTES, Result};

/// Threads that scan: beyond this many a disk is what limits.
const THREADS_MAX: usize = 8;
/// Reads in flight per thread. Most are 100 KiB or more: two threads keep an NVMe drive's queue busy.
const DEPTH: u32 = 32;
/// Chunks in work per thread, within this much memory: one is hashed while the others are read.
const JOBS_MAX: usize = 8;
const JOBS_BYTES: usize = 16 << 20;

/// The chunks of one image that its target holds already, each at all of its places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// By index into [`Manifest::chunks`].
    found: Vec<bool>,
    chunks: usize,
    raw_bytes: u64,
    notes: Vec<String>,
}

impl Present {
    /// Nothing is there, or nobody has looked.
    #[must_use]
    pub fn none(manifest: &Manifest) -> Self {
        Self { found: vec![false; manifest.chunks.len()], chunks: 0, raw_bytes: 0, notes: Vec::new() }
    }

    /// Whether the chunk with this index into [`Manifest::chunks`] is there.
    #[must_use]
    pub fn has(&self, index: usize) -> bool {
        self.found.get(index).is_some_and(|&found| found)
    }

    /// The chunks of `manifest` that are not there, ascending.
    pub fn missing<'a>(&'a self, manifest: &'a Manifest) -> impl Iterator<Item = ChunkId> + 'a {
        manifest.chunks.iter().enumerate().filter(|(index, _)| !self.has(*index)).map(|(_, chunk)| chunk.id)
    }

    /// How many chunks are there.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Their raw bytes.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// One line each on what kept chunks from being found, other than that they are not there.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// How far a scan has come; for display.
#[derive(Debug, Default)]
pub struct ScanProgress {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl ScanProgress {
    /// Raw bytes of chunks that were looked for, and of all chunks; 0 of 0 before the scan has begun.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (self.done_bytes.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed))
    }
}

/// What all scanning threads share.
struct Scan<'a> {
    manifest: &'a Manifest,
    places: &'a Places,
    file: BorrowedFd<'a>,
    /// What lengths are rounded up to: 1 for buffered reads.
    unit: u64,
    next: AtomicUsize,
    stop: &'a AtomicBool,
    progress: &'a ScanProgress,
    found: Mutex<Vec<bool>>,
    read_failures: AtomicU64,
    first_failure: Mutex<Option<io::Error>>,
}

/// Looks for the chunks of `manifest` in `file`.
pub(super) fn find(manifest: &Manifest, file: &File, direct_bytes: u32, progress: &ScanProgress, stop: &AtomicBool) -> Result<Present> {
    progress.total_bytes.store(manifest.chunks.iter().map(|chunk| u64::from(chunk.raw_bytes)).sum(), Ordering::Relaxed);
    let scan = Scan {
        manifest,
        places: &Places::new(manifest),
        file: file.as_fd(),
        unit: direct_bytes.max(1).into(),
        next: AtomicUsize::new(0),
        stop,
        progress,
        found: Mutex::new(vec![false; manifest.chunks.len()]),
        read_failures: AtomicU64::new(0),
        first_failure: Mutex::new(None),
    };
    let threads = thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, THREADS_MAX);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| Worker::new(&scan)?.run())).collect();
        let join =
            |thread: thread::ScopedJoinHandle<'_, Result<()>>| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // All are joined before the first error is looked at.
        workers.into_iter().map(join).collect::<Vec<_>>().into_iter().collect::<Result<()>>()
    })?;
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Stopped);
    }
    let notes = scan.notes();
    let found = scan.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let present = || manifest.chunks.iter().zip(&found).filter(|(_, found)| **found).map(|(chunk, _)| u64::from(chunk.raw_bytes));
    Ok(Present { chunks: present().count(), raw_bytes: present().sum(), notes, found })
}

impl Scan<'_> {
    fn notes(&self) -> Vec<String> {
        let unknown = self.manifest.chunks.iter().filter(|chunk| chunk.raw_hash.is_none()).count();
        let unknown = (unknown > 0).then(|| {
            let all = self.manifest.chunks.len();
            format!("{unknown} of {all} chunks cannot be recognised at the target: the pack was made by a version of discus that did not prepare for it; pack again")
        });
        let failures = self.read_failures.load(Ordering::Relaxed);
        let first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = first.as_ref().map(|error| format!("{failures} reads of the target failed, what was there is written anew: {error}"));
        unknown.into_iter().chain(failed).collect()
    }

    /// The next chunk that nobody has looked for, with its hash.
    fn next_chunk(&self) -> Option<(usize, &ChunkDescriptor)> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        self.manifest.chunks.get(index).map(|chunk| (index, chunk))
    }

    fn conclude(&self, chunk: usize, found: bool) {
        if let Some(slot) = self.found.lock().unwrap_or_else(PoisonError::into_inner).get_mut(chunk) {
            *slot = found;
        }
        let bytes = self.manifest.chunks.get(chunk).map_or(0, |chunk| chunk.raw_bytes.into());
        self.progress.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn note_failure(&self, error: io::Error) {
        self.read_failures.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// What a chunk's buffers are being filled with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Every page of the chunk, from the first place that has it.
    Gather,
    /// The places that hold pages once more, to be compared.
    Compare,
}

/// A chunk that is being looked for.
struct Job {
    chunk: usize,
    raw: HoldId,
    /// Where pages that occur more than once are read to.
    again: HoldId,
    step: Step,
    /// Pieces of the present step that are still to be read.
    queue: VecDeque<Piece>,
    /// Pieces of the present step.
    pieces: Vec<Piece>,
    /// Places of the second step that were not dealt with yet.
    repeated: VecDeque<Place>,
    in_flight: u32,
    failed: bool,
}

/// One scanning thread.
struct Worker<'a> {
    scan: &'a Scan<'a>,
    ring: Ring,
    pool: BufferPool,
    jobs: Vec<Option<Job>>,
    ended: Vec<Completion>,
}

impl<'a> Worker<'a> {
    fn new(scan: &'a Scan<'a>) -> Result<Self> {
        let chunk_bytes = scan.manifest.chunk_bytes_max();
        let jobs = (JOBS_BYTES / chunk_bytes / 2).clamp(2, JOBS_MAX);
        let pool = BufferPool::new(2 * jobs, chunk_bytes)?;
        // Without registered buffers it works as well.
        let (ring, _) = Ring::new(DEPTH, &[&pool])?;
        Ok(Self { scan, ring, pool, jobs: (0..jobs).map(|_| None).collect(), ended: Vec::new() })
    }

    fn run(mut self) -> Result<()> {
        let uring = |error| Error::Uring { error };
        loop {
            for slot in 0..self.jobs.len() {
                while self.jobs[slot].is_none()
                    && let Some((chunk, descriptor)) = self.scan.next_chunk()
                {
                    self.jobs[slot] = self.begin(chunk, descriptor);
                }
                self.read_more(slot).map_err(uring)?;
            }
            if self.jobs.iter().all(Option::is_none) {
                return Ok(());
            }
            self.ring.submit().map_err(uring)?;
            let mut ended = std::mem::take(&mut self.ended);
            self.ring.complete(true, &mut ended).map_err(uring)?;
            for completion in ended.drain(..) {
                self.end_read(completion);
            }
            self.ended = ended;
            for slot in 0..self.jobs.len() {
                self.advance(slot);
            }
        }
    }

    /// A chunk that can be recognised; others are concluded at once.
    fn begin(&mut self, chunk: usize, descriptor: &ChunkDescriptor) -> Option<Job> {
        let gathered = descriptor.raw_hash.and_then(|_| gather(self.scan.places.of_chunk(chunk), descriptor.raw_bytes));
        // There are two buffers for each job.
        let buffers = self.pool.take().zip(self.pool.take());
        let Some(((pieces, repeated), (raw, again))) = gathered.zip(buffers) else {
            self.scan.conclude(chunk, false);
            return None;
        };
        let (raw, again) = (self.ring.hold(raw), self.ring.hold(again));
        let queue = pieces.iter().copied().collect();
        Some(Job { chunk, raw, again, step: Step::Gather, queue, pieces, repeated, in_flight: 0, failed: false })
    }

    /// Starts reads of a job while there is room.
    fn read_more(&mut self, slot: usize) -> io::Result<()> {
        let Some(job) = self.jobs[slot].as_mut() else { return Ok(()) };
        let hold = match job.step {
            Step::Gather => job.raw,
            Step::Compare => job.again,
        };
        while !self.ring.is_full()
            && let Some(piece) = job.queue.pop_front()
        {
            let start = piece.buffer_offset as usize;
            let end = start + round_up(piece.length.into(), self.scan.unit) as usize;
            // The tag finds the job; the piece's length is what a read has to have at least.
            self.ring.read(hold, start..end, self.scan.file, piece.target_offset, tag(slot, piece.length))?;
            job.in_flight += 1;
        }
        Ok(())
    }

    fn end_read(&mut self, completion: Completion) {
        let (slot, length) = untag(completion.tag);
        let Some(job) = self.jobs.get_mut(slot).and_then(Option::as_mut) else { return };
        job.in_flight -= 1;
        match completion.result {
            Ok(bytes) if bytes >= length => return,
            // Only the end of a file cuts a read short: what is not there cannot be right.
            Ok(_) => {}
            Err(error) => self.scan.note_failure(error),
        }
        job.failed = true;
        job.queue.clear();
    }

    /// Takes a job whose reads have all ended to its next step, or to its end.
    fn advance(&mut self, slot: usize) {
        let Some(mut job) = self.jobs[slot].take_if(|job| job.in_flight == 0 && job.queue.is_empty()) else { return };
        let right = !job.failed && self.check(&job).unwrap_or(false);
        if right && self.next_step(&mut job) {
            self.jobs[slot] = Some(job);
            return;
        }
        self.ring.release(job.raw);
        self.ring.release(job.again);
        self.scan.conclude(job.chunk, right);
    }

    /// Whether what was read is right.
    fn check(&mut self, job: &Job) -> Option<bool> {
        let descriptor = self.scan.manifest.chunks.get(job.chunk)?;
        let raw_bytes = descriptor.raw_bytes as usize;
        match job.step {
            Step::Gather => {
                let raw = self.ring.bytes_mut(job.raw, 0..raw_bytes)?;
                for piece in &job.pieces {
                    // The rest of a partial page is zero in the chunk and belongs to nobody at the target.
                    let end = piece.raw_offset as usize + piece.length as usize;
                    raw.get_mut(end..end.next_multiple_of(PAGE_BYTES))?.fill(0);
                }
                Some(Some(*blake3::hash(raw).as_bytes()) == descriptor.raw_hash)
            }
            Step::Compare => {
                let raw = self.ring.bytes(job.raw, 0..raw_bytes)?;
                let again = self.ring.bytes(job.again, 0..self.pool.buffer_bytes())?;
                let same = |piece: &Piece| {
                    let (raw_start, start, length) = (piece.raw_offset as usize, piece.buffer_offset as usize, piece.length as usize);
                    Some(raw.get(raw_start..raw_start + length)? == again.get(start..start + length)?)
                };
                Some(job.pieces.iter().all(|piece| same(piece) == Some(true)))
            }
        }
    }

    /// Sets the job to compare what it has not compared yet; `false` when there is nothing left.
    fn next_step(&mut self, job: &mut Job) -> bool {
        job.step = Step::Compare;
        job.pieces.clear();
        let mut buffer_offset = 0;
        while let Some(place) = job.repeated.front() {
            let room = pages_of(place.length.into()) as u32 * PAGE_BYTES as u32;
            if buffer_offset as usize + room as usize > self.pool.buffer_bytes() {
                break;
            }
            let Place { target_offset, raw_offset, length, .. } = *place;
            job.pieces.push(Piece { target_offset, raw_offset, buffer_offset, length });
            buffer_offset += room;
            job.repeated.pop_front();
        }
        job.queue.extend(&job.pieces);
        !job.pieces.is_empty()
    }
}

/// Chunks in work are few, and a chunk has at most 2^22 bytes.
fn tag(slot: usize, length: u32) -> u32 {
    (slot as u32) << 24 | length
}

fn untag(tag: u32) -> (usize, u32) {
    ((tag >> 24) as usize, tag & 0xff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CHUNK_PAGES_MAX;

    #[test]
    fn a_tag_holds_the_largest_chunk() {
        assert_eq!(untag(tag(JOBS_MAX - 1, CHUNK_PAGES_MAX * PAGE_BYTES as u32)), (JOBS_MAX - 1, CHUNK_PAGES_MAX * PAGE_BYTES as u32));
    }
}
