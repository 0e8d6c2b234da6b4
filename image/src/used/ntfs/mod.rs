//! NTFS: used are the clusters that `$Bitmap` marks, without those that the table of files has in stock, and what follows the last sector (the backup
//! of the boot sector).
//!
//! Numbers on disk are little-endian. Layouts: include/ntfs-3g/layout.h of ntfs-3g and fs/ntfs3/ntfs.h of Linux.

mod bitmap;
mod boot_sector;
mod hibernation;
mod record;
mod state;

use boot_sector::BootSector;
use record::{MasterFileTable, system_file};

use super::fields::{Stop, finding};
use super::{Finding, Ranges};
use crate::Result;
use crate::disk_image::{DiskImage, Part};

/// What is in use of `volume`; `None` when it is not NTFS.
///
/// # Errors
/// When the volume cannot be read.
pub(super) fn probe(volume: &Part<'_>) -> Result<Option<Finding>> {
    match boot_sector::recognised(volume) {
        Ok(true) => finding("ntfs", used(volume)).map(Some),
        Ok(false) | Err(Stop::Whole(_)) => Ok(None),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

fn used(volume: &Part<'_>) -> Result<Ranges, Stop> {
    let boot = BootSector::read(volume)?;
    let table = MasterFileTable::read(volume, &boot)?;
    state::check(&table)?;
    hibernation::check(&table)?;

    let bitmap = table.record(system_file::BITMAP)?.complete_data()?;
    let used = bitmap::used(&table, &bitmap)?;
    for (what, runs) in [("its table of files", table.runs()), ("its bitmap of clusters", &bitmap.runs)] {
        if !runs
            .ranges(&boot)
            .all(|range| used.next_from(range.start).is_some_and(|held| held.start <= range.start && range.end <= held.end))
        {
            return Err(Stop::damaged(format_args!("clusters of {what} are free")));
        }
    }
    if used.next_from(0).is_none_or(|first| first.start != 0) {
        return Err(Stop::damaged("the cluster of its boot sector is free"));
    }
    let mut used = used.without(&table.unwritten().collect());
    used.push(boot.end..volume.size_bytes());
    Ok(used)
}
