//! Reads of chunk records into page-aligned buffers, several in flight: io_uring with O_DIRECT and registered buffers; where one of
//! these is not to be had, the next best.
#![allow(unsafe_code)]

use image::PAGE_BYTES;
use image::restore::{Buffer, BufferPool};
use io_uring::{IoUring, opcode, types};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Reads in flight: two groups of 16 chunks, 8 MiB, keep an NVMe drive at its full rate.
const READS_MAX: usize = 32;

/// A read that has ended.
pub(super) struct Finished {
    /// What the caller gave it as a name.
    pub token: u64,
    /// The buffer, with the record at its start when `outcome` is good.
    pub buffer: Buffer,
    /// Whether all bytes are there.
    pub outcome: io::Result<()>,
}

/// A pack file that is read from.
pub(super) struct Disk {
    file: File,
    direct: bool,
    /// None: reads are done one at a time by pread.
    ring: Option<IoUring>,
    /// Starts of the registered buffers, ascending; the position is the number that the kernel knows one by. Empty: not registered.
    registered: Vec<usize>,
    /// Reads that the kernel works on; the position is their user data.
    in_flight: Vec<Option<Read>>,
    finished: VecDeque<Finished>,
}

struct Read {
    token: u64,
    offset: u64,
    /// What is to be read, whole pages.
    length_bytes: usize,
    done_bytes: usize,
    /// How far reading has got, which may be within a page. A second read that gets no further has met the end of the file.
    reached_bytes: usize,
    /// Bytes of the record: fewer than `length_bytes` do, when the file ends there.
    needed_bytes: usize,
    buffer: Buffer,
}

impl Disk {
    /// Opens `path` to be read into buffers of `pool`, none of which may be in use yet.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn open(path: &Path, pool: &BufferPool) -> io::Result<Disk> {
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
        let (file, direct) = match direct {
            Ok(file) => (file, true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (File::open(path)?, false),
            Err(error) => return Err(error),
        };
        // A kernel without io_uring, or where it is forbidden, still reads.
        let ring = IoUring::new(READS_MAX as u32 * 2).ok();
        let registered = ring.as_ref().map(|ring| register(ring, pool)).unwrap_or_default();
        let in_flight = (0..READS_MAX).map(|_| None).collect();
        Ok(Disk { file, direct, ring, registered, in_flight, finished: VecDeque::new() })
    }

    /// One line on how reads are done.
    pub(super) fn description(&self) -> String {
        let cache = if self.direct { "O_DIRECT" } else { "through the page cache, the filesystem refuses O_DIRECT" };
        match (&self.ring, self.registered.is_empty()) {
            (Some(_), false) => format!("io_uring, {cache}, registered buffers"),
            (Some(_), true) => format!("io_uring, {cache}, buffers not registered (memory lock limit)"),
            (None, _) => format!("pread, {cache} (io_uring is not available)"),
        }
    }

    /// Whether another read can be started.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight.iter().any(Option::is_none)
    }

    /// Whether reads are under way or finished ones wait to be taken.
    pub(super) fn is_busy(&self) -> bool {
        !self.finished.is_empty() || self.in_flight.iter().any(Option::is_some)
    }

    /// Starts reading `needed_bytes` at `offset`, a multiple of 4096, into `buffer`, which has room for them in whole pages.
    ///
    /// # Errors
    /// When there is no room for another read, the buffer is too small or the kernel does not take the request.
    pub(super) fn start(&mut self, token: u64, offset: u64, needed_bytes: usize, buffer: Buffer) -> io::Result<()> {
        let length_bytes = needed_bytes.next_multiple_of(PAGE_BYTES);
        if length_bytes > buffer.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the chunk is larger than its buffer"));
        }
        let mut read = Read { token, offset, length_bytes, done_bytes: 0, reached_bytes: 0, needed_bytes, buffer };
        if self.ring.is_none() {
            let outcome = self.read_now(&mut read);
            self.finished.push_back(Finished { token, buffer: read.buffer, outcome });
            return Ok(());
        }
        let Some(slot) = self.in_flight.iter().position(Option::is_none) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        self.in_flight[slot] = Some(read);
        self.submit(slot)
    }

    /// The next read that has ended; waits for one when `wait` is set. None when nothing has ended (or nothing is under way).
    ///
    /// # Errors
    /// When the ring itself fails.
    pub(super) fn finish(&mut self, wait: bool) -> io::Result<Option<Finished>> {
        loop {
            if let Some(finished) = self.finished.pop_front() {
                return Ok(Some(finished));
            }
            let under_way = self.in_flight.iter().any(Option::is_some);
            let Some(ring) = self.ring.as_mut().filter(|_| under_way) else { return Ok(None) };
            if let Err(error) = ring.submit_and_wait(usize::from(wait))
                && error.raw_os_error() != Some(libc::EINTR)
            {
                return Err(error);
            }
            let completed: Vec<(u64, i32)> = ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
            let none = completed.is_empty();
            for (slot, result) in completed {
                self.complete(slot as usize, result)?;
            }
            if none && !wait {
                return Ok(None);
            }
        }
    }

    /// Queues what is left of the read in `slot`.
    fn submit(&mut self, slot: usize) -> io::Result<()> {
        let (Some(ring), Some(Some(read))) = (self.ring.as_mut(), self.in_flight.get_mut(slot)) else { return Ok(()) };
        let start = read.buffer.as_mut_ptr();
        let length = (read.length_bytes - read.done_bytes) as u32;
        let offset = read.offset + read.done_bytes as u64;
        // SAFETY: done_bytes stays below the buffer's length.
        let target = unsafe { start.add(read.done_bytes) };
        let fd = types::Fd(self.file.as_raw_fd());
        let entry = match self.registered.binary_search(&(start as usize)) {
            Ok(number) => opcode::ReadFixed::new(fd, target, length, number as u16).offset(offset).build(),
            Err(_) => opcode::Read::new(fd, target, length).offset(offset).build(),
        };
        // SAFETY: the buffer is ours alone and stays in `in_flight` until the kernel has reported the read's end (see `Drop`); file and
        // ring live as long.
        let pushed = unsafe { ring.submission().push(&entry.user_data(slot as u64)) };
        // The ring has twice as many entries as there are reads.
        pushed.map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
        ring.submit().map(|_| ())
    }

    fn complete(&mut self, slot: usize, result: i32) -> io::Result<()> {
        let Some(mut read) = self.in_flight.get_mut(slot).and_then(Option::take) else { return Ok(()) };
        let outcome = match result {
            // Interrupted, or a filesystem that found out late that it has no direct I/O.
            _ if result == -libc::EINTR || result == -libc::EAGAIN => {
                self.in_flight[slot] = Some(read);
                return self.submit(slot);
            }
            _ if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            _ => match read.advance(result as usize) {
                Advance::Whole => Ok(()),
                Advance::EndOfFile => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends within the chunk")),
                Advance::More => {
                    self.in_flight[slot] = Some(read);
                    return self.submit(slot);
                }
            },
        };
        self.finished.push_back(Finished { token: read.token, buffer: read.buffer, outcome });
        Ok(())
    }

    fn read_now(&self, read: &mut Read) -> io::Result<()> {
        loop {
            let target = &mut read.buffer[read.done_bytes..read.length_bytes];
            let count = match self.file.read_at(target, read.offset + read.done_bytes as u64) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            match read.advance(count) {
                Advance::Whole => return Ok(()),
                Advance::EndOfFile => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends within the chunk")),
                Advance::More => {}
            }
        }
    }
}

enum Advance {
    Whole,
    More,
    EndOfFile,
}

impl Read {
    /// Notes that `count` more bytes are there.
    fn advance(&mut self, count: usize) -> Advance {
        let reached_bytes = (self.done_bytes + count).min(self.length_bytes);
        if reached_bytes >= self.needed_bytes {
            return Advance::Whole;
        }
        if reached_bytes <= self.reached_bytes {
            return Advance::EndOfFile;
        }
        self.reached_bytes = reached_bytes;
        // Direct I/O goes on at a page only.
        self.done_bytes = reached_bytes - reached_bytes % PAGE_BYTES;
        Advance::More
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The kernel writes to the buffers of reads that are under way: they may not return to their pool before those have ended.
        while self.in_flight.iter().any(Option::is_some) {
            match self.finish(true) {
                Ok(_) => self.finished.clear(),
                Err(_) => {
                    // Cannot be waited for: give the buffers up rather than let them be overwritten in other hands.
                    self.in_flight.drain(..).flatten().for_each(|read| std::mem::forget(read.buffer));
                }
            }
        }
    }
}

/// Registers every buffer of the pool and returns their starts, or nothing when the kernel refuses.
fn register(ring: &IoUring, pool: &BufferPool) -> Vec<usize> {
    let mut buffers: Vec<Buffer> = std::iter::from_fn(|| pool.take()).collect();
    // Ascending, so that the number of a buffer is found by its address.
    buffers.sort_by_key(|buffer| buffer.as_ptr() as usize);
    let ranges: Vec<libc::iovec> =
        buffers.iter_mut().map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }).collect();
    // SAFETY: the memory belongs to the pool, and the pool's region stays mapped for as long as any buffer of it is in use; a
    // registered buffer is read into only while the `Disk` holds it. The kernel pins the pages, so even an unmapped region is no
    // memory of anybody else's.
    match unsafe { ring.submitter().register_buffers(&ranges) } {
        Ok(()) => buffers.iter().map(|buffer| buffer.as_ptr() as usize).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A file of `pages` pages, each filled with its number, in a directory that goes away with the test.
    fn numbered_pages(pages: usize) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pages");
        let mut file = File::create(&path).unwrap();
        (0..pages).for_each(|page| file.write_all(&[page as u8; PAGE_BYTES]).unwrap());
        (directory, path)
    }

    fn without_ring(mut disk: Disk) -> Disk {
        disk.ring = None;
        disk
    }

    #[test]
    fn many_reads_end_with_their_own_pages_with_io_uring_and_without() {
        let (_directory, path) = numbered_pages(128);
        let pool = BufferPool::new(READS_MAX, 2 * PAGE_BYTES).unwrap();
        for mut disk in [Disk::open(&path, &pool).unwrap(), without_ring(Disk::open(&path, &pool).unwrap())] {
            let mut started = 0;
            let mut seen = [false; 127];
            while seen.contains(&false) {
                while started < 127 && disk.has_room() {
                    let Some(buffer) = pool.take() else { break };
                    disk.start(started, started * PAGE_BYTES as u64, PAGE_BYTES + 1, buffer).unwrap();
                    started += 1;
                }
                let finished = disk.finish(true).unwrap().unwrap();
                finished.outcome.unwrap();
                let page = finished.token as usize;
                assert!(finished.buffer[..PAGE_BYTES].iter().all(|&byte| byte == page as u8));
                assert_eq!(finished.buffer[PAGE_BYTES], page as u8 + 1);
                seen[page] = true;
            }
            assert!(!disk.is_busy());
        }
        assert_eq!(pool.available(), READS_MAX);
    }

    #[test]
    fn a_file_that_ends_too_early_is_an_error_and_one_that_ends_within_the_last_page_is_not() {
        let (_directory, path) = numbered_pages(1);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&[9; 100]).unwrap();
        let pool = BufferPool::new(2, 2 * PAGE_BYTES).unwrap();
        let mut disk = Disk::open(&path, &pool).unwrap();
        for (needed_bytes, good) in [(PAGE_BYTES + 100, true), (PAGE_BYTES + 101, false)] {
            disk.start(0, 0, needed_bytes, pool.take().unwrap()).unwrap();
            assert_eq!(disk.finish(true).unwrap().unwrap().outcome.is_ok(), good);
        }
        assert!(disk.start(0, 0, 3 * PAGE_BYTES, pool.take().unwrap()).is_err(), "no room in the buffer");
    }

    #[test]
    fn reads_under_way_keep_their_buffers_until_they_have_ended() {
        let (_directory, path) = numbered_pages(8);
        let pool = BufferPool::new(4, PAGE_BYTES).unwrap();
        let mut disk = Disk::open(&path, &pool).unwrap();
        for page in 0..4 {
            disk.start(page, page * PAGE_BYTES as u64, PAGE_BYTES, pool.take().unwrap()).unwrap();
        }
        drop(disk);
        assert_eq!(pool.available(), 4);
    }
}
