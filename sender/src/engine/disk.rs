//! Reads of chunk records into page-aligned buffers, several in flight: io_uring with O_DIRECT and registered buffers; where one of
//! these is not to be had, the next best. What the page cache holds is copied from there.
#![allow(unsafe_code)]

use super::page_cache::PageCache;
use image::PAGE_BYTES;
use image::restore::{Buffer, BufferPool, RegisteredBuffers};
use io_uring::{IoUring, opcode, types};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Reads in flight: two groups of 16 chunks, 8 MiB, keep an NVMe drive at its full rate.
const READS_MAX: usize = 32;

/// Copies from the page cache that wait to be taken: what is taken soon is still in the processor's cache when it is hashed.
const COPIES_MAX: usize = 4;

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
    /// None: not asked, or all reads go through it anyway.
    page_cache: Option<PageCache>,
    /// None: reads are done one at a time by pread.
    ring: Option<IoUring>,
    /// What the ring knows by number; none without a ring.
    registered: Option<RegisteredBuffers>,
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
    /// Opens `path` to be read into buffers of `pool`.
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
        let registered = ring.as_ref().map(|ring| RegisteredBuffers::new(ring, &[pool]));
        let in_flight = (0..READS_MAX).map(|_| None).collect();
        let page_cache = if direct { PageCache::open(path) } else { None };
        Ok(Disk { file, direct, page_cache, ring, registered, in_flight, finished: VecDeque::new() })
    }

    /// One line on how reads are done.
    pub(super) fn description(&self) -> String {
        let cache = match (self.direct, &self.page_cache) {
            (true, Some(_)) => "O_DIRECT but for what is in the page cache",
            (true, None) => "O_DIRECT",
            (false, _) => "through the page cache, the filesystem refuses O_DIRECT",
        };
        match self.registered.as_ref().map(RegisteredBuffers::refused) {
            Some(None) => format!("io_uring, {cache}, registered buffers"),
            Some(Some(error)) => format!("io_uring, {cache}, buffers not registered ({error}; the memory lock limit?)"),
            None => format!("pread, {cache} (io_uring is not available)"),
        }
    }

    /// Whether another read can be started.
    pub(super) fn has_room(&self) -> bool {
        self.finished.len() < COPIES_MAX && self.in_flight.iter().any(Option::is_none)
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
        let mut buffer = buffer;
        if self.page_cache.as_ref().is_some_and(|cache| cache.read(offset, &mut buffer[..needed_bytes])) {
            self.finished.push_back(Finished { token, buffer, outcome: Ok(()) });
            return Ok(());
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
        let number = self.registered.as_mut().and_then(|registered| registered.number(ring, &mut read.buffer));
        let entry = match number {
            Some(number) => opcode::ReadFixed::new(fd, target, length, number).offset(offset).build(),
            None => opcode::Read::new(fd, target, length).offset(offset).build(),
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

    /// As if nothing of the file were in memory.
    fn from_disk(mut disk: Disk) -> Disk {
        disk.page_cache = None;
        disk
    }

    #[test]
    fn many_reads_end_with_their_own_pages_with_io_uring_and_without_and_from_the_page_cache() {
        let (_directory, path) = numbered_pages(128);
        let pool = BufferPool::new(READS_MAX, 2 * PAGE_BYTES).unwrap();
        let open = || Disk::open(&path, &pool).unwrap();
        for mut disk in [open(), from_disk(open()), without_ring(from_disk(open()))] {
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
        for mut disk in [Disk::open(&path, &pool).unwrap(), from_disk(Disk::open(&path, &pool).unwrap())] {
            for (needed_bytes, good) in [(PAGE_BYTES + 100, true), (PAGE_BYTES + 101, false)] {
                disk.start(0, 0, needed_bytes, pool.take().unwrap()).unwrap();
                assert_eq!(disk.finish(true).unwrap().unwrap().outcome.is_ok(), good);
            }
            assert!(disk.start(0, 0, 3 * PAGE_BYTES, pool.take().unwrap()).is_err(), "no room in the buffer");
        }
    }

    #[test]
    fn reads_under_way_keep_their_buffers_until_they_have_ended() {
        let (_directory, path) = numbered_pages(8);
        let pool = BufferPool::new(4, PAGE_BYTES).unwrap();
        let mut disk = from_disk(Disk::open(&path, &pool).unwrap());
        for page in 0..4 {
            disk.start(page, page * PAGE_BYTES as u64, PAGE_BYTES, pool.take().unwrap()).unwrap();
        }
        drop(disk);
        assert_eq!(pool.available(), 4);
    }
}
