//! A linear logical volume as a disk: pieces of its physical volume one after another.

use std::ops::Range;
use std::path::Path;

use crate::Result;
use crate::disk_image::{DiskImage, Part};

pub(super) struct LogicalVolume<'a> {
    physical: &'a Part<'a>,
    /// Where each piece begins in the logical volume, and its bytes of the physical one.
    runs: Vec<(u64, Range<u64>)>,
    size_bytes: u64,
}

impl<'a> LogicalVolume<'a> {
    /// The runs lie within `physical`.
    pub(super) fn new(physical: &'a Part<'a>, runs: Vec<Range<u64>>) -> Self {
        let mut size_bytes = 0;
        let start = |run: Range<u64>| {
            let start = size_bytes;
            size_bytes += run.end - run.start;
            (start, run)
        };
        let runs = runs.into_iter().map(start).collect();
        Self { physical, runs, size_bytes }
    }

    /// Where bytes of the logical volume are.
    pub(super) fn physical(&self, logical: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.runs.partition_point(|(start, run)| start + (run.end - run.start) <= logical.start);
        let rest = self.runs.iter().skip(first).take_while(move |(start, _)| *start < logical.end);
        rest.map(move |(start, run)| {
            let end = logical.end.min(start + (run.end - run.start));
            run.start + (logical.start.max(*start) - start)..run.start + (end - start)
        })
    }
}

impl DiskImage for LogicalVolume<'_> {
    fn path(&self) -> &Path {
        self.physical.path()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut rest = buffer;
        for run in self.physical(offset..offset.saturating_add(rest.len() as u64)) {
            // No longer than the buffer.
            let (piece, next) = rest.split_at_mut((run.end - run.start) as usize);
            self.physical.read_at(run.start, piece)?;
            rest = next;
        }
        if rest.is_empty() { Ok(()) } else { self.physical.read_at(u64::MAX, rest) }
    }

    fn next_stored(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let mut logical = offset;
        for run in self.physical(offset..self.size_bytes) {
            if let Some(stored) = self.physical.next_stored(run.start)?.filter(|stored| stored.start < run.end) {
                let start = logical + (stored.start - run.start);
                return Ok(Some(start..start + (stored.end.min(run.end) - stored.start)));
            }
            logical += run.end - run.start;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk_image::SliceImage;

    #[test]
    fn pieces_follow_each_other() {
        let disk: Vec<u8> = (0..100).collect();
        let image = SliceImage(&disk);
        let part = Part::whole(&image);
        let volume = LogicalVolume::new(&part, vec![50..60, 10..15, 90..100]);
        assert_eq!(volume.size_bytes(), 25);
        let mut bytes = [0; 9];
        volume.read_at(8, &mut bytes).unwrap();
        assert_eq!(bytes, [58, 59, 10, 11, 12, 13, 14, 90, 91]);
        assert_eq!(volume.physical(9..12).collect::<Vec<_>>(), [59..60, 10..12]);
        assert_eq!(volume.next_stored(12).unwrap(), Some(12..15));
        assert!(volume.read_at(20, &mut bytes).is_err());
    }
}
