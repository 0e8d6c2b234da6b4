//! Sources of images: each is scanned from front to back, once per pass, and hands its content to a [`PageSink`]. Sources need not
//! seek, so that compressed and streamed ones fit the same trait.

mod archive;
mod compressed_disk;
mod compression;
mod detect;
mod disk;
mod file_runs;
mod tree;

use std::path::Path;

use crate::manifest::Entry;
use crate::{ImageKind, Result};

pub(crate) use archive::{fuzz_oci, fuzz_tar};
pub use detect::{Format, open};
pub use disk::DiskSource;
pub use tree::TreeSource;

/// Something an image can be packed from.
pub trait Source: Send {
    /// Disk or tree.
    fn kind(&self) -> ImageKind;

    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// Hands over the whole content, from front to back. Called once per pass; each call gives the same unless somebody changes
    /// the source meanwhile, which the caller finds out.
    ///
    /// # Errors
    /// Those of reading, and those of `sink`.
    fn scan(&mut self, sink: &mut dyn PageSink) -> Result<()>;

    /// Roughly how many bytes a scan will read: for a progress line.
    fn estimated_bytes(&self) -> u64;

    /// What the operator should know of it: what was left out, and what could not be understood. Complete once it is open.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// How sources are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceOptions {
    /// Pack free blocks of filesystems too.
    pub all_blocks: bool,
    /// Read a block device although it is mounted read-write.
    pub force: bool,
    /// Take regular files for this, whatever they look like. A raw image whose first bytes its users could write should not be looked at: they may have
    /// written another format's header there. Block devices are always raw, and directories what they are.
    pub format: Option<Format>,
    /// Follow the backing files that a qcow2 image names wherever they are, and not only beside it.
    pub backing_anywhere: bool,
}

/// Takes the content of a source. Runs come in ascending order and without gaps, for a disk from 0 to its end, for a file of a tree from 0
/// to its size after the file's [`PageSink::entry`].
pub trait PageSink {
    /// The next entry of a tree, parents before children. The extents of a file are left empty. Returns at once; the runs that
    /// follow belong to this entry.
    ///
    /// # Errors
    /// When packing has failed elsewhere.
    fn entry(&mut self, entry: Entry) -> Result<()>;

    /// A run of data, cut into pages from its first byte: a partition that does not begin at a page of the disk is given as a run of
    /// its own, so that its pages are found elsewhere too. `read` is called with buffers to be filled with the run's next bytes.
    ///
    /// # Errors
    /// Those of `read`, or when packing has failed elsewhere.
    fn data(&mut self, target_offset: u64, length: u64, read: &mut ReadRun<'_>) -> Result<()>;

    /// A run that the source does not store and that reads as zeros.
    ///
    /// # Errors
    /// When packing has failed elsewhere.
    fn hole(&mut self, target_offset: u64, length: u64) -> Result<()>;
}

/// Fills a buffer with the next bytes of a run, entirely.
pub type ReadRun<'a> = dyn FnMut(&mut [u8]) -> Result<()> + 'a;
