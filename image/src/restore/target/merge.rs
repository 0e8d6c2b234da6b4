//! The last step of a tree's restore: from the staging directory to the real names. What is complete is moved as a whole; only where a directory
//! exists already, and the operator allows it, its children are moved into it one by one.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, openat2, renameat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::tree::RESOLVE;
use super::tree_entries::Paths;
use crate::manifest::{EntryKind, TreeBody};
use crate::{Error, Result};

/// The children of each directory.
struct Children {
    /// By entry: its first child in `children`; one more at the end.
    starts: Vec<u32>,
    children: Vec<u32>,
}

impl Children {
    fn new(body: &TreeBody) -> Self {
        let mut starts = vec![0u32; body.entries.len() + 1];
        for entry in body.entries.iter().skip(1) {
            starts[entry.parent as usize + 1] += 1;
        }
        for entry in 1..starts.len() {
            starts[entry] += starts[entry - 1];
        }
        let mut next = starts.clone();
        let mut children = vec![0; body.entries.len().saturating_sub(1)];
        for (index, entry) in body.entries.iter().enumerate().skip(1) {
            let at = &mut next[entry.parent as usize];
            children[*at as usize] = index as u32;
            *at += 1;
        }
        Self { starts, children }
    }

    fn of(&self, entry: u32) -> &[u32] {
        &self.children[self.starts[entry as usize] as usize..self.starts[entry as usize + 1] as usize]
    }
}

/// Moves the children of the tree's root from the directory `from` to the directory `to`.
pub(super) fn move_children(path: &Path, body: &TreeBody, from: BorrowedFd<'_>, to: BorrowedFd<'_>, force: bool) -> Result<()> {
    let children = Children::new(body);
    let mut directories = vec![0];
    while let Some(directory) = directories.pop() {
        let relative = Paths(body).of(directory);
        let open = |root: BorrowedFd<'_>| -> Result<OwnedFd> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat2(root, &relative, flags, Mode::empty(), RESOLVE).map_err(Error::io("opening", &path.join(&relative)))
        };
        let (source, destination) = (open(from)?, open(to)?);
        for &child in children.of(directory) {
            let entry = &body.entries[child as usize];
            let name = OsStr::from_bytes(&entry.name);
            let is_directory = entry.kind == EntryKind::Directory;
            let moved = move_one(source.as_fd(), destination.as_fd(), name, is_directory, force);
            if !moved.map_err(|error| failed(error, &path.join(Paths(body).of(child)), force))? {
                directories.push(child);
            }
        }
    }
    Ok(())
}

fn failed(error: Errno, path: &Path, force: bool) -> Error {
    match error {
        Errno::ISDIR | Errno::EXIST if force => Error::refused(path, "a directory stands where the image has a file; remove it first"),
        Errno::EXIST => Error::refused(path, "it appeared during the restore; use --force to replace it"),
        error => Error::io("moving to", path)(error),
    }
}

/// Moves one name. `false`: both are directories, so the children are to be moved instead.
fn move_one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr, is_directory: bool, force: bool) -> std::result::Result<bool, Errno> {
    match renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(true),
        // Left out because that needs root.
        Err(Errno::NOENT) if !rustix::process::geteuid().is_root() => return Ok(true),
        Err(Errno::EXIST) if force => {}
        // A filesystem without NOREPLACE: look first.
        Err(Errno::INVAL | Errno::NOSYS) => match statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return renameat(from, name, to, name).map(|()| true),
            Ok(_) if force => {}
            Ok(_) => return Err(Errno::EXIST),
            Err(error) => return Err(error),
        },
        // lost+found is there on a new ext4 filesystem, and in the image of one.
        Err(Errno::EXIST) if is_directory && name == "lost+found" => return Ok(false),
        Err(error) => return Err(error),
    }
    let found = statat(to, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match (is_directory, FileType::from_raw_mode(found.st_mode) == FileType::Directory) {
        (true, true) => return Ok(false),
        (false, true) => return Err(Errno::ISDIR),
        (true, false) => unlinkat(to, name, AtFlags::empty())?,
        (false, false) => {}
    }
    renameat(from, name, to, name).map(|()| true)
}
