//! A file tree that is put together entry by entry, as an archive lists it or as the layers of a container image change it, and then handed
//! over in the order of its names.

use std::collections::BTreeMap;

use super::data::{Data, DataFile};
use crate::manifest::{Entry, EntryKind, NAME_BYTES_MAX, PATH_BYTES_MAX, Xattr};
use crate::source::{PageSink, file_runs};
use crate::{Error, Result};

/// Symbolic links that one path may go through, as in Linux.
const LINKS_FOLLOWED_MAX: u32 = 40;

/// What all kinds of files have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_s: i64,
    pub(super) mtime_ns: u32,
    /// Ascending by name.
    pub(super) xattrs: Vec<Xattr>,
}

/// What a file is, apart from a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    File(Data),
    /// Its target.
    Symlink(Vec<u8>),
    CharacterDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Debug)]
enum Kind {
    /// Name → index of the inode.
    Directory(BTreeMap<Vec<u8>, usize>),
    Other(Content),
}

#[derive(Debug)]
struct Inode {
    metadata: Metadata,
    kind: Kind,
}

/// A file tree. What was replaced or removed stays in `inodes` and is not reached any more.
#[derive(Debug)]
pub(super) struct FileTree {
    /// The first is the root.
    inodes: Vec<Inode>,
    /// Directories that nothing described, by inode.
    made_up: std::collections::BTreeSet<usize>,
}

/// A name on a path, with an inode if that exists.
type Step = (Vec<u8>, Option<usize>);

/// Why an entry does not fit, without its name.
pub(super) type Misfit = &'static str;

/// Mode of directories that nothing describes; their owner is root.
const DIRECTORY_MODE: u16 = 0o755;
const ROOT: usize = 0;
const PATH_TOO_LONG: Misfit = "its path is longer than 4095 bytes";

impl FileTree {
    /// An empty root directory.
    pub(super) fn new() -> Self {
        let metadata = Metadata { mode: DIRECTORY_MODE, ..Metadata::default() };
        Self { inodes: vec![Inode { metadata, kind: Kind::Directory(BTreeMap::new()) }], made_up: Default::default() }
    }

    /// Directories below the root that nothing described.
    pub(super) fn made_up(&self) -> usize {
        self.made_up.len()
    }

    /// Bytes of all files.
    pub(super) fn data_bytes(&self) -> u64 {
        let size = |inode: &Inode| match &inode.kind {
            Kind::Other(Content::File(data)) => data.size_bytes,
            _ => 0,
        };
        self.inodes.iter().map(size).fold(0, u64::saturating_add)
    }

    /// Puts a directory at `path`. One that is there keeps its children.
    pub(super) fn put_directory(&mut self, path: &[u8], metadata: Metadata) -> Result<(), Misfit> {
        let Some((parent, name)) = self.parent_of(path)? else {
            return self.describe(ROOT, metadata);
        };
        match self.child(parent, &name) {
            Some(inode) if self.is_directory(inode) => self.describe(inode, metadata),
            _ => self.link(parent, name, Inode { metadata, kind: Kind::Directory(BTreeMap::new()) }),
        }
    }

    /// Puts anything else at `path`, instead of what is there.
    pub(super) fn put(&mut self, path: &[u8], metadata: Metadata, content: Content) -> Result<(), Misfit> {
        let (parent, name) = self.parent_of(path)?.ok_or("it stands for the root, and is no directory")?;
        self.link(parent, name, Inode { metadata, kind: Kind::Other(content) })
    }

    /// Gives the file at `target` one more name.
    pub(super) fn put_hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Misfit> {
        let missing = "it is a hard link to a file that does not come before it";
        let (target_name, directory) = self.find_parent(target)?.ok_or("it is a hard link to a directory")?;
        let inode = directory.and_then(|directory| self.child(directory, &target_name)).ok_or(missing)?;
        if self.is_directory(inode) {
            return Err("it is a hard link to a directory");
        }
        let (parent, name) = self.parent_of(path)?.ok_or("it stands for the root, and is no directory")?;
        self.children_mut(parent)?.insert(name, inode);
        Ok(())
    }

    /// Removes what is at `path`, if anything is.
    pub(super) fn remove(&mut self, path: &[u8]) -> Result<(), Misfit> {
        if let Some((name, Some(parent))) = self.find_parent(path)? {
            self.children_mut(parent)?.remove(&name);
        }
        Ok(())
    }

    /// Removes what is in the directory at `path`, if there is one.
    pub(super) fn clear(&mut self, path: &[u8]) -> Result<(), Misfit> {
        let directory = match self.find_parent(path)? {
            None => Some(ROOT),
            Some((name, parent)) => parent.and_then(|parent| self.child(parent, &name)),
        };
        if let Some(directory) = directory.filter(|&inode| self.is_directory(inode)) {
            self.children_mut(directory)?.clear();
        }
        Ok(())
    }

    /// The data of the file at `path`, through symbolic links.
    pub(super) fn file(&self, path: &[u8]) -> Option<&Data> {
        let (_, inode) = self.resolve(components(path).ok()?).ok()?.pop()?;
        match &self.inodes.get(inode?)?.kind {
            Kind::Other(Content::File(data)) => Some(data),
            _ => None,
        }
    }

    fn describe(&mut self, inode: usize, metadata: Metadata) -> Result<(), Misfit> {
        self.made_up.remove(&inode);
        if let Some(inode) = self.inodes.get_mut(inode) {
            inode.metadata = metadata;
        }
        Ok(())
    }

    fn link(&mut self, parent: usize, name: Vec<u8>, inode: Inode) -> Result<(), Misfit> {
        let index = self.inodes.len();
        self.children_mut(parent)?.insert(name, index);
        self.inodes.push(inode);
        Ok(())
    }

    fn children_mut(&mut self, directory: usize) -> Result<&mut BTreeMap<Vec<u8>, usize>, Misfit> {
        match self.inodes.get_mut(directory).map(|inode| &mut inode.kind) {
            Some(Kind::Directory(children)) => Ok(children),
            _ => Err("it lies below something that is no directory"),
        }
    }

    fn is_directory(&self, inode: usize) -> bool {
        matches!(self.inodes.get(inode), Some(Inode { kind: Kind::Directory(_), .. }))
    }

    fn child(&self, directory: usize, name: &[u8]) -> Option<usize> {
        match &self.inodes.get(directory)?.kind {
            Kind::Directory(children) => children.get(name).copied(),
            Kind::Other(_) => None,
        }
    }

    fn symlink(&self, inode: usize) -> Option<&[u8]> {
        match &self.inodes.get(inode)?.kind {
            Kind::Other(Content::Symlink(target)) => Some(target),
            _ => None,
        }
    }

    /// The directory that `path` is in, made with all above it if it is not there, and the name in it; `None` for the root itself.
    fn parent_of(&mut self, path: &[u8]) -> Result<Option<(usize, Vec<u8>)>, Misfit> {
        let mut names = components(path)?;
        let Some(name) = names.pop() else { return Ok(None) };
        let real = self.resolve(names)?;
        if real.iter().map(|(name, _)| name.len() + 1).sum::<usize>() + name.len() > PATH_BYTES_MAX {
            return Err(PATH_TOO_LONG);
        }
        let mut at = ROOT;
        for (name, inode) in real {
            at = match inode {
                Some(inode) => inode,
                None => {
                    let made = self.inodes.len();
                    let metadata = Metadata { mode: DIRECTORY_MODE, ..Metadata::default() };
                    self.link(at, name, Inode { metadata, kind: Kind::Directory(BTreeMap::new()) })?;
                    self.made_up.insert(made);
                    made
                }
            };
        }
        Ok(Some((at, name)))
    }

    /// As `parent_of`, without making anything: the inode is the directory's, and the name the one in it.
    fn find_parent(&self, path: &[u8]) -> Result<Option<Step>, Misfit> {
        let mut names = components(path)?;
        let Some(name) = names.pop() else { return Ok(None) };
        let directory = self.resolve(names)?.last().map_or(Some(ROOT), |(_, inode)| *inode);
        Ok(Some((name, directory)))
    }

    /// Follows symbolic links as they would be in a root directory of their own, which none of them leaves. Returns the names that
    /// lead there without links, each with its inode if it exists.
    fn resolve(&self, names: Vec<Vec<u8>>) -> Result<Vec<Step>, Misfit> {
        let mut real: Vec<Step> = Vec::new();
        // Last first. `..` comes from links only; the parent of the root is the root.
        let mut to_come: Vec<Vec<u8>> = names.into_iter().rev().collect();
        let mut links = 0;
        while let Some(name) = to_come.pop() {
            if name == b".." {
                real.pop();
                continue;
            }
            let directory = real.last().map_or(Some(ROOT), |(_, inode)| *inode);
            let inode = directory.and_then(|directory| self.child(directory, &name));
            let Some(target) = inode.and_then(|inode| self.symlink(inode)) else {
                real.push((name, inode));
                continue;
            };
            links += 1;
            if links > LINKS_FOLLOWED_MAX {
                return Err("it lies behind too many symbolic links");
            }
            if target.starts_with(b"/") {
                real.clear();
            }
            let names = target.split(|&byte| byte == b'/').rev().filter(|name| !matches!(*name, b"" | b"."));
            for name in names {
                if name.len() > NAME_BYTES_MAX {
                    return Err("it lies behind a symbolic link to a name longer than 255 bytes");
                }
                to_come.push(name.to_vec());
            }
        }
        Ok(real)
    }

    /// Hands the tree over, each directory's entries in the order of their names. `files` are those that [`Data`] points into.
    pub(super) fn scan(&self, files: &[DataFile], sink: &mut dyn PageSink) -> Result<()> {
        // Per inode: the entry that it was handed over as.
        let mut entries: Vec<Option<u32>> = vec![None; self.inodes.len()];
        let mut count = 0u32;
        let mut stack = Vec::new();
        self.hand_over(ROOT, 0, Vec::new(), files, sink)?;
        if let Some(Inode { kind: Kind::Directory(children), .. }) = self.inodes.first() {
            stack.push((0, children.iter()));
        }
        while let Some((parent, children)) = stack.last_mut() {
            let Some((name, &inode)) = children.next() else {
                stack.pop();
                continue;
            };
            let parent = *parent;
            count = count.checked_add(1).ok_or_else(|| Error::Limit("more than 2^32 files in a tree".into()))?;
            match entries.get(inode).copied().flatten() {
                Some(original) => {
                    let kind = EntryKind::HardLink { original };
                    sink.entry(entry(parent, name.clone(), Metadata::default(), kind))?;
                }
                None => {
                    if let Some(slot) = entries.get_mut(inode) {
                        *slot = Some(count);
                    }
                    self.hand_over(inode, parent, name.clone(), files, sink)?;
                    if let Some(Inode { kind: Kind::Directory(children), .. }) = self.inodes.get(inode) {
                        stack.push((count, children.iter()));
                    }
                }
            }
        }
        Ok(())
    }

    fn hand_over(&self, inode: usize, parent: u32, name: Vec<u8>, files: &[DataFile], sink: &mut dyn PageSink) -> Result<()> {
        let Some(inode) = self.inodes.get(inode) else { return Ok(()) };
        let metadata = inode.metadata.clone();
        let kind = match &inode.kind {
            Kind::Directory(_) => EntryKind::Directory,
            Kind::Other(Content::Symlink(target)) => EntryKind::Symlink { target: target.clone() },
            Kind::Other(Content::CharacterDevice { major, minor }) => EntryKind::CharacterDevice { major: *major, minor: *minor },
            Kind::Other(Content::BlockDevice { major, minor }) => EntryKind::BlockDevice { major: *major, minor: *minor },
            Kind::Other(Content::Fifo) => EntryKind::Fifo,
            Kind::Other(Content::File(data)) => {
                let kind = EntryKind::File { size_bytes: data.size_bytes, extents: 0..0 };
                sink.entry(entry(parent, name, metadata, kind))?;
                let file = files.get(data.file).ok_or(Error::Stopped)?;
                return file_runs::scan_runs(
                    0..data.size_bytes,
                    &|offset| Ok(data.next_stored(offset)),
                    &|offset, buffer| file.read(data, offset, buffer),
                    sink,
                );
            }
        };
        sink.entry(entry(parent, name, metadata, kind))
    }
}

fn entry(parent: u32, name: Vec<u8>, metadata: Metadata, kind: EntryKind) -> Entry {
    let Metadata { mode, uid, gid, mtime_s, mtime_ns, xattrs } = metadata;
    Entry { parent, name, mode, uid, gid, mtime_s, mtime_ns, xattrs, kind }
}

/// The names of a path from the root of an archive. A leading `/` and `.` mean nothing.
pub(super) fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, Misfit> {
    // With room for `./` and doubled slashes.
    if path.len() > 2 * PATH_BYTES_MAX {
        return Err(PATH_TOO_LONG);
    }
    let names = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names
        .map(|name| match name {
            b".." => Err("its name has .. in it"),
            _ if name.contains(&0) => Err("its name has a NUL in it"),
            _ if name.len() > NAME_BYTES_MAX => Err("its name is longer than 255 bytes"),
            _ => Ok(name.to_vec()),
        })
        .collect()
}
