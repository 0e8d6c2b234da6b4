//! How fast the target takes writes, without a change to it. A file system is written to in a file without a name (`O_TMPFILE`), which nobody sees and
//! which is gone whatever happens. Of a device blocks are read and written again as they are, only where the image's data will go and
//! only when it is not resumed: by then its beginning is zeroed, and all that is touched will be overwritten.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use image::Manifest;
use image::manifest::Content;
use image::restore::{Buffer, BufferPool};
use rustix::fs::{FallocateFlags, fallocate};

use super::{extents, per_second};

/// What is written at a time: a full chunk.
const BLOCK_BYTES: u64 = 256 << 10;
/// Blocks in flight, one for each thread: 2 MiB keep an NVMe drive about as busy as the writer's io_uring does, and a disk of 10 MB/s ends
/// them in 0.2 s.
const THREADS: usize = 8;
/// Blocks that are read before they are written: 16 MiB of memory.
const BLOCKS_PER_PASS: usize = 64;
/// At most so much is written, so that four machines on one disk of 1 GB/s are not kept waiting for longer than some 60 ms; what is found out so is checked by what is
/// restored later,
const TEST_BYTES_MAX: u64 = 16 << 20;
/// and so long. A fast disk has taken that in 10 ms.
const TEST_TIME_MAX: Duration = Duration::from_millis(300);

/// Bytes a second.
///
/// # Errors
/// Why it was not tried, or failed.
pub(super) fn write_rate(manifest: &Manifest, target: &Path, resume: bool, written_bytes: u64) -> Result<u64, String> {
    let test_bytes = written_bytes.clamp(BLOCK_BYTES, TEST_BYTES_MAX);
    let found = std::fs::metadata(target).ok().map(|metadata| metadata.file_type());
    let outcome = match found {
        Some(found) if found.is_block_device() => {
            if resume {
                return Err(format!("{}: a device that is resumed is not written to for a test", target.display()));
            }
            let places = data_blocks(manifest, test_bytes);
            open(OpenOptions::new().read(true).write(true), target, 0).and_then(|device| rate(&device, &places, Fill::AsItIs))
        }
        _ => beside(target, test_bytes),
    };
    outcome.map_err(|error| format!("the write test at {} failed: {error}", target.display()))
}

/// The same without an image: of the file system that holds `target`, or would hold it.
///
/// # Errors
/// As [`write_rate`]; and for devices.
pub(super) fn write_rate_beside(target: &Path) -> Result<u64, String> {
    if std::fs::metadata(target).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        return Err(format!("{}: a device is written to only when an image is about to replace what it holds", target.display()));
    }
    beside(target, TEST_BYTES_MAX).map_err(|error| format!("the write test at {} failed: {error}", target.display()))
}

/// Writes to a file without a name, in the directory that holds `target` or is it.
fn beside(target: &Path, test_bytes: u64) -> io::Result<u64> {
    let directory =
        if target.is_dir() { target } else { target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")) };
    let places: Vec<u64> = (0..test_bytes / BLOCK_BYTES).map(|block| block * BLOCK_BYTES).collect();
    let file = open(OpenOptions::new().write(true), directory, libc::O_TMPFILE)?;
    // As the target's own space is taken before it is written; a file system that cannot do it goes without.
    let _ = fallocate(&file, FallocateFlags::empty(), 0, test_bytes);
    rate(&file, &places, Fill::Noise)
}

/// With `O_DIRECT` where that is possible.
fn open(options: &mut OpenOptions, path: &Path, flags: i32) -> io::Result<File> {
    match options.custom_flags(flags | libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => options.custom_flags(flags).open(path),
        opened => opened,
    }
}

/// Where whole blocks of the image's data will go.
fn data_blocks(manifest: &Manifest, test_bytes: u64) -> Vec<u64> {
    let data = extents(manifest).iter().filter(|extent| matches!(extent.content, Content::Data { .. }));
    let blocks = data.flat_map(|extent| {
        let first = extent.target_offset.next_multiple_of(BLOCK_BYTES);
        (first..extent.end().saturating_sub(BLOCK_BYTES - 1)).step_by(BLOCK_BYTES as usize)
    });
    // The first block is zeroed, and written last.
    blocks.filter(|&offset| offset > 0).take((test_bytes / BLOCK_BYTES) as usize).collect()
}

/// What is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// What was read there.
    AsItIs,
    /// What no file system can compress.
    Noise,
}

/// Writes blocks at `places`, pass by pass until the time is over, and says how fast that went.
fn rate(file: &File, places: &[u64], fill: Fill) -> io::Result<u64> {
    if places.is_empty() {
        return Err(io::Error::other("there is no whole block of data"));
    }
    let pool = BufferPool::new(places.len().min(BLOCKS_PER_PASS), BLOCK_BYTES as usize).map_err(io::Error::other)?;
    let (started, mut written, mut writing) = (Instant::now(), 0, Duration::ZERO);
    for pass in places.chunks(BLOCKS_PER_PASS) {
        let mut blocks: Vec<(u64, Buffer)> = pass.iter().filter_map(|&offset| Some((offset, pool.take()?))).collect();
        for (offset, buffer) in &mut blocks {
            match fill {
                Fill::AsItIs => file.read_exact_at(buffer, *offset)?,
                Fill::Noise => noise(buffer, *offset + 1),
            }
        }
        let began = Instant::now();
        let blocks_written = write_all(file, &blocks, started + TEST_TIME_MAX)?;
        writing += began.elapsed();
        written += blocks_written as u64 * BLOCK_BYTES;
        if started.elapsed() >= TEST_TIME_MAX {
            break;
        }
    }
    if written == 0 {
        return Err(io::Error::other(format!("nothing could be written in {} ms", TEST_TIME_MAX.as_millis())));
    }
    Ok(per_second(written, writing))
}

/// Writes blocks from several threads until all are written or it is `until`. How many were.
fn write_all(file: &File, blocks: &[(u64, Buffer)], until: Instant) -> io::Result<usize> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut written = 0;
        // At least one each, so that a very slow disk is measured too.
        while (written == 0 || Instant::now() < until) && !failed.load(Ordering::Relaxed) {
            let Some((offset, buffer)) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            file.write_all_at(buffer, *offset).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            written += 1;
        }
        Ok(written)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).sum()
    })
}

/// Fills `buffer` with what differs for each `seed` (xorshift).
pub(super) fn noise(buffer: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for word in buffer.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_a_device_stays_as_it_is() {
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        let mut content = vec![0; 5 << 20];
        noise(&mut content, 3);
        io::Write::write_all(&mut file, &content).unwrap();
        let places: Vec<u64> = (1..19).map(|block| block * BLOCK_BYTES).collect();
        assert!(rate(&file, &places, Fill::AsItIs).unwrap() > 0);
        let mut after = vec![0; content.len()];
        file.read_exact_at(&mut after, 0).unwrap();
        assert!(after == content);
        assert!(rate(&file, &[6 << 20], Fill::AsItIs).is_err(), "there is nothing to be read");
        assert!(rate(&file, &[], Fill::Noise).is_err());
    }
}
