//! A tree restored to a directory. Everything is made in a staging directory inside it and moved to its place when it is complete, so that
//! nothing half-written stands under its real name. All paths are resolved by openat2 below a directory that is held open, and no
//! symbolic link is followed: whatever a manifest says, nothing outside is touched.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags, flock, ftruncate, mkdirat, openat2, syncfs, unlinkat};

use super::tree_entries::{LeftOut, Maker, Paths, set_metadata};
use super::{direct, image_file, merge};
use crate::manifest::{Content, EntryKind, TreeBody};
use crate::{Error, Result};

/// Files that are open at a time. More than the writes that can be in flight, so that one of them is always idle.
const OPEN_FILES_MAX: usize = 192;
/// The most writes in flight that a tree can serve.
pub(in crate::restore) const WRITES_MAX: u32 = 128;

/// How paths of the image are resolved.
pub(super) const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

pub(super) struct Tree {
    path: PathBuf,
    root: OwnedFd,
    staging: OwnedFd,
    staging_name: String,
    /// The target directory was made by us.
    created_root: bool,
    body: Arc<TreeBody>,
    force: bool,
    /// By entry.
    files: Vec<FileState>,
    open: HashMap<u32, OpenFile>,
    /// Counts uses, to find the file that was not used for longest.
    clock: u64,
    /// What O_DIRECT writes are aligned to; 0 for buffered writes.
    direct_bytes: u32,
    left_out: LeftOut,
    notes: Vec<String>,
    committed: bool,
}

#[derive(Clone, Copy, Default)]
struct FileState {
    created: bool,
    /// Bytes of data that are still to be written.
    missing_bytes: u64,
}

struct OpenFile {
    file: File,
    in_flight: u32,
    last_used: u64,
}

impl Tree {
    pub(super) fn open(path: &Path, body: &Arc<TreeBody>, force: bool) -> Result<Self> {
        if !body.stays_inside() {
            return Err(Error::Manifest("the tree has a name that leads out of it".into()));
        }
        let created_root = match fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(Error::io("creating", path)(error)),
        };
        let root = File::open(path).map_err(Error::io("opening", path))?;
        let staging_name = staging_name(body);
        let staging = if created_root || force || is_empty(path, &staging_name)? {
            make_staging(path, &root, &staging_name)
        } else {
            Err(Error::refused(path, "the directory is not empty; use --force to restore into it, replacing files of the same name"))
        };
        let staging = staging.inspect_err(|_| {
            if created_root {
                let _ = fs::remove_dir(path);
            }
        })?;
        let mut tree = Self {
            path: path.to_owned(),
            root: root.into(),
            staging,
            staging_name,
            created_root,
            files: file_states(body),
            body: Arc::clone(body),
            force,
            open: HashMap::new(),
            clock: 0,
            direct_bytes: 0,
            left_out: LeftOut::default(),
            notes: Vec::new(),
            committed: false,
        };
        tree.make_directories()?;
        tree.probe_direct()?;
        Ok(tree)
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        notes.extend(self.left_out.notes());
        notes
    }

    pub(super) fn direct_bytes(&self) -> u32 {
        self.direct_bytes
    }

    pub(super) fn path_of(&self, entry: u32) -> PathBuf {
        self.path.join(Paths(&self.body).of(entry))
    }

    pub(super) fn open_fd(&self, entry: u32) -> Option<BorrowedFd<'_>> {
        self.open.get(&entry).map(|open| open.file.as_fd())
    }

    pub(super) fn begin_write(&mut self, entry: u32) -> Result<BorrowedFd<'_>> {
        if !self.open.contains_key(&entry) {
            if self.open.len() >= OPEN_FILES_MAX {
                self.close_idle();
            }
            let file = self.open_file(entry)?;
            self.open.insert(entry, OpenFile { file, in_flight: 0, last_used: 0 });
        }
        self.clock += 1;
        let clock = self.clock;
        let gone = || Error::io("opening", &self.path)(std::io::Error::other("a file that was just opened is gone"));
        let open = self.open.get_mut(&entry).ok_or_else(gone)?;
        open.in_flight += 1;
        open.last_used = clock;
        Ok(open.file.as_fd())
    }

    pub(super) fn written(&mut self, entry: u32, length: u64) -> Result<()> {
        if let Some(open) = self.open.get_mut(&entry) {
            open.in_flight -= 1;
        }
        let state = &mut self.files[entry as usize];
        state.missing_bytes = state.missing_bytes.saturating_sub(length);
        if state.missing_bytes == 0
            && let Some(open) = self.open.remove(&entry)
        {
            self.complete_file(entry, &open.file)?;
        }
        Ok(())
    }

    /// For all files, also those that are open.
    pub(super) fn fall_back(&mut self) -> Result<()> {
        if self.direct_bytes > 0 {
            self.note_buffered("the kernel refused a write with O_DIRECT");
            self.direct_bytes = 0;
        }
        for open in self.open.values() {
            direct::set(&open.file, false).map_err(Error::io("switching off O_DIRECT of a file in", &self.path))?;
        }
        Ok(())
    }

    /// Everything but directories and files with data is made here; then all is flushed, moved to its place, and the directories, which
    /// changed until now, get their metadata.
    pub(super) fn finish(mut self) -> Result<Vec<String>> {
        let body = Arc::clone(&self.body);
        for index in 0..body.entries.len() as u32 {
            let EntryKind::File { .. } = body.entries[index as usize].kind else { continue };
            // It has no data: no write has made it.
            if !self.files[index as usize].created {
                let file = self.open_file(index)?;
                self.complete_file(index, &file)?;
            }
        }
        let mut maker = Maker::new(self.staging.as_fd(), &self.path, &body);
        for index in 0..body.entries.len() as u32 {
            maker.make_special(index, &mut self.left_out)?;
        }
        drop(maker);
        syncfs(&self.staging).map_err(Error::io("flushing", &self.path))?;
        merge::move_children(&self.path, &body, self.staging.as_fd(), self.root.as_fd(), self.force)?;
        // Directories whose children went into existing ones are still there, empty.
        let staging = self.path.join(&self.staging_name);
        fs::remove_dir_all(&staging).map_err(Error::io("removing", &staging))?;
        // All there is to clean up is gone.
        self.committed = true;
        // Children before parents: a parent may take away our right to reach its children.
        for (index, entry) in body.entries.iter().enumerate().rev() {
            if entry.kind == EntryKind::Directory {
                let path = Paths(&body).of(index as u32);
                let open = openat2(&self.root, &path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), RESOLVE);
                let directory = open.map_err(Error::io("opening", &self.path.join(&path)))?;
                let set = set_metadata(directory.as_fd(), entry, &mut self.left_out);
                set.map_err(|(doing, error)| Error::io(doing, &self.path.join(&path))(error))?;
            }
        }
        syncfs(&self.root).map_err(Error::io("flushing", &self.path))?;
        Ok(self.notes())
    }

    /// The directory in which all is made, opened once more.
    pub(super) fn directory(&self) -> std::io::Result<OwnedFd> {
        self.staging.try_clone()
    }

    fn make_directories(&self) -> Result<()> {
        let body = Arc::clone(&self.body);
        let mut maker = Maker::new(self.staging.as_fd(), &self.path, &body);
        let directories = body.entries.iter().enumerate().skip(1).filter(|(_, entry)| entry.kind == EntryKind::Directory);
        directories.map(|(index, _)| index as u32).try_for_each(|index| maker.make_directory(index))
    }

    /// Finds out with a file of its own whether this filesystem does O_DIRECT.
    fn probe_direct(&mut self) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let probe = openat2(&self.root, format!("{}.probe", self.staging_name), flags, Mode::RUSR, RESOLVE);
        let probe = probe.map_err(Error::io("creating a file in", &self.path))?;
        let found = direct::alignment_bytes(&probe);
        let usable = found.filter(|_| direct::set(&probe, true).is_ok());
        unlinkat(&self.root, format!("{}.probe", self.staging_name), AtFlags::empty())
            .map_err(Error::io("removing a file in", &self.path))?;
        match usable {
            Some(align) => self.direct_bytes = align,
            None => self.note_buffered("its filesystem cannot do O_DIRECT"),
        }
        Ok(())
    }

    fn note_buffered(&mut self, why: &str) {
        self.notes.push(format!("{}: buffered writes, because {why}", self.path.display()));
    }

    /// Opens a file of the staging directory for writing; creates it the first time.
    fn open_file(&mut self, entry: u32) -> Result<File> {
        let path = Paths(&self.body).of(entry);
        let first = !self.files[entry as usize].created;
        let create = if first { OFlags::CREATE | OFlags::EXCL } else { OFlags::empty() };
        let mode = if first { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | create;
        let failed = |doing, error: rustix::io::Errno| Error::io(doing, &self.path.join(&path))(error);
        let file = openat2(&self.staging, &path, flags, mode, RESOLVE).map_err(|error| failed("opening", error))?;
        if self.direct_bytes > 0 {
            direct::set(&file, true).map_err(|error| failed("setting O_DIRECT of", error))?;
        }
        if first {
            self.files[entry as usize].created = true;
            self.take_space(entry, &file)?;
        }
        Ok(file.into())
    }

    /// Ranges of zeros are allocated, as they were in the source; holes stay holes. A file in one piece of data needs no preparation.
    fn take_space(&self, entry: u32, file: &OwnedFd) -> Result<()> {
        let EntryKind::File { extents, .. } = &self.body.entries[entry as usize].kind else { return Ok(()) };
        let extents = &self.body.extents[extents.clone()];
        if let [only] = extents
            && only.content != Content::Zero
        {
            return Ok(());
        }
        let stored = extents.iter().filter(|extent| extent.content != Content::Hole);
        image_file::preallocate(file, &self.path_of(entry), stored.map(|extent| (extent.target_offset, extent.length)))
    }

    /// A file that has all its data: size and metadata.
    fn complete_file(&mut self, entry: u32, file: &File) -> Result<()> {
        let body = Arc::clone(&self.body);
        let described = &body.entries[entry as usize];
        let EntryKind::File { size_bytes, .. } = described.kind else { return Ok(()) };
        let failed = |tree: &Self, doing, error: rustix::io::Errno| Error::io(doing, &tree.path_of(entry))(error);
        ftruncate(file, size_bytes).map_err(|error| failed(self, "setting the size of", error))?;
        let set = set_metadata(file.as_fd(), described, &mut self.left_out);
        set.map_err(|(doing, error)| failed(self, doing, error))
    }

    fn close_idle(&mut self) {
        let idle = self.open.iter().filter(|(_, open)| open.in_flight == 0).min_by_key(|(_, open)| open.last_used);
        if let Some(entry) = idle.map(|(&entry, _)| entry) {
            self.open.remove(&entry);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.committed {
            self.open.clear();
            // Nothing better can be done with a failure here: the name says that it is partial.
            let _ = fs::remove_dir_all(self.path.join(&self.staging_name));
            if self.created_root {
                let _ = fs::remove_dir(&self.path);
            }
        }
    }
}

/// A name that the image does not use itself.
fn staging_name(body: &TreeBody) -> String {
    let mut name = ".discus.partial".to_owned();
    while body.entries.iter().any(|entry| entry.parent == 0 && entry.name.starts_with(name.as_bytes())) {
        name.push('~');
    }
    name
}

/// Whether there is nothing to lose. A new ext4 filesystem has its lost+found; an interrupted restore leaves a staging directory.
fn is_empty(path: &Path, staging_name: &str) -> Result<bool> {
    let mut names = fs::read_dir(path).map_err(Error::io("listing", path))?;
    names.try_fold(true, |empty, entry| {
        let name = entry.map_err(Error::io("listing", path))?.file_name();
        Ok(empty && (name == "lost+found" || name == staging_name))
    })
}

/// Makes the staging directory, locked as long as it is open: that tells one in use from a leftover.
fn make_staging(path: &Path, root: &File, name: &str) -> Result<OwnedFd> {
    let full = path.join(name);
    let open = || {
        openat2(root, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), RESOLVE)
            .map_err(Error::io("opening", &full))
    };
    let lock = |directory: &OwnedFd| flock(directory, FlockOperation::NonBlockingLockExclusive);
    if full.symlink_metadata().is_ok() {
        if lock(&open()?).is_err() {
            return Err(Error::refused(&full, "another process is restoring into it"));
        }
        fs::remove_dir_all(&full).map_err(Error::io("removing", &full))?;
    }
    mkdirat(root, name, Mode::RWXU).map_err(Error::io("creating", &full))?;
    let directory = open()?;
    lock(&directory).map_err(Error::io("locking", &full))?;
    Ok(directory)
}

fn file_states(body: &TreeBody) -> Vec<FileState> {
    let state = |entry: &crate::manifest::Entry| match &entry.kind {
        EntryKind::File { extents, .. } => {
            let data = body.extents[extents.clone()].iter().filter(|extent| matches!(extent.content, Content::Data { .. }));
            FileState { created: false, missing_bytes: data.map(|extent| extent.length).sum() }
        }
        _ => FileState::default(),
    };
    body.entries.iter().map(state).collect()
}
