//! Targets: a block device, a regular file or a directory. Each protects what is there before it writes anything, and looks whole only when
//! it is.

mod device;
mod direct;
mod image_file;
mod merge;
mod tree;
mod tree_entries;
mod zero;

use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::syncfs;

use super::flusher::Flusher;
use super::places::{Place, Places};
use super::present::{self, Present, ScanProgress};
use crate::manifest::{Body, Manifest};
use crate::{Error, Result};

use device::Device;
use image_file::ImageFile;
use tree::Tree;
pub(super) use tree::WRITES_MAX;

/// What the operator allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct TargetOptions {
    /// Replace an existing file, or restore into a directory that is not empty. A device that is in use stays refused.
    pub force: bool,
    /// Keep what the target holds already where it is what the image has there: see [`Target::find_present`]. A file of the target's
    /// name, or `PATH.partial` as an interrupted run left it, is then made into the image.
    pub resume: bool,
    /// Leave `PATH.partial` behind when a file is not completed after data could be written to it: `resume` goes on from there.
    pub keep: bool,
}

/// An opened target.
pub struct Target {
    path: PathBuf,
    kind: Kind,
    begun: bool,
    present: Present,
}

enum Kind {
    Device(Device),
    File(ImageFile),
    Tree(Box<Tree>),
}

/// A write as it goes to the kernel.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) target_offset: u64,
    /// Where in the raw chunk.
    pub(super) raw_offset: u32,
    /// Rounded up to what O_DIRECT asks for: the rest of a chunk's last page is zeros.
    pub(super) length: u32,
}

impl Target {
    /// Opens `path` for the image: an existing block device or a file for a disk, a directory for a tree. Checks come first: nothing is changed at a
    /// target that is refused. Then a device's beginning is zeroed, so that an interrupted install is not taken for a whole one; a
    /// file is written as `PATH.partial`; a tree in `PATH/.discus.partial`. With `resume` nothing is changed before a [`Writer`](crate::restore::Writer)
    /// is made.
    ///
    /// # Errors
    /// When the target is in use, too small, exists, is of the wrong kind, or cannot be prepared.
    pub fn open(path: &Path, manifest: &Manifest, options: &TargetOptions) -> Result<Self> {
        let found = fs::metadata(path).ok().map(|metadata| metadata.file_type());
        let kind = match &manifest.body {
            Body::Disk(disk) => match found {
                Some(found) if found.is_block_device() => Kind::Device(Device::open(path, disk)?),
                Some(found) if found.is_dir() => {
                    return Err(Error::refused(path, "it is a directory, the image is a disk: name a device or a file"));
                }
                Some(found) if !found.is_file() => {
                    return Err(Error::refused(path, "it is neither a block device nor a regular file"));
                }
                _ => Kind::File(ImageFile::open(path, disk, options)?),
            },
            Body::Tree(tree) => match found {
                _ if options.resume => {
                    return Err(Error::refused(path, "a tree of files cannot be resumed, only a disk image can; leave --resume out"));
                }
                Some(found) if !found.is_dir() => {
                    return Err(Error::refused(path, "the image is a tree of files: name a directory"));
                }
                _ => Kind::Tree(Box::new(Tree::open(path, tree, options.force)?)),
            },
        };
        let mut target = Self { path: path.to_owned(), kind, begun: false, present: Present::none(manifest) };
        if !options.resume {
            target.begin(manifest, &Places::new(manifest))?;
        }
        Ok(target)
    }

    /// Finds the chunks that the target holds already at all their places, by reading it: as many reads in flight as a disk wants, and
    /// hashing on all cores. They need not be written. Changes nothing. A chunk that cannot be read counts as missing.
    ///
    /// # Errors
    /// When io_uring or memory is not to be had, or `stop` was set.
    pub fn find_present(&mut self, manifest: &Manifest, progress: &ScanProgress, stop: &AtomicBool) -> Result<Present> {
        let (file, direct_bytes) = match &self.kind {
            Kind::Device(device) => (device.file(), device.direct_bytes()),
            Kind::File(target) => (target.file(), target.direct_bytes),
            Kind::Tree(_) => return Ok(self.present.clone()),
        };
        if !self.begun {
            self.present = present::find(manifest, file, direct_bytes, progress, stop)?;
        }
        Ok(self.present.clone())
    }

    /// The chunks that need not be written.
    pub(super) fn present(&self) -> &Present {
        &self.present
    }

    /// The first step that changes the target, if it has not been taken.
    pub(super) fn begin(&mut self, manifest: &Manifest, places: &Places) -> Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        match (&mut self.kind, &manifest.body) {
            (Kind::Device(device), Body::Disk(disk)) => {
                let kept = (0..manifest.chunks.len()).filter(|&chunk| self.present.has(chunk));
                device.begin(disk, kept.flat_map(|chunk| places.of_chunk(chunk)))
            }
            (Kind::File(file), Body::Disk(disk)) => file.begin(disk),
            // A tree begins when it is opened.
            _ => Ok(()),
        }
    }

    /// What was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One line each on what is not as one would expect: no O_DIRECT, owners that cannot be set.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        match &self.kind {
            Kind::Device(device) => device.notes.clone(),
            Kind::File(file) => file.notes.clone(),
            Kind::Tree(tree) => tree.notes(),
        }
    }

    /// The file or device that a place is in, as messages name it.
    pub(super) fn path_of(&self, file: u32) -> PathBuf {
        match &self.kind {
            Kind::Device(_) => self.path.clone(),
            Kind::File(target) => target.partial_path().to_owned(),
            Kind::Tree(tree) => tree.path_of(file),
        }
    }

    /// What of a place has to be written now. `raw` is the place's bytes; a device keeps some back.
    pub(super) fn run(&mut self, place: &Place, raw: &[u8]) -> Option<Run> {
        let run = Run { target_offset: place.target_offset, raw_offset: place.raw_offset, length: place.length };
        match &mut self.kind {
            Kind::Device(device) => device.run(run, raw),
            Kind::File(target) => Some(direct::padded(run, target.direct_bytes)),
            Kind::Tree(tree) => Some(direct::padded(run, tree.direct_bytes())),
        }
    }

    /// The file that a place is in, opened when necessary. It stays open until [`Target::written`] was called as often as this.
    pub(super) fn begin_write(&mut self, file: u32) -> Result<BorrowedFd<'_>> {
        match &mut self.kind {
            Kind::Device(device) => Ok(device.fd()),
            Kind::File(target) => Ok(target.fd()),
            Kind::Tree(tree) => tree.begin_write(file),
        }
    }

    /// The file of a write that is in flight.
    pub(super) fn fd(&self, file: u32) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::Device(device) => Some(device.fd()),
            Kind::File(target) => Some(target.fd()),
            Kind::Tree(tree) => tree.open_fd(file),
        }
    }

    /// Notes that a place has been written; a file that has all its data gets its metadata.
    pub(super) fn written(&mut self, file: u32, length: u64) -> Result<()> {
        match &mut self.kind {
            Kind::Device(_) | Kind::File(_) => Ok(()),
            Kind::Tree(tree) => tree.written(file, length),
        }
    }

    /// A thread that flushes what has been written so far.
    ///
    /// # Errors
    /// When the system has no file descriptor left.
    pub(super) fn flusher(&self) -> Result<Flusher> {
        let failed = Error::io("opening a second time", &self.path);
        let flusher = match &self.kind {
            Kind::Device(device) => device.file().try_clone().map(|file| Flusher::start(&self.path, move || file.sync_data())),
            Kind::File(target) => target.file().try_clone().map(|file| Flusher::start(&self.path, move || file.sync_data())),
            // What else is written to its file system is flushed with it, as at the end.
            Kind::Tree(tree) => tree.directory().map(|directory| Flusher::start(&self.path, move || Ok(syncfs(&directory)?))),
        };
        flusher.map_err(failed)
    }

    /// Whether writes that are started now use O_DIRECT and may do without it when the kernel refuses one. A device that was opened with
    /// O_DIRECT takes every aligned write: there an error means something else.
    pub(super) fn can_fall_back(&self) -> bool {
        match &self.kind {
            Kind::Device(_) => false,
            Kind::File(target) => target.direct_bytes > 0,
            Kind::Tree(tree) => tree.direct_bytes() > 0,
        }
    }

    /// Goes on without O_DIRECT.
    pub(super) fn fall_back(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Device(_) => Ok(()),
            Kind::File(target) => target.fall_back(),
            Kind::Tree(tree) => tree.fall_back(),
        }
    }

    /// Everything after the data: zeros, metadata, flushing, and the step that makes it look whole. Returns [`Target::notes`].
    pub(super) fn finish(self) -> Result<Vec<String>> {
        match self.kind {
            Kind::Device(device) => device.finish(),
            Kind::File(target) => target.finish(),
            Kind::Tree(tree) => tree.finish(),
        }
    }
}
