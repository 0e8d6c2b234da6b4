//! A raw disk image in a regular file, or a block device, as the source of a disk image.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, SeekFrom, fadvise, fsync, seek};

use super::{PageSink, Source, file_runs};
use crate::{Error, ImageKind, Result};

/// The bytes of one file or block device.
pub struct DiskSource {
    path: PathBuf,
    file: File,
    size_bytes: u64,
}

impl DiskSource {
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

impl Source for DiskSource {
    fn kind(&self) -> ImageKind {
        ImageKind::Disk
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn scan(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        file_runs::scan(&self.file, &self.path, self.size_bytes, sink)
    }

    fn estimated_bytes(&self) -> u64 {
        self.size_bytes
    }
}
