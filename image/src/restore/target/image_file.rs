//! A disk image restored to a regular file: sparse, under a temporary name until it is complete.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use rustix::io::Errno;

use super::direct;
use crate::manifest::{Content, DiskBody};
use crate::partial_file::PartialFile;
use crate::{Error, Result};

pub(super) struct ImageFile {
    file: PartialFile,
    size_bytes: u64,
    /// What O_DIRECT writes are aligned to; 0 for buffered writes.
    pub(super) direct_bytes: u32,
    pub(super) notes: Vec<String>,
}

impl ImageFile {
    pub(super) fn create(path: &Path, disk: &DiskBody, force: bool) -> Result<Self> {
        let file = PartialFile::create(path, force)?;
        // The new file reads as zeros everywhere; zeros and holes of the image are holes here.
        ftruncate(file.file(), disk.size_bytes).map_err(Error::io("setting the size of", file.partial_path()))?;
        let data = disk.extents.iter().filter(|extent| matches!(extent.content, Content::Data { .. }));
        preallocate(file.file(), file.partial_path(), data.map(|extent| (extent.target_offset, extent.length)))?;
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
        Ok(Self { file, size_bytes: disk.size_bytes, direct_bytes, notes })
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
