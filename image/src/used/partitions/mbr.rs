//! Master boot records and the chain of extended ones, in sectors of 512 bytes (util-linux, libfdisk/src/dos.c).

use super::Partition;
use crate::disk_image::{DiskImage, Part};
use crate::used::fields::{Stop, le16, le32, read as read_at, u8_at};

const SECTOR_BYTES: u64 = 512;
/// More logical partitions than anybody makes; a chain that goes round in a circle ends here.
const LOGICAL_MAX: u32 = 128;

/// What the first sector says.
pub(super) enum Found {
    /// The partitions are those of a GUID partition table.
    Protective,
    /// In any order; none when there is no table.
    Partitions(Vec<Partition>),
}

/// An entry that is in use.
struct Entry {
    kind: u8,
    first_sector: u64,
    sectors: u64,
}

impl Entry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    /// The partition, its first sector counted from `base`.
    fn partition(&self, number: u32, base: u64) -> Partition {
        let start = base + self.first_sector;
        Partition { number, range: start * SECTOR_BYTES..(start + self.sectors) * SECTOR_BYTES }
    }
}

/// The four entries of a boot record; `None` when it is none.
fn entries(disk: &Part<'_>, sector: u64) -> Result<Option<[Option<Entry>; 4]>, Stop> {
    let mut record = [0; SECTOR_BYTES as usize];
    // Sectors are sums of 32-bit numbers.
    if (sector + 1) * SECTOR_BYTES > disk.size_bytes() {
        return Ok(None);
    }
    read_at(disk, sector * SECTOR_BYTES, &mut record)?;
    if le16(&record, 510)? != 0xaa55 {
        return Ok(None);
    }
    let mut entries = [const { None }; 4];
    for (number, entry) in entries.iter_mut().enumerate() {
        let at = 446 + number * 16;
        // Only "active" or nothing; anything else is a boot sector's code.
        if u8_at(&record, at)? & 0x7f != 0 {
            return Ok(None);
        }
        let (kind, first_sector, sectors) = (u8_at(&record, at + 4)?, le32(&record, at + 8)?, le32(&record, at + 12)?);
        *entry = (kind != 0 && sectors != 0).then(|| Entry { kind, first_sector: first_sector.into(), sectors: sectors.into() });
    }
    Ok(Some(entries))
}

pub(super) fn read(disk: &Part<'_>) -> Result<Found, Stop> {
    let Some(primary) = entries(disk, 0)? else { return Ok(Found::Partitions(Vec::new())) };
    if primary.iter().flatten().any(|entry| entry.kind == 0xee) {
        return Ok(Found::Protective);
    }
    let mut partitions = Vec::new();
    let mut extended = None;
    for (number, entry) in (1..).zip(&primary) {
        match entry {
            Some(entry) if entry.first_sector == 0 => return Err(Stop::Whole(format!("partition {number} covers the partition table"))),
            Some(entry) if !entry.is_extended() => partitions.push(entry.partition(number, 0)),
            Some(_) if extended.is_some() => return Err(Stop::Whole("it has two extended partitions".into())),
            Some(entry) => extended = Some(entry),
            None => {}
        }
    }
    if let Some(extended) = extended {
        read_logical(disk, extended, &mut partitions)?;
    }
    Ok(Found::Partitions(partitions))
}

/// Follows the chain of extended boot records. Each holds one logical partition, counted from the record, and the place of the next record,
/// counted from the extended partition.
fn read_logical(disk: &Part<'_>, extended: &Entry, partitions: &mut Vec<Partition>) -> Result<(), Stop> {
    let odd = |what: &str| Err(Stop::Whole(format!("the chain of its logical partitions {what}")));
    let mut record_sector = extended.first_sector;
    let end = extended.first_sector + extended.sectors;
    for number in 5..5 + LOGICAL_MAX {
        let Some([logical, next, ..]) = entries(disk, record_sector)? else {
            // An extended partition may be empty: nothing was ever written there.
            return if number == 5 { Ok(()) } else { odd("is broken") };
        };
        if let Some(logical) = logical.filter(|logical| !logical.is_extended()) {
            let partition = logical.partition(number, record_sector);
            if logical.first_sector == 0 || partition.range.end > end * SECTOR_BYTES {
                return Err(Stop::Whole(format!("partition {number} does not lie within the extended partition")));
            }
            partitions.push(partition);
        }
        match next {
            Some(next) if next.is_extended() => record_sector = extended.first_sector + next.first_sector,
            _ => return Ok(()),
        }
        if record_sector >= end {
            return odd("leaves the extended partition");
        }
    }
    odd("does not end")
}
