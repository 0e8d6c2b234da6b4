//! The reader thread: takes groups from the dispatcher in the order of sending, reads their chunks ahead of time, makes repair symbols, and passes
//! complete jobs on to the transmitters of their streams.
//!
//! Every receiver hashes every chunk before it writes it, so the sender does not as a rule: it would cost as much as everything else that is done here. A chunk
//! that a receiver says does not match its hash is read once more and checked, once, which tells a damaged pack from a receiver's own defect.

use super::Error;
use super::cache::{Cache, Chunk};
use super::disk::{Disk, Finished};
use super::job::{Job, Symbols};
use crate::schedule::Group;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use image::Pack;
use image::restore::{BufferPool, check_chunk};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use wire::erasure::Encoder;
use wire::session::SessionParameters;
use wire::{Checksums, ChunkId, Sequence, StreamId};

/// How soon to look again for a buffer when all are being sent from.
const BUFFER_RETRY: Duration = Duration::from_millis(1);

/// What the dispatcher asks for.
pub(super) enum Request {
    /// Read and pass on.
    Group(Group),
    /// Pass on, behind the groups asked for before.
    Sync {
        /// Its stream.
        stream: StreamId,
        /// Its position.
        sequence: Sequence,
    },
}

/// The reader's state, owned by its thread.
pub(super) struct Reader {
    pack: Arc<Pack>,
    parameters: SessionParameters,
    disk: Disk,
    cache: Cache,
    encoder: Encoder,
    /// Of symbols of the address family in which they go out.
    checksums: fn(&[u8]) -> Checksums,
    /// By chunk id.
    soundness: Vec<Soundness>,
    /// Chunks that did not match their hash at a receiver.
    suspects: Receiver<ChunkId>,
    loading: HashSet<ChunkId>,
    pending: VecDeque<Pending>,
    /// To the transmitter of each stream.
    routes: Vec<(StreamId, Sender<Job>)>,
}

/// What is known of a chunk in the pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Soundness {
    /// Nobody has complained.
    #[default]
    Assumed,
    /// Somebody has: it is checked when it is read next.
    Doubted,
    /// Its BLAKE3 has matched.
    Checked,
}

struct Pending {
    request: Request,
    /// The chunks of a group, as they come.
    chunks: Vec<Option<Arc<Chunk>>>,
}

impl Pending {
    fn group_chunk(&self, at: usize) -> Option<ChunkId> {
        match &self.request {
            Request::Group(group) => group.chunks.get(at).map(|symbols| symbols.chunk),
            Request::Sync { .. } => None,
        }
    }
}

/// Bytes of a buffer that holds any chunk of the pack: its symbols, and what O_DIRECT reads, whole pages.
pub(super) fn chunk_buffer_bytes(parameters: &SessionParameters) -> usize {
    let symbols = usize::from(parameters.source_symbols_max()) * usize::from(parameters.symbol_bytes);
    symbols.max(parameters.chunk_bytes_max as usize).next_multiple_of(image::PAGE_BYTES)
}

impl Reader {
    /// Opens the pack's file for reading into `pool`. Of `suspects` receivers say that they did not match their hash. Jobs of each stream go where
    /// `routes` says, which has all streams.
    ///
    /// # Errors
    /// [`Error::OpenPack`].
    pub(super) fn open(
        pack: Arc<Pack>,
        parameters: SessionParameters,
        pool: BufferPool,
        checksums: fn(&[u8]) -> Checksums,
        suspects: Receiver<ChunkId>,
        routes: Vec<(StreamId, Sender<Job>)>,
    ) -> Result<Reader, Error> {
        let disk = Disk::open(pack.path(), &pool).map_err(|source| Error::OpenPack { path: pack.path().to_owned(), source })?;
        let soundness = vec![Soundness::default(); pack.chunks().len()];
        let encoder = Encoder::new(parameters.symbol_bytes);
        let (cache, loading, pending) = (Cache::new(pool), HashSet::new(), VecDeque::new());
        Ok(Reader { pack, parameters, disk, cache, encoder, checksums, soundness, suspects, loading, pending, routes })
    }

    /// One line on how the pack is read.
    pub(super) fn description(&self) -> String {
        self.disk.description()
    }

    /// Works until the dispatcher hangs up.
    ///
    /// # Errors
    /// When a chunk cannot be read or is not what the pack says.
    pub(super) fn run(&mut self, requests: &Receiver<Request>) -> Result<(), Error> {
        loop {
            if self.pending.is_empty() {
                let Ok(request) = requests.recv() else { return Ok(()) };
                self.accept(request);
            }
            while let Ok(request) = requests.try_recv() {
                self.accept(request);
            }
            self.doubt_suspects();
            self.start_reads()?;
            if !self.pass_on()? {
                return Ok(());
            }
            if self.pending.is_empty() {
                continue;
            }
            if self.disk.is_busy() {
                let mut wait = true;
                while let Some(finished) = self.disk.finish(wait).map_err(|source| self.failed_read(None, source))? {
                    self.loaded(finished)?;
                    wait = false;
                }
            } else {
                match requests.recv_timeout(BUFFER_RETRY) {
                    Ok(request) => self.accept(request),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        }
    }

    fn accept(&mut self, request: Request) {
        let chunks = match &request {
            Request::Group(group) => vec![None; group.chunks.len()],
            Request::Sync { .. } => Vec::new(),
        };
        self.pending.push_back(Pending { request, chunks });
    }

    /// Chunks that are doubted are wanted again, and so will be read soon.
    fn doubt_suspects(&mut self) {
        while let Ok(chunk) = self.suspects.try_recv() {
            if let Some(soundness @ Soundness::Assumed) = self.soundness.get_mut(chunk.index()) {
                *soundness = Soundness::Doubted;
                self.cache.remove(chunk);
            }
        }
    }

    /// Starts as many of the reads that the pending groups need, in their order, as there is room for.
    fn start_reads(&mut self) -> Result<(), Error> {
        for group in 0..self.pending.len() {
            for at in 0..self.pending[group].chunks.len() {
                let Some(id) = self.pending[group].group_chunk(at) else { continue };
                if self.pending[group].chunks[at].is_some() {
                    continue;
                }
                if let Some(chunk) = self.cache.get(id) {
                    self.pending[group].chunks[at] = Some(chunk);
                    continue;
                }
                if self.loading.contains(&id) {
                    continue;
                }
                let Some(record) = self.pack.chunks().get(id.index()) else { return Err(Error::NoChunk(id)) };
                let (offset, stored_bytes) = (record.offset, record.stored_bytes as usize);
                if !self.disk.has_room() {
                    return Ok(());
                }
                let Some(buffer) = self.cache.buffer() else { return Ok(()) };
                self.loading.insert(id);
                self.disk.start(id.0.into(), offset, stored_bytes, buffer).map_err(|source| self.failed_read(Some(id), source))?;
            }
        }
        Ok(())
    }

    /// Checks a chunk that has been read, if it is doubted, and gives it to every group that waits for it.
    fn loaded(&mut self, finished: Finished) -> Result<(), Error> {
        // The token is the chunk id that was given to `start`.
        let id = ChunkId(finished.token as u32);
        self.loading.remove(&id);
        finished.outcome.map_err(|source| self.failed_read(Some(id), source))?;
        let Some(record) = self.pack.chunks().get(id.index()) else { return Err(Error::NoChunk(id)) };
        let stored = finished.buffer.get(..record.stored_bytes as usize).unwrap_or_default();
        if self.soundness[id.index()] == Soundness::Doubted {
            check_chunk(&record.descriptor(image::ChunkId(id.0)), stored)
                .map_err(|source| Error::Rotten { path: self.pack.path().to_owned(), source })?;
            tracing::warn!("a receiver says that chunk {id} does not match its hash; in the pack it does");
            self.soundness[id.index()] = Soundness::Checked;
        }
        let source_symbols = self.parameters.source_symbols(record.stored_bytes);
        let (stored_bytes, symbol_bytes) = (record.stored_bytes as usize, self.parameters.symbol_bytes.into());
        let chunk = Chunk::new(finished.buffer, stored_bytes, source_symbols, symbol_bytes, self.checksums);
        let chunk = Arc::new(chunk.ok_or(Error::NoChunk(id))?);
        self.cache.insert(id, Arc::clone(&chunk));
        for pending in &mut self.pending {
            for at in 0..pending.chunks.len() {
                if pending.group_chunk(at) == Some(id) {
                    pending.chunks[at] = Some(Arc::clone(&chunk));
                }
            }
        }
        Ok(())
    }

    /// Passes on what is complete at the head of the queue. False when a transmitter has hung up.
    fn pass_on(&mut self) -> Result<bool, Error> {
        while self.pending.front().is_some_and(|pending| pending.chunks.iter().all(Option::is_some)) {
            let Some(pending) = self.pending.pop_front() else { break };
            let job = match pending.request {
                Request::Sync { stream, sequence } => Job::Sync { stream, sequence },
                Request::Group(group) => {
                    let symbols = group.chunks.iter().zip(pending.chunks.into_iter().flatten());
                    let chunks = symbols.map(|(wanted, chunk)| {
                        let made = Symbols::new(wanted.chunk, chunk, &wanted.symbols, &mut self.encoder, self.checksums);
                        made.map_err(|source| Error::Encode { chunk: wanted.chunk, source })
                    });
                    let chunks = chunks.collect::<Result<_, _>>()?;
                    Job::group(group, chunks)
                }
            };
            let stream = job.stream();
            let route = self.routes.iter().find(|(id, _)| *id == stream);
            // The dispatcher has no more jobs of a stream under way than the channel has room for, so this does not block.
            if route.is_none_or(|(_, jobs)| jobs.send(job).is_err()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn failed_read(&self, chunk: Option<ChunkId>, source: std::io::Error) -> Error {
        Error::Read { path: self.pack.path().to_owned(), chunk, source }
    }
}
