//! A disk image restored to a block device. The first bytes are zeroed at once and written last, after everything else has been flushed: a partition
//! table or a superblock appears only on a device that is complete. What the image leaves zero is zeroed beside the data writes.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, ioctl_blksszget, seek};
use rustix::io::Errno;

use super::{Run, direct, in_use};
use crate::manifest::{Content, DiskBody};
use crate::restore::{Buffer, BufferPool};
use crate::units::round_up;
use crate::{Error, PAGE_BYTES, Result};

/// Bytes that are written last: they hold MBR, GPT header and entries, and the superblocks of ext4 (1 KiB), XFS, LVM, swap (4 KiB) and
/// btrfs (64 KiB).
const HEAD_BYTES: u64 = 128 << 10;
/// Bytes zeroed per call: between calls the job can be given up. Discarding is fast, writing zeros is not.
const DISCARD_BYTES: u64 = 16 << 30;
const ZERO_BYTES: u64 = 64 << 20;
/// Zeros written at once where the kernel does not do it.
const ZERO_BUFFER_BYTES: usize = 1 << 20;

pub(super) struct Device {
    file: Arc<File>,
    path: PathBuf,
    /// What O_DIRECT writes are aligned to; 0 for buffered writes.
    direct_bytes: u32,
    /// The beginning of the image, as far as it has come.
    head: Option<Buffer>,
    head_bytes: u64,
    zeroing: Option<Zeroing>,
    pub(super) notes: Vec<String>,
}

/// The thread that zeroes.
struct Zeroing {
    thread: JoinHandle<Result<()>>,
    given_up: Arc<AtomicBool>,
}

impl Device {
    pub(super) fn open(path: &Path, disk: &DiskBody) -> Result<Self> {
        let device = std::fs::metadata(path).map_err(Error::io("opening", path))?.rdev();
        let in_use = |why: String| Error::refused(path, format!("{why}; stop using it first"));
        if let Some(why) = in_use::reason(device) {
            return Err(in_use(why));
        }
        let flags = (OFlags::DIRECT | OFlags::EXCL).bits() as i32;
        let file = File::options().read(true).write(true).custom_flags(flags).open(path).map_err(|error| {
            if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
                return in_use("the kernel says that it is in use, perhaps mounted in another namespace".into());
            }
            Error::io("opening", path)(error)
        })?;
        let target_bytes = seek(&file, SeekFrom::End(0)).map_err(Error::io("reading the size of", path))?;
        if target_bytes < disk.size_bytes {
            return Err(Error::TargetTooSmall { path: path.to_owned(), target_bytes, image_bytes: disk.size_bytes });
        }
        let sector_bytes = ioctl_blksszget(&file).map_err(Error::io("reading the sector size of", path))?;
        let mut notes = Vec::new();
        let mut direct_bytes = sector_bytes;
        if sector_bytes > PAGE_BYTES as u32 || !direct::extents_fit(&disk.extents, sector_bytes) {
            direct::set(&file, false).map_err(Error::io("switching off O_DIRECT of", path))?;
            direct_bytes = 0;
            notes.push(format!(
                "{}: buffered writes, because the image has data at offsets that are no multiple of its {sector_bytes}-byte sectors",
                path.display()
            ));
        }
        let file = Arc::new(file);
        let mut target = Self { file, path: path.to_owned(), direct_bytes, head: None, head_bytes: 0, zeroing: None, notes };
        target.zero_head(disk.size_bytes, sector_bytes.into())?;
        target.start_zeroing(disk, sector_bytes.into())?;
        Ok(target)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Takes what belongs to the head and leaves the rest to be written.
    pub(super) fn run(&mut self, run: Run, raw: &[u8]) -> Option<Run> {
        if run.target_offset >= self.head_bytes {
            return Some(direct::padded(run, self.direct_bytes));
        }
        let at = run.target_offset as usize;
        let kept = (run.length as usize).min(self.head_bytes as usize - at);
        if let Some(head) = &mut self.head {
            head[at..at + kept].copy_from_slice(&raw[..kept]);
        }
        let kept = kept as u32;
        let rest = Run { target_offset: run.target_offset + u64::from(kept), raw_offset: run.raw_offset + kept, length: run.length - kept };
        (rest.length > 0).then(|| direct::padded(rest, self.direct_bytes))
    }

    pub(super) fn finish(mut self) -> Result<Vec<String>> {
        if let Some(zeroing) = self.zeroing.take() {
            zeroing.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        self.flush()?;
        self.write_head()?;
        self.flush()?;
        Ok(std::mem::take(&mut self.notes))
    }

    fn flush(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("flushing", &self.path))
    }

    fn zero_head(&mut self, size_bytes: u64, sector_bytes: u64) -> Result<()> {
        // A device ends at a whole sector, so the last one is there.
        self.head_bytes = round_up(size_bytes.min(HEAD_BYTES), sector_bytes);
        let mut head = BufferPool::new(1, HEAD_BYTES as usize)?.take_wait();
        head.fill(0);
        self.head = Some(head);
        self.write_head()?;
        self.flush()
    }

    fn write_head(&self) -> Result<()> {
        let Some(head) = &self.head else { return Ok(()) };
        let (offset, length_bytes) = (0, self.head_bytes);
        let write_error = |error| Error::WriteTarget { path: self.path.clone(), offset, length_bytes, error };
        self.file.write_all_at(&head[..self.head_bytes as usize], offset).map_err(write_error)
    }

    fn start_zeroing(&mut self, disk: &DiskBody, sector_bytes: u64) -> Result<()> {
        // Whole sectors with O_DIRECT, where only the image's end is none; exact bytes otherwise.
        let unit = if self.direct_bytes > 0 { sector_bytes } else { 1 };
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for extent in disk.extents.iter().filter(|extent| !matches!(extent.content, Content::Data { .. })) {
            let (start, end) = (extent.target_offset.max(self.head_bytes), round_up(extent.end(), unit));
            match ranges.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ if start < end => ranges.push((start, end)),
                _ => {}
            }
        }
        if ranges.is_empty() {
            return Ok(());
        }
        let given_up = Arc::new(AtomicBool::new(false));
        let direct = self.direct_bytes > 0;
        let zeroer = Zeroer { file: Arc::clone(&self.file), path: self.path.clone(), given_up: Arc::clone(&given_up), direct };
        let thread = std::thread::Builder::new().name("zero".into()).spawn(move || zeroer.run(&ranges));
        let thread = thread.map_err(Error::io("starting a thread to zero", &self.path))?;
        self.zeroing = Some(Zeroing { thread, given_up });
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(zeroing) = self.zeroing.take() {
            zeroing.given_up.store(true, Ordering::Relaxed);
            // The job has failed already; its error comes from elsewhere.
            let _ = zeroing.thread.join();
        }
    }
}

/// Makes ranges of the device read as zeros.
struct Zeroer {
    file: Arc<File>,
    path: PathBuf,
    given_up: Arc<AtomicBool>,
    direct: bool,
}

/// How a device zeroes, best first.
#[derive(Clone, Copy)]
enum Method {
    /// Deallocates blocks that read as zeros afterwards.
    Discard,
    /// Write Zeroes commands, or zeros written by the kernel.
    Kernel,
    /// Zeros written by us.
    Write,
}

impl Zeroer {
    fn run(&self, ranges: &[(u64, u64)]) -> Result<()> {
        // The kernel's ways drop cached pages, which buffered writes of this very job may be in.
        let mut method = if self.direct { Method::Discard } else { Method::Write };
        for &(start, end) in ranges {
            let mut offset = start;
            while offset < end && !self.given_up.load(Ordering::Relaxed) {
                let (mode, step) = match method {
                    Method::Discard => (FallocateFlags::PUNCH_HOLE, DISCARD_BYTES),
                    Method::Kernel => (FallocateFlags::ZERO_RANGE, ZERO_BYTES),
                    Method::Write => {
                        self.write_zeros(offset, end)?;
                        break;
                    }
                };
                let length = step.min(end - offset);
                match fallocate(&*self.file, mode | FallocateFlags::KEEP_SIZE, offset, length) {
                    Ok(()) => offset += length,
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                        method = if matches!(method, Method::Discard) { Method::Kernel } else { Method::Write };
                    }
                    Err(error) => return Err(self.error(offset, length, error.into())),
                }
            }
        }
        Ok(())
    }

    fn write_zeros(&self, start: u64, end: u64) -> Result<()> {
        let mut zeros = BufferPool::new(1, ZERO_BUFFER_BYTES)?.take_wait();
        zeros.fill(0);
        let mut offset = start;
        while offset < end && !self.given_up.load(Ordering::Relaxed) {
            let length = (end - offset).min(ZERO_BUFFER_BYTES as u64);
            let written = self.file.write_all_at(&zeros[..length as usize], offset);
            written.map_err(|error| self.error(offset, length, error))?;
            offset += length;
        }
        Ok(())
    }

    fn error(&self, offset: u64, length_bytes: u64, error: std::io::Error) -> Error {
        Error::WriteTarget { path: self.path.clone(), offset, length_bytes, error }
    }
}
