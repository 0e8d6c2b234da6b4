//! A file that is written under a temporary name and gets its real name only when it is complete, so that nobody
//! takes an interrupted one for a whole one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock, ioctl_ficlone};

use crate::{Error, Result};

/// How long the kernel may take to close the file of a process that has ended: threads of io_uring close files a little later.
pub(crate) const RELEASE_WAIT: Duration = Duration::from_millis(200);

/// What becomes of it when it is dropped without [`PartialFile::commit`] depends on where it came from.
pub(crate) struct PartialFile {
    file: File,
    partial_path: PathBuf,
    path: PathBuf,
    if_dropped: IfDropped,
}

/// What is done with a file that was not committed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfDropped {
    Remove,
    /// It is worth something: a later run may go on from it.
    Keep,
    /// It is the file of that name as it was.
    RenameBack,
}

/// Refuses a directory, and without `force` whatever exists.
pub(crate) fn refuse_target(path: &Path, force: bool) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Err(Error::refused(path, "it is a directory, a file is to be written")),
        Ok(_) if !force => Err(Error::refused(path, "it exists; use --force to replace it")),
        _ => Ok(()),
    }
}

/// `NAME.partial` next to `NAME`, so that the rename stays within one filesystem.
pub(crate) fn partial_path_of(path: &Path) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

impl PartialFile {
    /// Creates `PATH.partial`. Refuses when `path` exists and `force` is not set, and when another process is writing the same
    /// file; what such a process left behind when it died is removed.
    pub(crate) fn create(path: &Path, force: bool) -> Result<Self> {
        refuse_target(path, force)?;
        let partial_path = partial_path_of(path);
        if let Ok(leftover) = File::options().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&partial_path) {
            lock(&leftover, &partial_path)?;
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
        Ok(Self { file, partial_path, path: path.to_owned(), if_dropped: IfDropped::Remove })
    }

    /// A file to be turned into a new one, keeping what fits: `PATH.partial` where an earlier run left it behind, else what is at `path`,
    /// else an empty one. On a filesystem with reflinks `path` stays as it is until the new file takes its place. Elsewhere it becomes
    /// `PATH.partial`, and gets its name back when it is dropped before [`PartialFile::begin`].
    pub(crate) fn resume(path: &Path) -> Result<Self> {
        let partial_path = partial_path_of(path);
        if fs::symlink_metadata(&partial_path).is_ok() {
            let file = open_regular(&partial_path)?;
            return Ok(Self { file, partial_path, path: path.to_owned(), if_dropped: IfDropped::Keep });
        }
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Self::create(path, false);
        }
        let found = open_regular(path)?;
        let cloned = Self::create(path, true)?;
        if ioctl_ficlone(&cloned.file, &found).is_ok() {
            return Ok(cloned);
        }
        drop(cloned);
        if found.metadata().map_err(Error::io("examining", path))?.nlink() > 1 {
            return Err(Error::refused(path, "it has other names (hard links), whose content would change as well; copy it first"));
        }
        fs::rename(path, &partial_path).map_err(Error::io("renaming to", &partial_path))?;
        Ok(Self { file: found, partial_path, path: path.to_owned(), if_dropped: IfDropped::RenameBack })
    }

    /// From now on the file is being changed. With `keep` it is left behind when it is not completed.
    pub(crate) fn begin(&mut self, keep: bool) {
        if keep {
            self.if_dropped = IfDropped::Keep;
        }
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
        self.if_dropped = IfDropped::Keep;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(Error::io("flushing", directory))
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        // Nothing better can be done with a failure here: the name says that it is partial.
        let _ = match self.if_dropped {
            IfDropped::Remove => fs::remove_file(&self.partial_path),
            IfDropped::RenameBack => fs::rename(&self.partial_path, &self.path),
            IfDropped::Keep => Ok(()),
        };
    }
}

/// Opens a file that is about to be changed and locks it.
fn open_regular(path: &Path) -> Result<File> {
    let metadata = fs::symlink_metadata(path).map_err(Error::io("examining", path))?;
    if !metadata.is_file() {
        return Err(Error::refused(path, "it is not a regular file; name the file itself"));
    }
    let flags = OFlags::NOFOLLOW.bits() as i32;
    let file = File::options().read(true).write(true).custom_flags(flags).open(path).map_err(Error::io("opening", path))?;
    lock(&file, path)?;
    Ok(file)
}

/// Locks a file that exists.
fn lock(file: &File, path: &Path) -> Result<()> {
    let deadline = Instant::now() + RELEASE_WAIT;
    while flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            return Err(Error::refused(path, "another process is writing it"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
