//! GUID partition tables (UEFI specification 2.10, section 5.3), in sectors of 512 or 4096 bytes. The backup at the end of the disk is used
//! when the primary table is damaged.

use super::Partition;
use crate::Result;
use crate::disk_image::DiskImage;
use crate::used::fields::Fields;

/// Bytes of the header that are defined.
const HEADER_BYTES: usize = 92;
/// 128 entries of 128 bytes are usual; nobody needs more than 1 MiB of them.
const ENTRIES_BYTES_MAX: u64 = 1 << 20;

type Found = (Vec<Partition>, Option<String>);

/// The partitions, and a note when the primary table was of no use; or why there is no table.
pub(super) fn read(disk: &dyn DiskImage) -> Result<Result<Found, String>> {
    for sector_bytes in [512, 4096] {
        if let Some(partitions) = read_table(disk, sector_bytes, 1)? {
            return Ok(Ok((partitions, None)));
        }
    }
    for sector_bytes in [512, 4096] {
        let last = (disk.size_bytes() / sector_bytes).saturating_sub(1);
        if let Some(partitions) = read_table(disk, sector_bytes, last)? {
            let note = "the primary GUID partition table is damaged, its backup was used".to_owned();
            return Ok(Ok((partitions, Some(note))));
        }
    }
    Ok(Err("both its GUID partition tables are damaged".into()))
}

/// The table whose header is in sector `header_sector`, if there is one and its checksums are right.
fn read_table(disk: &dyn DiskImage, sector_bytes: u64, header_sector: u64) -> Result<Option<Vec<Partition>>> {
    let size_bytes = disk.size_bytes();
    let within = |offset: u64, length: u64| offset.checked_add(length).is_some_and(|end| end <= size_bytes);
    let Some(offset) = header_sector.checked_mul(sector_bytes).filter(|&offset| within(offset, sector_bytes)) else { return Ok(None) };
    let mut bytes = vec![0; sector_bytes as usize];
    disk.read_at(offset, &mut bytes)?;
    let header_bytes = Fields(&bytes).le32(12) as usize;
    let Some(checked) = bytes.get(..header_bytes).filter(|header| header.starts_with(b"EFI PART") && header.len() >= HEADER_BYTES) else {
        return Ok(None);
    };
    let header = Fields(checked);
    // Its own field counts as zeros.
    let mut sum = crc32fast::Hasher::new();
    sum.update(header.bytes(0, 16));
    sum.update(&[0; 4]);
    sum.update(checked.get(20..).unwrap_or_default());
    if sum.finalize() != header.le32(16) || header.le64(24) != header_sector {
        return Ok(None);
    }
    let (first, count, entry_bytes, entries_sum) = (header.le64(72), header.le32(80), header.le32(84), header.le32(88));
    let entries_bytes = u64::from(count) * u64::from(entry_bytes);
    let Some(entries_offset) = first.checked_mul(sector_bytes).filter(|&offset| within(offset, entries_bytes)) else { return Ok(None) };
    if entry_bytes < 128 || entries_bytes > ENTRIES_BYTES_MAX {
        return Ok(None);
    }
    let mut entries = vec![0; entries_bytes as usize];
    disk.read_at(entries_offset, &mut entries)?;
    if crc32fast::hash(&entries) != entries_sum {
        return Ok(None);
    }
    let used = (1..).zip(entries.chunks_exact(entry_bytes as usize)).filter(|(_, entry)| entry.iter().take(16).any(|&byte| byte != 0));
    Ok(Some(used.map(|(number, entry)| partition(number, Fields(entry), sector_bytes)).collect()))
}

/// A partition of one entry. Sectors that no disk has become an empty range, which the caller refuses.
fn partition(number: u32, entry: Fields<'_>, sector_bytes: u64) -> Partition {
    let (first, last) = (entry.le64(32), entry.le64(40));
    let end = last.checked_add(1).and_then(|end| end.checked_mul(sector_bytes));
    let range = first.checked_mul(sector_bytes).zip(end).map_or(0..0, |(start, end)| start..end);
    Partition { number, range }
}
