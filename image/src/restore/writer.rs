//! Writes decoded chunks to all their places: several writes in flight through one io_uring, owned by one thread. A buffer goes back to
//! its pool when its last write has ended. An error names the device or file and the offset, and ends the job: what was begun is removed.

use std::collections::VecDeque;
use std::io;

use super::buffer_pool::{Buffer, BufferPool};
use super::flusher::Flusher;
use super::places::{Place, Places};
use super::ring::{Completion, HoldId, Ring};
use super::target::{Run, Target};
use crate::manifest::{ChunkDescriptor, Manifest};
use crate::{ChunkId, Error, Result};

/// Writes one image to one target.
pub struct Writer {
    // Before the target: waits for the writes in flight while the files are still open.
    ring: Ring,
    flusher: Flusher,
    target: Target,
    places: Places,
    /// By chunk index.
    chunks: Vec<Chunk>,
    jobs: Slab<Job>,
    /// Jobs with places for which no write was started yet.
    queue: VecDeque<u32>,
    writes: Slab<Write>,
    /// Kept for its memory.
    ended: Vec<Completion>,
    /// Chunks that were completed and not yet reported.
    done: Vec<ChunkId>,
    missing: usize,
    failed: bool,
    notes: Vec<String>,
}

struct Chunk {
    id: ChunkId,
    raw_bytes: u32,
    state: ChunkState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    Missing,
    Writing,
    Written,
}

/// A chunk that is being written.
struct Job {
    chunk: usize,
    hold: HoldId,
    /// Where the raw chunk begins in the buffer.
    buffer_offset: usize,
    next_place: usize,
    in_flight: u32,
}

/// A write in flight.
#[derive(Clone, Copy)]
struct Write {
    job: u32,
    file: u32,
    /// Bytes that count for the file: those of the place.
    place_bytes: u32,
    /// What is left to be written.
    run: Run,
    /// Uses O_DIRECT and may be repeated without it.
    can_fall_back: bool,
}

impl Writer {
    /// A writer with up to `depth` writes in flight, for the chunks that [`Target::find_present`] has not found. The target is changed from
    /// here on. The regions of `pools` are registered with the kernel; buffers of other pools can be
    /// written too, at some cost.
    ///
    /// # Errors
    /// When io_uring is not to be had, or the target cannot be prepared.
    pub fn new(mut target: Target, manifest: &Manifest, pools: &[&BufferPool], depth: u32) -> Result<Self> {
        let places = Places::new(manifest);
        target.begin(manifest, &places)?;
        let depth = depth.min(super::target::WRITES_MAX);
        let (ring, note) = Ring::new(depth, pools)?;
        let chunk = |(index, chunk): (usize, &ChunkDescriptor)| {
            let state = if target.present().has(index) { ChunkState::Written } else { ChunkState::Missing };
            Chunk { id: chunk.id, raw_bytes: chunk.raw_bytes, state }
        };
        let chunks: Vec<Chunk> = manifest.chunks.iter().enumerate().map(chunk).collect();
        let missing = chunks.iter().filter(|chunk| chunk.state == ChunkState::Missing).count();
        Ok(Self {
            ring,
            flusher: target.flusher()?,
            target,
            places,
            chunks,
            jobs: Slab::default(),
            queue: VecDeque::new(),
            writes: Slab::default(),
            ended: Vec::new(),
            done: Vec::new(),
            missing,
            failed: false,
            notes: note.into_iter().collect(),
        })
    }

    /// What is not as one would expect: see [`Target::notes`].
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        notes.extend(self.target.notes());
        notes
    }

    /// Chunks that are not yet completely written.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Chunks that were handed over and are not yet completely written: each holds a buffer.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.jobs.len()
    }

    /// Queues a chunk for all its places. Its raw bytes are in `buffer` from `buffer_offset` on, a multiple of 4096. Never waits: the
    /// number of buffers bounds the queue. A chunk that was handed over before is not written again.
    ///
    /// # Errors
    /// When the image has no such chunk, the buffer is too short for it, or a write failed, this one or an earlier.
    pub fn write_chunk(&mut self, chunk: ChunkId, buffer: Buffer, buffer_offset: usize) -> Result<()> {
        self.check()?;
        let index = self.chunks.binary_search_by_key(&chunk, |chunk| chunk.id);
        let index = index.map_err(|_| Error::Chunk { chunk, why: "the image does not need it".into() })?;
        let found = &mut self.chunks[index];
        let room = buffer.len().saturating_sub(buffer_offset);
        if room < found.raw_bytes as usize || !buffer_offset.is_multiple_of(crate::PAGE_BYTES) {
            return Err(Error::Chunk { chunk, why: "its buffer is too short or not aligned".into() });
        }
        match found.state {
            ChunkState::Missing => {}
            ChunkState::Writing => return Ok(()),
            ChunkState::Written => {
                self.done.push(chunk);
                return Ok(());
            }
        }
        found.state = ChunkState::Writing;
        let hold = self.ring.hold(buffer);
        let job = self.jobs.insert(Job { chunk: index, hold, buffer_offset, next_place: 0, in_flight: 0 });
        self.queue.push_back(job);
        let started = self.start_writes();
        self.note_failure(started)
    }

    /// Takes note of writes that have ended, starts others, and appends to `done` the chunks that have been written to all their
    /// places. Does not wait.
    ///
    /// # Errors
    /// When a write failed.
    pub fn poll(&mut self, done: &mut Vec<ChunkId>) -> Result<()> {
        self.check()?;
        let outcome = self.advance(false);
        done.append(&mut self.done);
        self.note_failure(outcome)
    }

    /// As [`Writer::poll`], but waits until a chunk is done, or nothing is pending.
    ///
    /// # Errors
    /// When a write failed.
    pub fn wait(&mut self, done: &mut Vec<ChunkId>) -> Result<()> {
        self.check()?;
        let mut outcome = Ok(());
        while outcome.is_ok() && self.done.is_empty() && self.pending() > 0 {
            outcome = self.advance(true);
        }
        done.append(&mut self.done);
        self.note_failure(outcome)
    }

    /// Waits for all writes, writes zeros and metadata, flushes, and makes the target look whole. Returns [`Writer::notes`].
    ///
    /// # Errors
    /// When a chunk was never handed over or anything fails: the target then does not look whole.
    pub fn finish(mut self) -> Result<Vec<String>> {
        self.check()?;
        while self.pending() > 0 {
            self.advance(true)?;
        }
        if self.missing > 0 {
            return Err(self.incomplete());
        }
        let Self { ring, mut flusher, target, mut notes, .. } = self;
        drop(ring);
        flusher.end()?;
        notes.extend(target.finish()?);
        Ok(notes)
    }

    fn incomplete(&self) -> Error {
        Error::Incomplete { path: self.target.path().to_owned(), missing: self.missing, total: self.chunks.len() }
    }

    fn check(&self) -> Result<()> {
        if self.failed { Err(self.incomplete()) } else { Ok(()) }
    }

    fn note_failure(&mut self, outcome: Result<()>) -> Result<()> {
        self.failed |= outcome.is_err();
        outcome
    }

    fn advance(&mut self, wait: bool) -> Result<()> {
        let mut ended = std::mem::take(&mut self.ended);
        let mut outcome = self.ring.complete(wait, &mut ended).map_err(|error| Error::Uring { error });
        for completion in ended.drain(..) {
            outcome = outcome.and_then(|()| self.end_write(completion));
        }
        self.ended = ended;
        outcome?;
        self.start_writes()
    }

    /// Starts writes until the ring is full or the queue empty.
    fn start_writes(&mut self) -> Result<()> {
        while !self.ring.is_full()
            && let Some(&job) = self.queue.front()
        {
            let next = self.jobs.get_mut(job).and_then(|found| {
                let places = self.places.of_chunk(found.chunk);
                let place = places.get(found.next_place)?;
                found.next_place += 1;
                Some((*place, found.next_place == places.len()))
            });
            if next.is_none_or(|(_, last)| last) {
                self.queue.pop_front();
            }
            if let Some((place, _)) = next {
                self.start_write(job, place)?;
            }
            // It may be done without any write in flight: the target keeps a device's beginning for later.
            self.end_job_if_done(job);
        }
        self.ring.submit().map_err(|error| Error::Uring { error })
    }

    fn start_write(&mut self, job: u32, place: Place) -> Result<()> {
        let Some(found) = self.jobs.get_mut(job) else { return Ok(()) };
        let start = found.buffer_offset + place.raw_offset as usize;
        let raw = self.ring.bytes(found.hold, start..start + place.length as usize).unwrap_or_default();
        let Some(run) = self.target.run(&place, raw) else {
            // Kept by the target for later.
            return Ok(());
        };
        found.in_flight += 1;
        let can_fall_back = self.target.can_fall_back();
        let tag = self.writes.insert(Write { job, file: place.file, place_bytes: place.length, run, can_fall_back });
        let (hold, buffer_offset) = (found.hold, found.buffer_offset);
        let fd = self.target.begin_write(place.file)?;
        let start = buffer_offset + run.raw_offset as usize;
        let queued = self.ring.write(hold, start..start + run.length as usize, fd, run.target_offset, tag);
        queued.map_err(|error| Error::Uring { error })
    }

    /// Takes note of one write that has ended.
    fn end_write(&mut self, completion: Completion) -> Result<()> {
        let Some(write) = self.writes.get_mut(completion.tag) else { return Ok(()) };
        match completion.result {
            Ok(bytes) if bytes >= write.run.length => {}
            // A write that moves on not at all would do so for ever.
            Ok(0) => {
                let error = io::Error::new(io::ErrorKind::WriteZero, "nothing was written");
                return Err(self.write_error(completion.tag, error));
            }
            Ok(bytes) => {
                // O_DIRECT goes on only where it is aligned: what was written of a sector is written again.
                let bytes = if bytes >= 4096 { bytes / 4096 * 4096 } else { bytes };
                write.run.target_offset += u64::from(bytes);
                write.run.raw_offset += bytes;
                write.run.length -= bytes;
                return self.repeat_write(completion.tag);
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN) => return self.repeat_write(completion.tag),
                Some(libc::EINVAL) => {
                    if !std::mem::take(&mut write.can_fall_back) {
                        return Err(self.write_error(completion.tag, error));
                    }
                    self.target.fall_back()?;
                    return self.repeat_write(completion.tag);
                }
                _ => return Err(self.write_error(completion.tag, error)),
            },
        }
        let Some(write) = self.writes.remove(completion.tag) else { return Ok(()) };
        if let Some(job) = self.jobs.get_mut(write.job) {
            job.in_flight -= 1;
        }
        self.end_job_if_done(write.job);
        self.flusher.written(write.place_bytes.into())?;
        self.target.written(write.file, write.place_bytes.into())
    }

    /// Starts a write again, or the rest of it.
    fn repeat_write(&mut self, tag: u32) -> Result<()> {
        let Some(&mut write) = self.writes.get_mut(tag) else { return Ok(()) };
        let (Some(job), Some(fd)) = (self.jobs.get_mut(write.job), self.target.fd(write.file)) else { return Ok(()) };
        let start = job.buffer_offset + write.run.raw_offset as usize;
        let queued = self.ring.write(job.hold, start..start + write.run.length as usize, fd, write.run.target_offset, tag);
        queued.and_then(|()| self.ring.submit()).map_err(|error| Error::Uring { error })
    }

    fn write_error(&mut self, tag: u32, error: io::Error) -> Error {
        let Some(&mut Write { file, run, .. }) = self.writes.get_mut(tag) else { return Error::Uring { error } };
        let (offset, length_bytes) = (run.target_offset, run.length.into());
        Error::WriteTarget { path: self.target.path_of(file), offset, length_bytes, error }
    }

    fn end_job_if_done(&mut self, id: u32) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if job.in_flight > 0 || job.next_place < self.places.of_chunk(job.chunk).len() {
            return;
        }
        self.ring.release(job.hold);
        let chunk = &mut self.chunks[job.chunk];
        chunk.state = ChunkState::Written;
        self.done.push(chunk.id);
        self.missing -= 1;
        self.jobs.remove(id);
    }
}

/// Values under small numbers that are used again.
struct Slab<T> {
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    fn insert(&mut self, value: T) -> u32 {
        if let Some(id) = self.free.pop() {
            self.values[id as usize] = Some(value);
            return id;
        }
        self.values.push(Some(value));
        self.values.len() as u32 - 1
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.values.get_mut(id as usize)?.as_mut()
    }

    fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.values.get_mut(id as usize)?.take();
        self.free.extend(value.is_some().then_some(id));
        value
    }
}
