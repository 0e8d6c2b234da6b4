//! Where chunk records are written to: around the page cache where the filesystem can (O_DIRECT), since a pack is larger than what the cache has room for
//! and is not read again soon.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::OFlags;

use crate::partial_file::PartialFile;
use crate::{Error, Result};

/// The file that is being written.
pub(super) struct ChunkFile<'a> {
    partial: &'a PartialFile,
    /// The same file, opened for direct writing; `None` once that did not work.
    direct: Option<File>,
}

impl<'a> ChunkFile<'a> {
    pub(super) fn new(partial: &'a PartialFile) -> Self {
        let flags = (OFlags::DIRECT | OFlags::NOFOLLOW).bits() as i32;
        Self { partial, direct: File::options().write(true).custom_flags(flags).open(partial.partial_path()).ok() }
    }

    pub(super) fn partial(&self) -> &'a PartialFile {
        self.partial
    }

    /// Writes `bytes`, whose length and `offset` are multiples of 4096.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        if let Some(direct) = &self.direct {
            match direct.write_all_at(bytes, offset) {
                // A disk that wants another alignment than this.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.direct = None,
                written => return written.map_err(Error::io("writing", self.partial.partial_path())),
            }
        }
        self.partial.file().write_all_at(bytes, offset).map_err(Error::io("writing", self.partial.partial_path()))
    }
}
