//! The entries of a tree that is being restored: their paths, the kinds that have no data, and the metadata of all kinds.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat, fchmod, fchown, fsetxattr,
    futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat2, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::tree::RESOLVE;
use crate::manifest::{Entry, EntryKind, TreeBody};
use crate::{Error, Result};

/// Paths of entries, relative to the root.
pub(super) struct Paths<'a>(pub(super) &'a TreeBody);

impl Paths<'_> {
    /// `.` for the root.
    pub(super) fn of(&self, entry: u32) -> PathBuf {
        let mut names = Vec::new();
        let mut at = entry;
        while at != 0 {
            let entry = &self.0.entries[at as usize];
            names.push(OsStr::from_bytes(&entry.name));
            at = entry.parent;
        }
        if names.is_empty() { PathBuf::from(".") } else { names.iter().rev().collect() }
    }
}

/// A step on an entry that failed: what was being done, and the kernel's answer.
pub(super) type StepError = (&'static str, Errno);

/// What needs root, was refused to another user and was therefore left out.
#[derive(Default)]
pub(super) struct LeftOut {
    owners: u64,
    xattrs: u64,
    devices: u64,
}

impl LeftOut {
    pub(super) fn notes(&self) -> Vec<String> {
        let left = [(self.owners, "owners"), (self.xattrs, "extended attributes"), (self.devices, "device nodes")];
        let left = left.iter().filter(|(count, _)| *count > 0);
        left.map(|(count, what)| format!("{count} {what} were not restored: that needs root")).collect()
    }
}

/// `Ok(false)`, and one more in `left`, when only root may do it and this is not root. Root's own failures stay failures.
fn permitted(result: rustix::io::Result<()>, left: &mut u64) -> rustix::io::Result<bool> {
    match result {
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {
            *left += 1;
            Ok(false)
        }
        result => result.map(|()| true),
    }
}

/// Sets the metadata of an open file or directory. Owner first: changing it clears set-id bits and capabilities. Times last: every other
/// step may change them.
pub(super) fn set_metadata(file: BorrowedFd<'_>, entry: &Entry, left: &mut LeftOut) -> std::result::Result<(), StepError> {
    let (uid, gid) = owner(entry);
    permitted(fchown(file, uid, gid), &mut left.owners).map_err(|error| ("setting the owner of", error))?;
    for (name, value) in &entry.xattrs {
        let set = fsetxattr(file, name.as_slice(), value, XattrFlags::empty());
        permitted(set, &mut left.xattrs).map_err(|error| ("setting an extended attribute of", error))?;
    }
    fchmod(file, mode(entry)).map_err(|error| ("setting the mode of", error))?;
    futimens(file, &times(entry)).map_err(|error| ("setting the time of", error))
}

/// Where entries are made: the tree below an open directory. Remembers the directory used last, since entries come directory by directory.
pub(super) struct Maker<'a> {
    /// The directory that stands for the image's root.
    root: BorrowedFd<'a>,
    /// Its name, for messages.
    path: &'a Path,
    body: &'a TreeBody,
    parent: Option<(u32, OwnedFd)>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, path: &'a Path, body: &'a TreeBody) -> Self {
        Self { root, path, body, parent: None }
    }

    /// Makes a directory, closed to others until it has its metadata.
    pub(super) fn make_directory(&mut self, index: u32) -> Result<()> {
        let (parent, name) = self.parent(index)?;
        mkdirat(parent, name, Mode::RWXU).map_err(|error| self.failed(index, ("creating", error)))
    }

    /// Makes a link, a device, a pipe or a socket, with its metadata.
    pub(super) fn make_special(&mut self, index: u32, left: &mut LeftOut) -> Result<()> {
        let entry = &self.body.entries[index as usize];
        let original = match entry.kind {
            EntryKind::HardLink { original } => {
                let original = &self.body.entries[original as usize];
                Some((self.open_directory(original.parent)?, OsStr::from_bytes(&original.name)))
            }
            _ => None,
        };
        let (parent, name) = self.parent(index)?;
        let node = |file_type, device| mknodat(parent, name, file_type, Mode::RUSR | Mode::WUSR, device);
        let made = match &entry.kind {
            EntryKind::Directory | EntryKind::File { .. } => return Ok(()),
            EntryKind::HardLink { .. } => {
                let link = original.map_or(Ok(()), |(directory, original)| linkat(&directory, original, parent, name, AtFlags::empty()));
                // A device that was left out has no other names either.
                let link = if link == Err(Errno::NOENT) { Err(Errno::PERM) } else { link };
                let linked = permitted(link, &mut left.devices).map(|_| ());
                return linked.map_err(|error| self.failed(index, ("linking", error)));
            }
            EntryKind::Symlink { target } => symlinkat(target.as_slice(), parent, name),
            EntryKind::CharacterDevice { major, minor } => node(FileType::CharacterDevice, makedev(*major, *minor)),
            EntryKind::BlockDevice { major, minor } => node(FileType::BlockDevice, makedev(*major, *minor)),
            EntryKind::Fifo => node(FileType::Fifo, 0),
            EntryKind::Socket => node(FileType::Socket, 0),
        };
        let set = match permitted(made, &mut left.devices) {
            Ok(true) => set_metadata_by_name(parent, name, entry, left),
            Ok(false) => Ok(()),
            Err(error) => Err(("creating", error)),
        };
        set.map_err(|step| self.failed(index, step))
    }

    fn failed(&self, index: u32, (doing, error): StepError) -> Error {
        Error::io(doing, &self.path.join(Paths(self.body).of(index)))(error)
    }

    fn open_directory(&self, entry: u32) -> Result<OwnedFd> {
        let relative = Paths(self.body).of(entry);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(self.root, &relative, flags, Mode::empty(), RESOLVE).map_err(Error::io("opening", &self.path.join(&relative)))
    }

    /// The open directory that an entry is in, and its name there.
    fn parent(&mut self, entry: u32) -> Result<(BorrowedFd<'_>, &'a OsStr)> {
        let entry = &self.body.entries[entry as usize];
        let cached = self.parent.take().filter(|(parent, _)| *parent == entry.parent);
        let opened = match cached {
            Some(cached) => cached,
            None => (entry.parent, self.open_directory(entry.parent)?),
        };
        let opened = &*self.parent.insert(opened);
        Ok((opened.1.as_fd(), OsStr::from_bytes(&entry.name)))
    }
}

/// Metadata of what cannot be opened without effects: links, devices, pipes. The name was just made by us in a directory of ours.
fn set_metadata_by_name(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry, left: &mut LeftOut) -> std::result::Result<(), StepError> {
    let (uid, gid) = owner(entry);
    let owned = chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
    permitted(owned, &mut left.owners).map_err(|error| ("setting the owner of", error))?;
    // There is no setxattrat before Linux 6.13; the directory is named through its descriptor.
    let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
    for (attribute, value) in &entry.xattrs {
        let set = lsetxattr(&path, attribute.as_slice(), value, XattrFlags::empty());
        permitted(set, &mut left.xattrs).map_err(|error| ("setting an extended attribute of", error))?;
    }
    if !matches!(entry.kind, EntryKind::Symlink { .. }) {
        chmodat(parent, name, mode(entry), AtFlags::empty()).map_err(|error| ("setting the mode of", error))?;
    }
    utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(|error| ("setting the time of", error))
}

/// The decoder has refused ids that would mean "leave it".
fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode.into())
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: entry.mtime_s, tv_nsec: entry.mtime_ns.into() },
    }
}
