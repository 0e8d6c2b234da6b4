//! A disk image restored to a block device. The first bytes are zeroed before any other is written and come last, after everything else has
//! been flushed: a partition table or a superblock appears only on a device that is complete. What the image leaves zero is zeroed beside the data writes.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, SeekFrom, ioctl_blksszget, seek};
use rustix::io::Errno;

use super::zero::{self, Method, Zeroer};
use super::{Run, direct};
use crate::manifest::DiskBody;
use crate::partial_file::RELEASE_WAIT;
use crate::restore::places::Place;
use crate::restore::{Buffer, BufferPool};
use crate::units::round_up;
use crate::{Error, PAGE_BYTES, Result, in_use};

/// Bytes that are written last: they hold MBR, GPT header and entries, and the superblocks of ext4 (1 KiB), XFS, LVM, swap (4 KiB) and
/// btrfs (64 KiB).
const HEAD_BYTES: u64 = 128 << 10;

pub(super) struct Device {
    file: Arc<File>,
    path: PathBuf,
    /// What O_DIRECT writes are aligned to; 0 for buffered writes.
    direct_bytes: u32,
    size_bytes: u64,
    sector_bytes: u64,
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
    /// Checks the device and changes nothing.
    pub(super) fn open(path: &Path, disk: &DiskBody) -> Result<Self> {
        let device = std::fs::metadata(path).map_err(Error::io("opening", path))?.rdev();
        let in_use = |why: String| Error::refused(path, format!("{why}; stop using it first"));
        if let Some(why) = in_use::reason(device) {
            return Err(in_use(why));
        }
        let flags = (OFlags::DIRECT | OFlags::EXCL).bits() as i32;
        let is_busy = |error: &std::io::Error| error.raw_os_error() == Some(Errno::BUSY.raw_os_error());
        let deadline = Instant::now() + RELEASE_WAIT;
        let file = loop {
            match File::options().read(true).write(true).custom_flags(flags).open(path) {
                Err(error) if is_busy(&error) && Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                opened => break opened,
            }
        };
        let file = file.map_err(|error| {
            if is_busy(&error) {
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
        Ok(Self {
            file,
            path: path.to_owned(),
            direct_bytes,
            size_bytes: disk.size_bytes,
            sector_bytes: sector_bytes.into(),
            head: None,
            head_bytes: 0,
            zeroing: None,
            notes,
        })
    }

    /// Makes the device look empty, and starts to zero what the image leaves zero. `kept` are places that hold the right bytes already:
    /// those in the beginning come back with it at the end.
    pub(super) fn begin<'a>(&mut self, disk: &DiskBody, kept: impl Iterator<Item = &'a Place>) -> Result<()> {
        // A device ends at a whole sector, so the last one is there.
        self.head_bytes = round_up(self.size_bytes.min(HEAD_BYTES), self.sector_bytes);
        let pool = BufferPool::new(2, HEAD_BYTES as usize)?;
        let (mut head, mut before) = (pool.take_wait(), pool.take_wait());
        head.fill(0);
        let mut kept = kept.filter(|place| place.target_offset < self.head_bytes).peekable();
        if kept.peek().is_some() {
            let before = &mut before[..self.head_bytes as usize];
            self.file.read_exact_at(before, 0).map_err(Error::io("reading the beginning of", &self.path))?;
        }
        for place in kept {
            let start = place.target_offset as usize;
            let end = (start + place.length as usize).min(self.head_bytes as usize);
            head[start..end].copy_from_slice(&before[start..end]);
        }
        before.fill(0);
        self.write_head(&before)?;
        self.flush()?;
        self.head = Some(head);
        self.start_zeroing(disk)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn direct_bytes(&self) -> u32 {
        self.direct_bytes
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
        if let Some(head) = &self.head {
            self.write_head(head)?;
        }
        self.flush()?;
        Ok(std::mem::take(&mut self.notes))
    }

    fn flush(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("flushing", &self.path))
    }

    fn write_head(&self, head: &Buffer) -> Result<()> {
        let (offset, length_bytes) = (0, self.head_bytes);
        let write_error = |error| Error::WriteTarget { path: self.path.clone(), offset, length_bytes, error };
        self.file.write_all_at(&head[..self.head_bytes as usize], offset).map_err(write_error)
    }

    fn start_zeroing(&mut self, disk: &DiskBody) -> Result<()> {
        // Whole sectors with O_DIRECT, where only the image's end is none; exact bytes otherwise.
        let unit = if self.direct_bytes > 0 { self.sector_bytes } else { 1 };
        let ranges = zero::ranges(&disk.extents, self.head_bytes, unit);
        if ranges.is_empty() {
            return Ok(());
        }
        // The kernel's ways drop cached pages, which buffered writes of this very job may be in.
        let method = if self.direct_bytes > 0 { Method::Discard } else { Method::Write };
        let given_up = Arc::new(AtomicBool::new(false));
        let (file, path, stop) = (Arc::clone(&self.file), self.path.clone(), Arc::clone(&given_up));
        let zero = move || Zeroer { file: &file, path: &path, method, given_up: &stop }.run(&ranges);
        let thread = std::thread::Builder::new().name("zero".into()).spawn(zero);
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
