//! Partition tables: which parts of a disk are partitions. A table that is not plainly in order is reported as odd, and the disk is then
//! stored whole.

mod gpt;
mod mbr;

use std::ops::Range;

use super::fields::Stop;
use crate::Result;
use crate::disk_image::{DiskImage, Part};

/// The number of a partition as Linux counts, and its bytes on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) number: u32,
    pub(super) range: Range<u64>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// No table, or one without partitions.
    None,
    /// Something is wrong with it.
    Odd(String),
    /// At least one partition, ascending, without overlap, all within the disk.
    Partitions { partitions: Vec<Partition>, note: Option<String> },
}

/// Reads the partition table of a disk.
pub(super) fn read(disk: &dyn DiskImage) -> Result<Table> {
    match read_entries(&Part::whole(disk)) {
        Ok((partitions, _)) if partitions.is_empty() => Ok(Table::None),
        Ok((partitions, note)) => {
            let partitions = in_order(partitions, disk.size_bytes());
            Ok(partitions.map_or_else(Table::Odd, |partitions| Table::Partitions { partitions, note }))
        }
        Err(Stop::Whole(why)) => Ok(Table::Odd(why)),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

/// The partitions in any order, and a note.
fn read_entries(disk: &Part<'_>) -> Result<(Vec<Partition>, Option<String>), Stop> {
    match mbr::read(disk)? {
        mbr::Found::Protective => gpt::read(disk),
        mbr::Found::Partitions(partitions) => Ok((partitions, None)),
    }
}

fn in_order(mut partitions: Vec<Partition>, size_bytes: u64) -> Result<Vec<Partition>, String> {
    partitions.sort_by_key(|partition| partition.range.start);
    let mut end = 0;
    for Partition { number, range } in &partitions {
        if range.start >= range.end || range.end > size_bytes {
            return Err(format!("partition {number} does not lie within the disk"));
        }
        if range.start < end {
            return Err(format!("partition {number} overlaps another one"));
        }
        end = range.end;
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn partitions_that_overlap_or_leave_the_disk_are_odd() {
        let of = |ranges: &[Range<u64>]| {
            let partitions = (1..).zip(ranges).map(|(number, range)| Partition { number, range: range.clone() });
            in_order(partitions.collect(), 100).map(|partitions| partitions.iter().map(|p| p.number).collect::<Vec<_>>())
        };
        assert_eq!(of(&[50..100, 10..50]), Ok(vec![2, 1]));
        assert!(of(&[50..101]).is_err());
        assert!(of(&[10..51, 50..60]).is_err());
        assert!(of(&[10..10]).is_err());
    }
}
