//! A disk image in memory: for tests and fuzzing.

use std::ops::Range;
use std::path::Path;

use super::DiskImage;
use crate::{Error, Result};

/// First bytes of the sparse form.
const SPARSE_MAGIC: &[u8; 8] = b"SPARSED1";
/// The largest disk in sparse form: nobody fuzzes with more, and what readers do with a disk's size takes time.
const SPARSE_BYTES_MAX: u64 = 1 << 30;

/// The bytes of a slice as a disk without holes. Or, when they begin with `SPARSED1`, a small slice as a large disk, so that fuzzers have few
/// bytes to change: its size (8 bytes, little-endian, at most 1 GiB is believed), then runs of an offset (8 bytes), a length (4 bytes) and so many
/// bytes; the rest is zero, and of runs that overlap the last one counts.
pub(crate) struct SliceImage<'a>(pub(crate) &'a [u8]);

impl<'a> SliceImage<'a> {
    /// Size and runs of the sparse form.
    fn sparse(&self) -> Option<(u64, impl Iterator<Item = (u64, &'a [u8])>)> {
        let (size_bytes, mut rest) = self.0.strip_prefix(SPARSE_MAGIC)?.split_first_chunk()?;
        let runs = std::iter::from_fn(move || {
            let (offset, after) = rest.split_first_chunk()?;
            let (length, after) = after.split_first_chunk()?;
            let length = (u32::from_le_bytes(*length) as usize).min(after.len());
            let (bytes, after) = after.split_at(length);
            rest = after;
            Some((u64::from_le_bytes(*offset), bytes))
        });
        Some((u64::from_le_bytes(*size_bytes).min(SPARSE_BYTES_MAX), runs))
    }
}

impl DiskImage for SliceImage<'_> {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn size_bytes(&self) -> u64 {
        self.sparse().map_or(self.0.len() as u64, |(size_bytes, _)| size_bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|&end| end <= self.size_bytes());
        let end = end.ok_or_else(|| Error::SourceChanged { path: self.path().to_owned() })?;
        let Some((_, runs)) = self.sparse() else {
            buffer.copy_from_slice(&self.0[offset as usize..end as usize]);
            return Ok(());
        };
        buffer.fill(0);
        for (start, bytes) in runs {
            let common = start.max(offset)..start.saturating_add(bytes.len() as u64).min(end);
            if !common.is_empty() {
                let (from, to) = ((common.start - start) as usize, (common.start - offset) as usize);
                let length = (common.end - common.start) as usize;
                buffer[to..to + length].copy_from_slice(&bytes[from..from + length]);
            }
        }
        Ok(())
    }

    fn next_stored(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let size_bytes = self.size_bytes();
        let Some((_, runs)) = self.sparse() else {
            return Ok((offset < size_bytes).then_some(offset..size_bytes));
        };
        let runs = runs.map(|(start, bytes)| start.max(offset)..start.saturating_add(bytes.len() as u64).min(size_bytes));
        Ok(runs.filter(|run| !run.is_empty()).min_by_key(|run| run.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_slice_can_be_a_large_disk() {
        let mut bytes = SPARSE_MAGIC.to_vec();
        bytes.extend_from_slice(&(1u64 << 29).to_le_bytes());
        for (offset, run) in [(4096u64, &b"first"[..]), (8192, b"second"), (4098, b"RST"), (u64::MAX, b"nowhere")] {
            bytes.extend_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(&(run.len() as u32).to_le_bytes());
            bytes.extend_from_slice(run);
        }
        let disk = SliceImage(&bytes);
        assert_eq!(disk.size_bytes(), 1 << 29);
        let mut buffer = [0xff; 8];
        disk.read_at(4095, &mut buffer).unwrap();
        assert_eq!(&buffer, b"\0fiRST\0\0");
        assert!(disk.read_at((1 << 29) - 7, &mut buffer).is_err());
        assert_eq!(disk.next_stored(0).unwrap(), Some(4096..4101));
        assert_eq!(disk.next_stored(5000).unwrap(), Some(8192..8198));
        assert_eq!(disk.next_stored(9000).unwrap(), None);
    }
}
