//! A disk image in memory: for tests and fuzzing.

use std::ops::Range;
use std::path::Path;

use super::DiskImage;
use crate::{Error, Result};

/// The bytes of a slice as a disk without holes.
pub(crate) struct SliceImage<'a>(pub(crate) &'a [u8]);

impl DiskImage for SliceImage<'_> {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).and_then(|rest| rest.get(..buffer.len()));
        let bytes = bytes.ok_or_else(|| Error::SourceChanged { path: self.path().to_owned() })?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn next_stored(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Ok((offset < self.size_bytes()).then(|| offset..self.size_bytes()))
    }
}
