//! A raw image in a regular file, or a block device: its holes are found with SEEK_DATA and SEEK_HOLE.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, SeekFrom, fadvise, fsync, seek};
use rustix::io::Errno;

use super::DiskImage;
use crate::{Error, Result};

/// The bytes of one file or block device.
pub struct RawImage {
    path: PathBuf,
    file: File,
    size_bytes: u64,
}

impl RawImage {
    /// Opens it for reading.
    ///
    /// # Errors
    /// When it cannot be opened or has no size: pipes, character devices.
    pub fn open(path: PathBuf) -> Result<Self> {
        let file_type = std::fs::metadata(&path).map_err(Error::io("opening", &path))?.file_type();
        if !file_type.is_file() && !file_type.is_block_device() {
            let why = "it is neither a regular file, a block device nor a directory".into();
            return Err(Error::Source { path, why });
        }
        let file = File::open(&path).map_err(Error::io("opening", &path))?;
        let size_bytes = seek(&file, SeekFrom::End(0)).map_err(Error::io("reading the size of", &path))?;
        // What is still to be written back may be data now and a hole once it is allocated (ext4's delayed allocation): the two passes
        // would see different runs. A refusal is harmless, the second pass notices any change.
        let _ = fsync(&file);
        // Doubles the kernel's read-ahead; it is advice, so a refusal does not matter.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        Ok(Self { path, file, size_bytes })
    }
}

impl DiskImage for RawImage {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match self.file.read_exact_at(buffer, offset) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::SourceChanged { path: self.path.clone() }),
            outcome => outcome.map_err(Error::io("reading", &self.path)),
        }
    }

    fn next_stored(&self, offset: u64) -> Result<Option<Range<u64>>> {
        next_data(&self.file, &self.path, self.size_bytes, offset)
    }
}

/// The next run of data of a file of `size_bytes`, from `offset` on; `None` when only a hole follows.
pub(crate) fn next_data(file: &File, path: &Path, size_bytes: u64, offset: u64) -> Result<Option<Range<u64>>> {
    if offset >= size_bytes {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(offset)) {
        Ok(start) if start < size_bytes => start.max(offset),
        // Nothing but a hole up to the end.
        Ok(_) | Err(Errno::NXIO) => return Ok(None),
        // A filesystem or device without holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(offset..size_bytes)),
        Err(error) => return Err(Error::io("finding data in", path)(error)),
    };
    let end = match seek(file, SeekFrom::Hole(start)) {
        // At least a byte, so that the caller moves on even when the file changes under it.
        Ok(end) => end.clamp(start + 1, size_bytes),
        // No holes; or the file has shrunk, and reading will say so.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => size_bytes,
        Err(error) => return Err(Error::io("finding a hole in", path)(error)),
    };
    Ok(Some(start..end))
}
