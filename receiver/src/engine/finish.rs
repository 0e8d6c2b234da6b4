//! From an assembled chunk to the disk: missing symbols decoded, BLAKE3 checked, decompressed, written to all its places. One thread
//! owns the writer; workers, when there are some, do the computing before it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use image::manifest::ChunkDescriptor;
use image::restore::{Buffer, BufferPool, RunningHash, Writer, check_chunk_from, decode_chunk_from};
use image::{Codec, Manifest};
use wire::ChunkId;
use wire::erasure::Decoder;

use super::Progress;
use crate::assemble::Completed;

/// How long the writer's thread sleeps at most while writes are in flight and no chunk comes: the granularity with which buffers of
/// finished writes come back when the network is idle.
const WRITE_POLL: Duration = Duration::from_micros(500);

/// A chunk with enough symbols, in the buffer in which it was assembled.
pub(super) struct Assembled {
    pub(super) completed: Completed,
    pub(super) buffer: Buffer,
    /// Of its stored bytes, as far as it was begun.
    pub(super) hash: RunningHash,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is what the manifest promises.
    Verified(ChunkId),
    /// It is not, although every packet had a sound CRC: somebody forges packets, or memory is bad. It is wanted again.
    Corrupt(ChunkId),
}

/// A verified chunk, its raw bytes at the start of the buffer.
pub(super) struct Raw {
    chunk: image::ChunkId,
    buffer: Buffer,
}

/// Turns assembled chunks into raw ones. One for each thread that does so.
pub(super) struct Checker {
    manifest: Arc<Manifest>,
    symbol_bytes: usize,
    decoder: Decoder,
    raw_pool: BufferPool,
    verdicts: Sender<Verdict>,
    progress: Arc<Progress>,
}

impl Checker {
    pub(super) fn new(
        manifest: Arc<Manifest>,
        symbol_bytes: u16,
        raw_pool: BufferPool,
        verdicts: Sender<Verdict>,
        progress: Arc<Progress>,
    ) -> Checker {
        Checker { manifest, symbol_bytes: symbol_bytes.into(), decoder: Decoder::new(symbol_bytes), raw_pool, verdicts, progress }
    }

    /// Checks a chunk, says what it found, and decompresses it where need be into the buffer that `take_raw` gives.
    fn check<E>(
        &mut self,
        Assembled { completed, mut buffer, hash }: Assembled,
        take_raw: impl FnOnce(&BufferPool) -> Result<Buffer, E>,
    ) -> Result<Option<Raw>, E> {
        let wire_id = completed.chunk;
        let chunk = image::ChunkId(wire_id.0);
        let Some(descriptor) = self.manifest.chunk_index(chunk).map(|index| &self.manifest.chunks[index]) else {
            return Ok(None); // the assembler knows only chunks of this manifest
        };
        if !completed.has_all_sources() {
            if let Err(error) = restore_sources(&mut self.decoder, self.symbol_bytes, &completed, &mut buffer) {
                tracing::warn!("chunk {wire_id}: {error}");
                self.judge(Verdict::Corrupt(wire_id));
                return Ok(None);
            }
            self.progress.chunks_decoded.fetch_add(1, Ordering::Relaxed);
        }
        let stored_bytes = descriptor.stored_bytes as usize;
        let (checked, raw_buffer) = match descriptor.codec {
            // Page-aligned and contiguous already: written from where it was assembled.
            Codec::None => (check_plain(descriptor, &buffer[..stored_bytes], hash), buffer),
            Codec::Lz4 | Codec::Zstd => {
                let mut raw = take_raw(&self.raw_pool)?;
                let decoded = decode_chunk_from(descriptor, &buffer[..stored_bytes], hash, &mut raw[..descriptor.raw_bytes as usize]);
                (decoded, raw)
            }
        };
        match checked {
            Ok(()) => {
                self.progress.verified_bytes.fetch_add(descriptor.raw_bytes.into(), Ordering::Relaxed);
                self.judge(Verdict::Verified(wire_id));
                Ok(Some(Raw { chunk, buffer: raw_buffer }))
            }
            Err(error) => {
                tracing::warn!("{error}");
                self.progress.chunks_corrupt.fetch_add(1, Ordering::Relaxed);
                self.judge(Verdict::Corrupt(wire_id));
                Ok(None)
            }
        }
    }

    fn judge(&self, verdict: Verdict) {
        // Nobody listens any more once the receiver was stopped.
        let _ = self.verdicts.send(verdict);
    }

    /// A worker's life: chunks in, raw chunks out, until there are no more.
    pub(super) fn work(mut self, assembled: &Receiver<Assembled>, raws: &Sender<Raw>) {
        for chunk in assembled {
            let Ok(raw) = self.check(chunk, |pool| Ok::<_, std::convert::Infallible>(pool.take_wait()));
            // A writer that is gone has failed and says so itself.
            if raw.is_some_and(|raw| raws.send(raw).is_err()) {
                return;
            }
        }
    }
}

fn check_plain(descriptor: &ChunkDescriptor, stored: &[u8], begun: RunningHash) -> image::Result<()> {
    if descriptor.stored_bytes != descriptor.raw_bytes {
        return Err(image::Error::Manifest(format!("chunk {} is not compressed and has two lengths", descriptor.id)));
    }
    check_chunk_from(descriptor, stored, begun)
}

/// Fills the cells of missing source symbols.
fn restore_sources(
    decoder: &mut Decoder,
    symbol_bytes: usize,
    completed: &Completed,
    buffer: &mut [u8],
) -> Result<(), wire::erasure::Error> {
    let source_bytes = usize::from(completed.source_symbols) * symbol_bytes;
    let (source, repair) = buffer.split_at_mut(source_bytes);
    let repairs = completed.repairs.iter().map(|&(symbol, cell)| {
        let at = usize::from(cell - completed.source_symbols) * symbol_bytes;
        (symbol, &repair[at..][..symbol_bytes])
    });
    decoder.decode(completed.source_symbols, source, |symbol| completed.source_present.contains(symbol), repairs)
}

/// Where the writer's chunks come from.
pub(super) enum Feed {
    /// Assembled ones, to be checked on the writer's thread.
    Assembled(Receiver<Assembled>, Box<Checker>),
    /// Checked ones, from workers.
    Raw(Receiver<Raw>),
}

/// The writer's thread: writes what comes until the feed ends, then makes the target whole if `complete` says that all has come.
pub(super) fn write_all(
    mut writer: Writer,
    feed: Feed,
    progress: &Progress,
    manifest: &Manifest,
    complete: impl FnOnce() -> bool,
) -> image::Result<Option<Vec<String>>> {
    let outcome = match feed {
        Feed::Assembled(chunks, mut checker) => drain(&mut writer, &chunks, progress, manifest, |writer, chunk, done| {
            let raw = checker.check(chunk, |pool| {
                loop {
                    match pool.take() {
                        Some(buffer) => return Ok(buffer),
                        // All are on their way to the disk.
                        None => writer.wait(done)?,
                    }
                }
            })?;
            raw.map_or(Ok(()), |Raw { chunk, buffer }| writer.write_chunk(chunk, buffer, 0))
        }),
        Feed::Raw(chunks) => {
            drain(&mut writer, &chunks, progress, manifest, |writer, Raw { chunk, buffer }, _| writer.write_chunk(chunk, buffer, 0))
        }
    };
    outcome?;
    if !complete() {
        // Dropped unfinished, the target does not look whole.
        return Ok(None);
    }
    let notes = writer.finish()?;
    progress.written_bytes.store(progress.total_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    Ok(Some(notes))
}

/// Passes what comes to `take` until the feed ends, and keeps writes moving meanwhile.
fn drain<T>(
    writer: &mut Writer,
    feed: &Receiver<T>,
    progress: &Progress,
    manifest: &Manifest,
    mut take: impl FnMut(&mut Writer, T, &mut Vec<image::ChunkId>) -> image::Result<()>,
) -> image::Result<()> {
    let mut done = Vec::new();
    loop {
        let next = match feed.try_recv() {
            Ok(chunk) => Some(chunk),
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) if writer.pending() > 0 => match feed.recv_timeout(WRITE_POLL) {
                Ok(chunk) => Some(chunk),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            },
            Err(TryRecvError::Empty) => match feed.recv() {
                Ok(chunk) => Some(chunk),
                Err(_) => return Ok(()),
            },
        };
        if let Some(chunk) = next {
            take(writer, chunk, &mut done)?;
        }
        writer.poll(&mut done)?;
        for chunk in done.drain(..) {
            if let Some(descriptor) = manifest.chunk_index(chunk).map(|index| &manifest.chunks[index]) {
                progress.written_bytes.fetch_add(descriptor.raw_bytes.into(), Ordering::Relaxed);
                progress.written_stored_bytes.fetch_add(descriptor.stored_bytes.into(), Ordering::Relaxed);
            }
        }
    }
}
