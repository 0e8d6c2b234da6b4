//! A disk image restored to a regular file: sparse, under a temporary name until it is complete.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use rustix::io::Errno;

use super::zero::{self, Method, Zeroer};
use super::{TargetOptions, direct};
use crate::manifest::{Content, DiskBody};
use crate::partial_file::PartialFile;
use crate::{Error, Result};

pub(super) struct ImageFile {
    file: PartialFile,
    size_bytes: u64,
    /// The file held something before, and is worth something when it is not completed.
    resume: bool,
    /// It is worth something from when it has its space.
    keep: bool,
    /// What O_DIRECT writes are aligned to; 0 for buffered writes.
    pub(super) direct_bytes: u32,
    pub(super) notes: Vec<String>,
}

impl ImageFile {
    /// Checks what is there. With `resume` that is what the image is made from; until [`ImageFile::begin`] its content stays as it is.
    pub(super) fn open(path: &Path, disk: &DiskBody, options: &TargetOptions) -> Result<Self> {
        let file = if options.resume { PartialFile::resume(path)? } else { PartialFile::create(path, options.force)? };
        let mut notes = Vec::new();
        let direct_bytes = match direct::alignment_bytes(file.file()) {
            None => Err("its filesystem cannot do O_DIRECT".to_owned()),
            Some(align) if !direct::extents_fit(&disk.extents, align) => {
                Err(format!("the image has data at offsets that are no multiple of {align} bytes"))
            }
            Some(align) => direct::set(file.file(), true).map(|()| align).map_err(|error| format!("O_DIRECT was refused: {error}")),
        };
        let direct_bytes = direct_bytes.unwrap_or_else(|why| {
            notes.push(format!("{}: buffered writes, because {why}", path.display()));
            0
        });
        Ok(Self { file, size_bytes: disk.size_bytes, resume: options.resume, keep: options.keep, direct_bytes, notes })
    }

    /// Gives the file its size and its space. What the image leaves zero becomes holes.
    pub(super) fn begin(&mut self, disk: &DiskBody) -> Result<()> {
        self.file.begin(self.resume);
        ftruncate(self.file.file(), disk.size_bytes).map_err(Error::io("setting the size of", self.partial_path()))?;
        if self.resume {
            let (file, path) = (self.file.file(), self.partial_path());
            let zeroer = Zeroer { file, path, method: Method::Discard, given_up: &AtomicBool::new(false) };
            zeroer.run(&zero::ranges(&disk.extents, 0, 1))?;
        }
        let data = disk.extents.iter().filter(|extent| matches!(extent.content, Content::Data { .. }));
        preallocate(self.file.file(), self.partial_path(), data.map(|extent| (extent.target_offset, extent.length)))?;
        self.file.begin(self.keep);
        Ok(())
    }

    pub(super) fn file(&self) -> &File {
        self.file.file()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.file().as_fd()
    }

    pub(super) fn partial_path(&self) -> &Path {
        self.file.partial_path()
    }

    pub(super) fn fall_back(&mut self) -> Result<()> {
        if self.direct_bytes > 0 {
            direct::set(self.file.file(), false).map_err(Error::io("switching off O_DIRECT of", self.file.partial_path()))?;
            self.direct_bytes = 0;
            self.notes.push(format!("{}: buffered writes, because the kernel refused one with O_DIRECT", self.partial_path().display()));
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<String>> {
        // The last page was written whole.
        ftruncate(self.file.file(), self.size_bytes).map_err(Error::io("setting the size of", self.file.partial_path()))?;
        self.file.commit()?;
        Ok(self.notes)
    }
}

/// Takes the space for `runs`, neighbours merged: the file becomes less fragmented, parallel writes need not wait for each other's
/// allocation, and a full filesystem is noticed now. Filesystems that cannot do it do without.
pub(super) fn preallocate(file: impl AsFd, path: &Path, runs: impl Iterator<Item = (u64, u64)>) -> Result<()> {
    let take = |start: u64, end: u64| match fallocate(&file, FallocateFlags::KEEP_SIZE, start, end - start) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(error) => Err(Error::WriteTarget { path: path.to_owned(), offset: start, length_bytes: end - start, error: error.into() }),
    };
    let mut pending: Option<(u64, u64)> = None;
    for (offset, length) in runs {
        pending = match pending {
            Some((start, end)) if end == offset => Some((start, end + length)),
            Some((start, end)) => {
                if !take(start, end)? {
                    return Ok(());
                }
                Some((offset, offset + length))
            }
            None => Some((offset, offset + length)),
        };
    }
    if let Some((start, end)) = pending {
        take(start, end)?;
    }
    Ok(())
}
