//! Master boot records and the chain of extended ones, in sectors of 512 bytes (util-linux, libfdisk/src/dos.c).

use super::Partition;
use crate::Result;
use crate::disk_image::DiskImage;
use crate::used::fields::Fields;

const SECTOR_BYTES: u64 = 512;
/// More logical partitions than anybody makes; a chain that goes round in a circle ends here.
const LOGICAL_MAX: u32 = 128;

/// What the first sector says.
pub(super) enum Found {
    Nothing,
    Odd(String),
    /// Its partitions are those of a GUID partition table.
    Protective,
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
fn entries(disk: &dyn DiskImage, sector: u64) -> Result<Option<[Option<Entry>; 4]>> {
    let mut bytes = [0; SECTOR_BYTES as usize];
    // Sectors are sums of 32-bit numbers.
    if (sector + 1) * SECTOR_BYTES > disk.size_bytes() {
        return Ok(None);
    }
    disk.read_at(sector * SECTOR_BYTES, &mut bytes)?;
    let record = Fields(&bytes);
    let at = |entry: usize| 446 + entry * 16;
    if record.le16(510) != 0xaa55 || !(0..4).all(|entry| record.u8(at(entry)) & 0x7f == 0) {
        return Ok(None);
    }
    Ok(Some(std::array::from_fn(|entry| {
        let (kind, first_sector, sectors) = (record.u8(at(entry) + 4), record.le32(at(entry) + 8), record.le32(at(entry) + 12));
        (kind != 0 && sectors != 0).then(|| Entry { kind, first_sector: first_sector.into(), sectors: sectors.into() })
    })))
}

pub(super) fn read(disk: &dyn DiskImage) -> Result<Found> {
    let Some(primary) = entries(disk, 0)? else { return Ok(Found::Nothing) };
    if primary.iter().flatten().any(|entry| entry.kind == 0xee) {
        return Ok(Found::Protective);
    }
    let mut partitions = Vec::new();
    let mut extended = None;
    for (number, entry) in (1..).zip(&primary) {
        match entry {
            Some(entry) if entry.first_sector == 0 => return Ok(Found::Odd(format!("partition {number} covers the partition table"))),
            Some(entry) if entry.is_extended() && extended.replace(entry).is_some() => {
                return Ok(Found::Odd("it has two extended partitions".into()));
            }
            Some(entry) if !entry.is_extended() => partitions.push(entry.partition(number, 0)),
            _ => {}
        }
    }
    if let Some(extended) = extended
        && let Err(why) = read_logical(disk, extended, &mut partitions)?
    {
        return Ok(Found::Odd(why));
    }
    Ok(Found::Partitions(partitions))
}

/// Follows the chain of extended boot records. Each holds one logical partition, counted from the record, and the place of the next record,
/// counted from the extended partition.
fn read_logical(disk: &dyn DiskImage, extended: &Entry, partitions: &mut Vec<Partition>) -> Result<Result<(), String>> {
    let mut record_sector = extended.first_sector;
    let end = extended.first_sector + extended.sectors;
    for number in 5..5 + LOGICAL_MAX {
        let Some([logical, next, ..]) = entries(disk, record_sector)? else {
            // An extended partition may be empty: nothing was ever written there.
            return Ok(if number == 5 { Ok(()) } else { Err("the chain of its logical partitions is broken".into()) });
        };
        if let Some(logical) = logical.filter(|logical| !logical.is_extended()) {
            let partition = logical.partition(number, record_sector);
            if logical.first_sector == 0 || partition.range.end > end * SECTOR_BYTES {
                return Ok(Err(format!("partition {number} does not lie within the extended partition")));
            }
            partitions.push(partition);
        }
        match next {
            Some(next) if next.is_extended() => record_sector = extended.first_sector + next.first_sector,
            _ => return Ok(Ok(())),
        }
        if record_sector >= end {
            return Ok(Err("the chain of its logical partitions leaves the extended partition".into()));
        }
    }
    Ok(Err("the chain of its logical partitions does not end".into()))
}
