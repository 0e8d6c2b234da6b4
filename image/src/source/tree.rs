//! A directory tree as the source of a tree image: every kind of file, with owner, mode, times and extended attributes.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{OFlags, lgetxattr, llistxattr, major, minor, syncfs};
use rustix::io::Errno;

use super::{PageSink, Source, file_runs};
use crate::manifest::{Entry, EntryKind, PATH_BYTES_MAX, Xattr};
use crate::{Error, ImageKind, Result};

/// The files under one directory, in order of their names, so that equal trees give equal packs.
pub struct TreeSource {
    root: PathBuf,
}

impl TreeSource {
    /// The tree under `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Source for TreeSource {
    fn kind(&self) -> ImageKind {
        ImageKind::Tree
    }

    fn path(&self) -> &Path {
        &self.root
    }

    fn scan(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        Walk { root: &self.root, sink, entries: 0, linked: HashMap::new(), flushed: HashSet::new() }.run()
    }

    fn estimated_bytes(&self) -> u64 {
        // Metadata only: a few microseconds per file, against reading them all twice. Errors will be met again by the scan.
        let mut bytes = 0;
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                    Ok(metadata) if metadata.is_file() => bytes += metadata.len(),
                    _ => {}
                }
            }
        }
        bytes
    }
}

/// One walk through the tree.
struct Walk<'a> {
    root: &'a Path,
    sink: &'a mut dyn PageSink,
    /// Entries handed over: the index of the next one.
    entries: u32,
    /// Device and inode of files with several names → the entry of the first.
    linked: HashMap<(u64, u64), u32>,
    /// Device numbers of the filesystems that have been flushed.
    flushed: HashSet<u64>,
}

/// A directory whose children are being visited.
struct OpenDirectory {
    path: PathBuf,
    entry: u32,
    /// Names that are still to come, last first.
    names: Vec<OsString>,
}

impl Walk<'_> {
    /// Depth first, with a stack of its own so that depth costs memory and not stack.
    fn run(mut self) -> Result<()> {
        let metadata = fs::metadata(self.root).map_err(Error::io("reading", self.root))?;
        self.flush(self.root, &metadata);
        let root = self.describe(self.root, OsStr::new(""), 0, &metadata, EntryKind::Directory)?;
        self.hand_over(root)?;
        let mut stack = vec![open_directory(self.root.to_owned(), 0)?];
        while let Some(directory) = stack.last_mut() {
            let Some(name) = directory.names.pop() else {
                stack.pop();
                continue;
            };
            let path = directory.path.join(&name);
            if path.as_os_str().len() - self.root.as_os_str().len() > PATH_BYTES_MAX {
                return Err(Error::Source { path, why: "its path is longer than 4095 bytes".into() });
            }
            let parent = directory.entry;
            if let Some(subdirectory) = self.visit(&path, &name, parent)? {
                stack.push(open_directory(path, subdirectory)?);
            }
        }
        Ok(())
    }

    /// Has the filesystem that a directory is on written back. What is not yet may be data now and a hole once it is allocated (ext4's delayed
    /// allocation): the two passes would see different runs. A refusal is harmless, the second pass notices any change.
    fn flush(&mut self, path: &Path, metadata: &Metadata) {
        if self.flushed.insert(metadata.dev())
            && let Ok(directory) = File::open(path)
        {
            let _ = syncfs(&directory);
        }
    }

    /// Hands over one entry and its data. Returns its index when it is a directory, whose children come next.
    fn visit(&mut self, path: &Path, name: &OsStr, parent: u32) -> Result<Option<u32>> {
        let metadata = fs::symlink_metadata(path).map_err(Error::io("reading", path))?;
        let file_type = metadata.file_type();
        let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
        if metadata.nlink() > 1 && !file_type.is_dir() {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(&original) = self.linked.get(&inode) {
                let kind = EntryKind::HardLink { original };
                let name = name.as_bytes().to_vec();
                let link = Entry { parent, name, mode: 0, uid: 0, gid: 0, mtime_s: 0, mtime_ns: 0, xattrs: Vec::new(), kind };
                self.hand_over(link)?;
                return Ok(None);
            }
            self.linked.insert(inode, self.entries);
        }
        let kind = if file_type.is_dir() {
            EntryKind::Directory
        } else if file_type.is_symlink() {
            let target = fs::read_link(path).map_err(Error::io("reading the link", path))?;
            EntryKind::Symlink { target: target.into_os_string().into_vec() }
        } else if file_type.is_char_device() {
            EntryKind::CharacterDevice { major, minor }
        } else if file_type.is_block_device() {
            EntryKind::BlockDevice { major, minor }
        } else if file_type.is_fifo() {
            EntryKind::Fifo
        } else if file_type.is_socket() {
            EntryKind::Socket
        } else {
            return self.file(path, name, parent, &metadata).map(|()| None);
        };
        let is_directory = kind == EntryKind::Directory;
        if is_directory {
            self.flush(path, &metadata);
        }
        let index = self.entries;
        let entry = self.describe(path, name, parent, &metadata, kind)?;
        self.hand_over(entry)?;
        Ok(is_directory.then_some(index))
    }

    fn file(&mut self, path: &Path, name: &OsStr, parent: u32, seen: &Metadata) -> Result<()> {
        // Neither follows a link nor waits on a pipe that was put there since we looked.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(path).map_err(Error::io("opening", path))?;
        let metadata = file.metadata().map_err(Error::io("reading", path))?;
        if (metadata.dev(), metadata.ino()) != (seen.dev(), seen.ino()) || !metadata.is_file() {
            return Err(Error::SourceChanged { path: path.to_owned() });
        }
        let size_bytes = metadata.len();
        let kind = EntryKind::File { size_bytes, extents: 0..0 };
        let entry = self.describe(path, name, parent, &metadata, kind)?;
        self.hand_over(entry)?;
        file_runs::scan(&file, path, size_bytes, self.sink)
    }

    fn describe(&self, path: &Path, name: &OsStr, parent: u32, metadata: &Metadata, kind: EntryKind) -> Result<Entry> {
        Ok(Entry {
            parent,
            name: name.as_bytes().to_vec(),
            mode: (metadata.mode() & 0o7777) as u16,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime_s: metadata.mtime(),
            mtime_ns: metadata.mtime_nsec() as u32,
            xattrs: xattrs(path).map_err(Error::io("reading extended attributes of", path))?,
            kind,
        })
    }

    fn hand_over(&mut self, entry: Entry) -> Result<()> {
        self.sink.entry(entry)?;
        self.entries = self.entries.checked_add(1).ok_or_else(|| Error::Limit("more than 2^32 files in a tree".into()))?;
        Ok(())
    }
}

fn open_directory(path: PathBuf, entry: u32) -> Result<OpenDirectory> {
    let names = fs::read_dir(&path).and_then(|names| names.map(|entry| entry.map(|entry| entry.file_name())).collect());
    let mut names: Vec<OsString> = names.map_err(Error::io("listing", &path))?;
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(OpenDirectory { path, entry, names })
}

/// The extended attributes of `path` itself, ascending by name.
fn xattrs(path: &Path) -> rustix::io::Result<Vec<Xattr>> {
    // The kernel's own limit for the list of names.
    let mut names = Vec::with_capacity(65536);
    match llistxattr_of(path, &mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        result => result?,
    }
    let mut xattrs = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = Vec::with_capacity(256);
        let read = match lgetxattr_of(path, name, &mut value) {
            Err(Errno::RANGE) => {
                // The kernel's limit for a value.
                value.reserve(65536);
                lgetxattr_of(path, name, &mut value)
            }
            result => result,
        };
        match read {
            Ok(()) => xattrs.push((name.to_vec(), value)),
            // Removed meanwhile, or of a namespace that this process may list and not read.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

fn llistxattr_of(path: &Path, names: &mut Vec<u8>) -> rustix::io::Result<()> {
    llistxattr(path, spare_capacity(names)).map(|_| ())
}

fn lgetxattr_of(path: &Path, name: &[u8], value: &mut Vec<u8>) -> rustix::io::Result<()> {
    lgetxattr(path, name, spare_capacity(value)).map(|_| ())
}
