//! GUID partition tables (UEFI specification 2.10, section 5.3), in sectors of 512 or 4096 bytes. The backup at the end of the disk is used
//! when the primary table is damaged.

use std::ops::Range;

use super::Partition;
use crate::disk_image::{DiskImage, Part};
use crate::used::fields::{Stop, le32, le64, read_vec, slice};

/// Bytes of the header that are defined.
const HEADER_BYTES: usize = 92;
/// 128 entries of 128 bytes are usual; nobody needs more than 1 MiB of them.
const ENTRIES_BYTES_MAX: u64 = 1 << 20;

/// The partitions, and a note when the primary table was of no use.
pub(super) fn read(disk: &Part<'_>) -> Result<(Vec<Partition>, Option<String>), Stop> {
    for sector_bytes in [512, 4096] {
        if let Some(partitions) = read_table(disk, sector_bytes, 1)? {
            return Ok((partitions, None));
        }
    }
    for sector_bytes in [512, 4096] {
        let last = (disk.size_bytes() / sector_bytes).saturating_sub(1);
        if let Some(partitions) = read_table(disk, sector_bytes, last)? {
            let note = "the primary GUID partition table is damaged, its backup was used".to_owned();
            return Ok((partitions, Some(note)));
        }
    }
    Err(Stop::Whole("its GUID partition table is damaged, and so is the backup".into()))
}

/// The table whose header is in sector `header_sector`, if there is one and its checksums are right.
fn read_table(disk: &Part<'_>, sector_bytes: u64, header_sector: u64) -> Result<Option<Vec<Partition>>, Stop> {
    let size_bytes = disk.size_bytes();
    let within = |offset: u64, length: u64| offset.checked_add(length).is_some_and(|end| end <= size_bytes);
    let Some(offset) = header_sector.checked_mul(sector_bytes).filter(|&offset| within(offset, sector_bytes)) else { return Ok(None) };
    let sector = read_vec(disk, offset, sector_bytes as usize)?;
    let header_bytes = le32(&sector, 12)? as usize;
    let Some(header) = sector.get(..header_bytes).filter(|header| header.starts_with(b"EFI PART") && header.len() >= HEADER_BYTES) else {
        return Ok(None);
    };
    // Its own field counts as zeros.
    let mut sum = crc32fast::Hasher::new();
    sum.update(slice(header, 0, 16)?);
    sum.update(&[0; 4]);
    sum.update(slice(header, 20, header_bytes - 20)?);
    if sum.finalize() != le32(header, 16)? || le64(header, 24)? != header_sector {
        return Ok(None);
    }
    let (first, count, entry_bytes, entries_sum) = (le64(header, 72)?, le32(header, 80)?, le32(header, 84)?, le32(header, 88)?);
    let entries_bytes = u64::from(count) * u64::from(entry_bytes);
    let Some(entries_offset) = first.checked_mul(sector_bytes).filter(|&offset| within(offset, entries_bytes)) else { return Ok(None) };
    if entry_bytes < 128 || entries_bytes > ENTRIES_BYTES_MAX {
        return Ok(None);
    }
    let entries = read_vec(disk, entries_offset, entries_bytes as usize)?;
    if crc32fast::hash(&entries) != entries_sum {
        return Ok(None);
    }
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks_exact(entry_bytes as usize)) {
        // An entry without a type is free.
        if slice(entry, 0, 16)? != [0; 16] {
            partitions.push(Partition { number, range: range(entry, sector_bytes)? });
        }
    }
    Ok(Some(partitions))
}

/// The bytes of one entry's partition. Sectors that no disk has become an empty range, which the caller refuses.
fn range(entry: &[u8], sector_bytes: u64) -> Result<Range<u64>, Stop> {
    let (first, last) = (le64(entry, 32)?, le64(entry, 40)?);
    let end = last.checked_add(1).and_then(|end| end.checked_mul(sector_bytes));
    Ok(first.checked_mul(sector_bytes).zip(end).map_or(0..0, |(start, end)| start..end))
}
