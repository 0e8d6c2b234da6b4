//! A disk image as a source: its bytes in order, without what it does not store.

use std::path::Path;

use super::file_runs::scan_runs;
use super::{PageSink, Source};
use crate::disk_image::DiskImage;
use crate::{ImageKind, Result};

/// A disk image of any format.
pub struct DiskSource {
    disk: Box<dyn DiskImage>,
}

impl DiskSource {
    /// The bytes of `disk`.
    #[must_use]
    pub fn new(disk: Box<dyn DiskImage>) -> Self {
        Self { disk }
    }
}

impl Source for DiskSource {
    fn kind(&self) -> ImageKind {
        ImageKind::Disk
    }

    fn path(&self) -> &Path {
        self.disk.path()
    }

    fn scan(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let disk = self.disk.as_ref();
        scan_runs(0..disk.size_bytes(), &|offset| disk.next_stored(offset), &|offset, buffer| disk.read_at(offset, buffer), sink)
    }

    fn estimated_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }
}
