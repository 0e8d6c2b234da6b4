//! Random access to the bytes of a disk, however they are stored: a raw file or block device, an image format, or a part of one of them.

mod qcow2;
mod raw;
mod slice;

use std::ops::Range;
use std::path::Path;

use crate::{Error, Result};

pub use qcow2::Qcow2Image;
pub use raw::RawImage;
pub(crate) use raw::next_data;
pub(crate) use slice::SliceImage;

/// A disk, or a part of one, whose bytes can be read anywhere.
pub trait DiskImage: Send + Sync {
    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// Its size in bytes.
    fn size_bytes(&self) -> u64;

    /// Fills `buffer` with the bytes from `offset` on. The caller stays below [`DiskImage::size_bytes`].
    ///
    /// # Errors
    /// When they cannot be read, or end before the buffer is full.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// The first range from `offset` on that is stored: it begins at `offset` or later and is not empty. What lies before it reads as zeros. `None`
    /// when nothing but zeros follows.
    ///
    /// # Errors
    /// When the image's own map cannot be read.
    fn next_stored(&self, offset: u64) -> Result<Option<Range<u64>>>;
}

/// A part of a disk as a disk of its own: a partition.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    disk: &'a dyn DiskImage,
    start: u64,
    size_bytes: u64,
}

impl<'a> Part<'a> {
    /// The bytes of `range`, which must lie within `disk`.
    ///
    /// # Errors
    /// When they do not.
    pub fn new(disk: &'a dyn DiskImage, range: Range<u64>) -> Result<Self> {
        if range.start > range.end || range.end > disk.size_bytes() {
            let why = format!("bytes {} to {} lie outside of it", range.start, range.end);
            return Err(Error::Source { path: disk.path().to_owned(), why });
        }
        Ok(Self { disk, start: range.start, size_bytes: range.end - range.start })
    }

    /// The whole of `disk`.
    #[must_use]
    pub fn whole(disk: &'a dyn DiskImage) -> Self {
        Self { disk, start: 0, size_bytes: disk.size_bytes() }
    }
}

impl DiskImage for Part<'_> {
    fn path(&self) -> &Path {
        self.disk.path()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        // A filesystem that lies about its size must not read its neighbour.
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.size_bytes) {
            let why = format!("{} bytes at {offset} are not all within the {} bytes of a partition", buffer.len(), self.size_bytes);
            return Err(Error::Source { path: self.path().to_owned(), why });
        }
        self.disk.read_at(self.start + offset, buffer)
    }

    fn next_stored(&self, offset: u64) -> Result<Option<Range<u64>>> {
        if offset >= self.size_bytes {
            return Ok(None);
        }
        let stored = self.disk.next_stored(self.start + offset)?;
        Ok(stored.and_then(|stored| {
            let range = stored.start - self.start..(stored.end - self.start).min(self.size_bytes);
            (!range.is_empty()).then_some(range)
        }))
    }
}
