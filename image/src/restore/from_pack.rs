//! Restoring an image from a local pack: threads read and decode chunks, the caller's thread writes. The oracle for everything that
//! arrives over the network.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use rustix::fs::OFlags;
use rustix::io::{ReadWriteFlags, preadv2};

use super::{Buffer, BufferPool, Present, ScanProgress, Target, TargetOptions, Writer, check_chunk, decode_chunk};
use crate::manifest::ChunkDescriptor;
use crate::pack::refuse_own_source;
use crate::units::round_up;
use crate::{ChunkId, Codec, Error, Manifest, PAGE_BYTES, Pack, Progress, Result, Stage};

/// Writes in flight: 16 MiB of 256 KiB chunks, more than any disk needs to be busy.
const DEPTH: u32 = 64;
/// Decoded chunks that are waiting to be or being written.
const BUFFERS: usize = 96;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// Bytes of data written.
    pub data_bytes: u64,
    /// Bytes of the disk or of all files.
    pub logical_bytes: u64,
    /// Bytes read from the pack.
    pub stored_bytes: u64,
    /// What is not as one would expect, a line each.
    pub notes: Vec<String>,
}

/// Re-creates image number `image` of `pack` at `path`.
///
/// # Errors
/// When the target is refused, the pack is damaged, or reading or writing fails. The target then does not look whole.
///
/// # Panics
/// When `image` is not below the number of images.
pub fn restore(pack: &Pack, image: usize, path: &Path, options: &TargetOptions, progress: &Progress) -> Result<RestoreReport> {
    refuse_own_source([pack.path()], path)?;
    let manifest = pack.manifest(image)?;
    let mut reader = PackReader::open(pack, &manifest)?;
    let mut target = Target::open(path, &manifest, options)?;
    let present = match options.resume {
        true => target.find_present(&manifest, &ScanProgress::default(), &AtomicBool::new(false))?,
        false => Present::none(&manifest),
    };
    reader.skip = present.clone();
    let chunk_bytes = manifest.chunk_bytes_max();
    // At most 24 MiB with chunks of the usual size; a 64th of the memory with the largest ones.
    let buffers = BUFFERS.min((64 << 20) / chunk_bytes).max(4);
    let pool = BufferPool::new(buffers, chunk_bytes)?;
    let writer = Writer::new(target, &manifest, &[&pool], DEPTH)?;
    let wanted_bytes = present
        .missing(&manifest)
        .filter_map(|id| manifest.chunk_index(id))
        .map(|index| u64::from(manifest.chunks[index].stored_bytes))
        .sum();
    progress.start(Stage::Restore, wanted_bytes);

    let threads = thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    let (sender, decoded) = bounded(buffers);
    let next = AtomicUsize::new(0);
    let writer = thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|_| {
                let sender = sender.clone();
                scope.spawn(|| reader.run(&next, &pool, sender).inspect_err(|_| stop(&next)))
            })
            .collect();
        drop(sender);
        // When this fails it drops the writer and all chunks that are waiting, so that readers find buffers, and then nothing to do.
        let written = write_all(writer, decoded, &manifest, progress).inspect_err(|_| stop(&next));
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let read: Vec<Result<()>> = readers.into_iter().map(join).collect();
        let read: Result<()> = read.into_iter().collect();
        match (read, written) {
            (Err(error), _) if !matches!(error, Error::Stopped) => Err(error),
            (_, written) => written,
        }
    })?;
    progress.start(Stage::Finish, 0);
    let mut notes = writer.finish()?;
    notes.extend_from_slice(present.notes());
    Ok(RestoreReport { data_bytes: manifest.data_bytes(), logical_bytes: manifest.logical_bytes(), stored_bytes: wanted_bytes, notes })
}

/// No chunk is left to be taken.
fn stop(next: &AtomicUsize) {
    next.store(usize::MAX / 2, Ordering::Relaxed);
}

fn write_all(mut writer: Writer, decoded: Receiver<(ChunkId, Buffer)>, manifest: &Manifest, progress: &Progress) -> Result<Writer> {
    let mut done = Vec::new();
    loop {
        let received = match decoded.try_recv() {
            // Readers may be waiting for the buffers that writes in flight hold, so those come first.
            Err(TryRecvError::Empty) if writer.pending() > 0 => {
                writer.wait(&mut done)?;
                None
            }
            Err(TryRecvError::Empty) => match decoded.recv() {
                Ok(received) => Some(received),
                Err(_) => return Ok(writer),
            },
            Err(TryRecvError::Disconnected) => return Ok(writer),
            Ok(received) => Some(received),
        };
        if let Some((chunk, buffer)) = received {
            writer.write_chunk(chunk, buffer, 0)?;
            writer.poll(&mut done)?;
        }
        for chunk in done.drain(..).filter_map(|id| manifest.chunk_index(id)) {
            progress.add(manifest.chunks[chunk].stored_bytes.into());
        }
    }
}

/// Reads the chunks of one image.
struct PackReader<'a> {
    pack: &'a Pack,
    manifest: &'a Manifest,
    /// The pack once more: for what the page cache holds of it already …
    cached: File,
    /// … and with O_DIRECT where its filesystem can, for the rest: what is read once needs no cache.
    direct: File,
    /// Chunks that need not be read.
    skip: Present,
}

impl<'a> PackReader<'a> {
    fn open(pack: &'a Pack, manifest: &'a Manifest) -> Result<Self> {
        for chunk in &manifest.chunks {
            let record = pack.chunks().get(chunk.id.index());
            if !record.is_some_and(|record| record.agrees_with(chunk)) {
                let section = format!("manifest of {}", manifest.name);
                return Err(Error::pack(pack.path(), section, format!("it describes chunk {} otherwise than the chunk table", chunk.id)));
            }
        }
        let open = |flags: OFlags| File::options().read(true).custom_flags(flags.bits() as i32).open(pack.path());
        let cached = open(OFlags::empty()).map_err(Error::io("opening", pack.path()))?;
        let direct = open(OFlags::DIRECT).or_else(|_| cached.try_clone()).map_err(Error::io("opening", pack.path()))?;
        Ok(Self { pack, manifest, cached, direct, skip: Present::none(manifest) })
    }

    /// One reading thread: takes the next chunk that nobody has taken until there is none.
    fn run(&self, next: &AtomicUsize, pool: &BufferPool, decoded: Sender<(ChunkId, Buffer)>) -> Result<()> {
        let mut scratch = BufferPool::new(1, self.manifest.chunk_bytes_max())?.take_wait();
        loop {
            // A buffer before a chunk: chunks are then written in about the order they are in.
            let mut buffer = pool.take_wait();
            let chunk = loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(chunk) = self.manifest.chunks.get(index) else { return Ok(()) };
                if !self.skip.has(index) {
                    break chunk;
                }
            };
            self.read(chunk, &mut buffer, &mut scratch)?;
            decoded.send((chunk.id, buffer)).map_err(|_| Error::Stopped)?;
        }
    }

    fn read(&self, chunk: &ChunkDescriptor, buffer: &mut Buffer, scratch: &mut Buffer) -> Result<()> {
        let offset = self.pack.chunks()[chunk.id.index()].offset;
        let (stored_bytes, raw_bytes) = (chunk.stored_bytes as usize, chunk.raw_bytes as usize);
        // The record is padded to that in the file.
        let padded_bytes = round_up(chunk.stored_bytes.into(), PAGE_BYTES as u64) as usize;
        let read = |buffer: &mut [u8]| {
            let buffer = &mut buffer[..padded_bytes];
            // Answers with what is in memory, without waiting for the disk.
            match preadv2(&self.cached, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
                Ok(read_bytes) if read_bytes == padded_bytes => Ok(()),
                _ => self.direct.read_exact_at(buffer, offset).map_err(Error::io("reading", self.pack.path())),
            }
        };
        if chunk.codec == Codec::None {
            read(buffer)?;
            return check_chunk(chunk, &buffer[..stored_bytes]);
        }
        read(scratch)?;
        decode_chunk(chunk, &scratch[..stored_bytes], &mut buffer[..raw_bytes])
    }
}
