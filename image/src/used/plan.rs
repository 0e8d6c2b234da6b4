//! The plan of a disk: regions that cover it without gap, each with what of it is in use, and a line per partition for the operator.

use std::ops::Range;

use super::partitions::{self, Table};
use super::{Finding, Ranges, probe};
use crate::disk_image::{DiskImage, Part};
use crate::{Error, Result};

/// A run of the disk whose pages are counted from its own start: a partition, or what lies between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where it is on the disk.
    pub range: Range<u64>,
    /// Its bytes in use, counted from its start. `None`: all of them.
    pub used: Option<Ranges>,
}

impl Region {
    /// Bytes in use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used.as_ref().map_or(self.range.end - self.range.start, Ranges::bytes)
    }
}

/// What of a disk has to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Ascending, from 0 to the end of the disk without gap; none is empty.
    pub regions: Vec<Region>,
    /// What was found, and what could not be understood, a line each.
    pub notes: Vec<String>,
}

impl Plan {
    /// All of a disk of this size.
    #[must_use]
    pub fn whole(size_bytes: u64) -> Self {
        let mut plan = Self::default();
        plan.add(0..size_bytes, None);
        plan
    }

    /// Bytes in use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.regions.iter().map(Region::used_bytes).sum()
    }

    fn add(&mut self, range: Range<u64>, used: Option<Ranges>) {
        if !range.is_empty() {
            self.regions.push(Region { range, used });
        }
    }

    /// Adds a volume and says what it holds.
    fn add_volume(&mut self, disk: &dyn DiskImage, name: &str, range: Range<u64>) -> Result<()> {
        let found = probe(&Part::new(disk, range.clone())?)?;
        self.add_found(name, range, found);
        Ok(())
    }

    fn add_found(&mut self, name: &str, range: Range<u64>, found: Option<(Finding, Vec<String>)>) {
        let (finding, within) = found.unzip();
        self.notes.push(describe(name, finding.as_ref(), range.end - range.start));
        self.notes.extend(within.into_iter().flatten());
        let used = match finding {
            Some(Finding::Used { used, .. }) => Some(used),
            _ => None,
        };
        self.add(range, used);
    }
}

/// The line for the operator on a volume of so many bytes.
pub(super) fn describe(name: &str, finding: Option<&Finding>, bytes: u64) -> String {
    match finding {
        Some(Finding::Used { filesystem, used }) => format!("{name} ({filesystem}): {} used", of(used.bytes(), bytes)),
        Some(Finding::Whole { filesystem, why }) => format!("{name} ({filesystem}): packed whole, {}, because {why}", size(bytes)),
        None => format!("{name}: packed whole, {}, because no filesystem was recognised", size(bytes)),
    }
}

/// Finds the partitions of `disk`, and in each the bytes in use.
///
/// # Errors
/// Those of reading the disk. What cannot be understood is no error: it is stored whole.
pub fn plan(disk: &dyn DiskImage) -> Result<Plan> {
    let size_bytes = disk.size_bytes();
    let mut plan = Plan::default();
    let whole =
        |why: String| Ok(Plan { notes: vec![format!("packed whole, {}, because {why}", size(size_bytes))], ..Plan::whole(size_bytes) });
    let partitions = match (partitions::read(disk)?, probe(&Part::whole(disk))?) {
        // A filesystem's own boot sector may look like a table without entries. A table that is not understood counts for more than a
        // filesystem, which may be left over from an earlier use.
        (Table::Odd(why), _) => return whole(why),
        (Table::None, None) => return whole("neither partitions nor a filesystem were recognised".into()),
        (Table::None, Some(found)) => {
            plan.add_found("disk", 0..size_bytes, Some(found));
            return Ok(plan);
        }
        (Table::Partitions { .. }, Some((finding, _))) => {
            let filesystem = finding.filesystem();
            return whole(format!("it has both partitions and the signature of {filesystem}; wipefs shows and removes old signatures"));
        }
        (Table::Partitions { partitions, note }, None) => {
            plan.notes.extend(note);
            partitions
        }
    };
    let mut end = 0;
    let mut between = 0;
    for partition in partitions {
        // Boot loaders live here.
        plan.add(end..partition.range.start, None);
        between += partition.range.start.saturating_sub(end);
        end = partition.range.end;
        plan.add_volume(disk, &format!("partition {}", partition.number), partition.range)?;
    }
    plan.add(end..size_bytes, None);
    between += size_bytes.saturating_sub(end);
    if between > GAPS_USUAL_BYTES {
        plan.notes.push(format!("outside of partitions: packed whole, {}", size(between)));
    }
    let covered = plan.regions.iter().try_fold(0, |end, region| (region.range.start == end).then_some(region.range.end));
    if covered.unwrap_or(0) != size_bytes {
        // Cannot be: the partitions were checked to be in order.
        return Err(Error::Source { path: disk.path().to_owned(), why: "its partitions overlap; try --all-blocks".into() });
    }
    Ok(plan)
}

/// Tables, boot loaders and alignment take a few MiB; more is worth a note.
const GAPS_USUAL_BYTES: u64 = 16 << 20;

/// The unit in which a size is best read.
fn unit(bytes: u64) -> (f64, &'static str) {
    match bytes {
        0..=1023 => (1.0, "bytes"),
        1024..=1_048_575 => (1024.0, "KiB"),
        1_048_576..=1_073_741_823 => (1_048_576.0, "MiB"),
        _ => (1_073_741_824.0, "GiB"),
    }
}

fn size(bytes: u64) -> String {
    let (unit, name) = unit(bytes);
    let digits = usize::from(unit > 1.0);
    format!("{:.digits$} {name}", bytes as f64 / unit)
}

/// "1.2 of 8.0 GiB".
fn of(part: u64, bytes: u64) -> String {
    let ((part_unit, part_name), (_, name)) = (unit(part), unit(bytes));
    if part_name != name {
        return format!("{} of {}", size(part), size(bytes));
    }
    let digits = usize::from(part_unit > 1.0);
    format!("{:.digits$} of {}", part as f64 / part_unit, size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_the_unit_that_fits() {
        assert_eq!(of(1_288_490_188, 8 << 30), "1.2 of 8.0 GiB");
        assert_eq!(of(40 << 10, 8 << 30), "40.0 KiB of 8.0 GiB");
        assert_eq!(size(17), "17 bytes");
    }
}
