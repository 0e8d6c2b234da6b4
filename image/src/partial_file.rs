//! A file that is written under a temporary name and gets its real name only when it is complete, so that nobody
//! takes an interrupted one for a whole one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::{Error, Result};

/// Removed when it is dropped without [`PartialFile::commit`].
pub(crate) struct PartialFile {
    file: File,
    partial_path: PathBuf,
    path: PathBuf,
    committed: bool,
}

/// `NAME.partial` next to `NAME`, so that the rename stays within one filesystem.
fn partial_path_of(path: &Path) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

impl PartialFile {
    /// Creates `PATH.partial`. Refuses when `path` exists and `force` is not set, and when another process is writing the same
    /// file; what such a process left behind when it died is removed.
    pub(crate) fn create(path: &Path, force: bool) -> Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => return Err(Error::refused(path, "it is a directory, a file is to be written")),
            Ok(_) if !force => return Err(Error::refused(path, "it exists; use --force to replace it")),
            _ => {}
        }
        let partial_path = partial_path_of(path);
        if let Ok(leftover) = File::options().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&partial_path) {
            if flock(&leftover, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Err(Error::refused(&partial_path, "another process is writing it"));
            }
            fs::remove_file(&partial_path).map_err(Error::io("removing", &partial_path))?;
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&partial_path)
            .map_err(Error::io("creating", &partial_path))?;
        // Held as long as the file is open: it tells a file being written from a leftover.
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(Error::io("locking", &partial_path))?;
        Ok(Self { file, partial_path, path: path.to_owned(), committed: false })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The temporary name, for messages.
    pub(crate) fn partial_path(&self) -> &Path {
        &self.partial_path
    }

    /// Flushes the file, gives it its name, and flushes the directory.
    pub(crate) fn commit(mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("flushing", &self.partial_path))?;
        fs::rename(&self.partial_path, &self.path).map_err(Error::io("renaming to", &self.path))?;
        self.committed = true;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(Error::io("flushing", directory))
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing better can be done with a failure here: the name says that it is partial.
            let _ = fs::remove_file(&self.partial_path);
        }
    }
}
