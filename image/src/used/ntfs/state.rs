//! Whether an NTFS volume was left in order: its dirty flag and its log.

use super::super::fields::{Stop, le16, le64, slice};
use super::record::{Attribute, MasterFileTable, attribute, system_file};

/// `VOLUME_IS_DIRTY`, of the flags in the volume's information.
const DIRTY: u16 = 1;
/// A restart page of the log is as long as a page of the processor that Windows runs on.
const RESTART_PAGE_BYTES: u64 = 4096;
/// In a restart area: no client uses the log; the volume was dismounted.
const NO_CLIENT: u16 = 0xffff;
const IS_CLEAN: u16 = 2;

/// Stops when the volume is dirty.
pub(super) fn check(table: &MasterFileTable<'_>) -> Result<(), Stop> {
    let volume = table.record(system_file::VOLUME)?;
    let Some(Attribute::Resident(information)) = volume.attribute(attribute::VOLUME_INFORMATION, &[])? else {
        return Err(Stop::damaged("the record of its volume has no version and flags"));
    };
    if le16(information, 10)? & DIRTY != 0 {
        return Err(Stop::Whole("it is marked as dirty: run chkdsk in Windows, or ntfsfix, before packing".into()));
    }
    if log_is_clean(table)? {
        Ok(())
    } else {
        Err(Stop::Whole("its log is not clean: shut Windows down fully (shutdown /s /f, without fast startup) before packing".into()))
    }
}

/// The rule of ntfs-3g's `ntfs_is_logfile_clean`: the newer one of two restart pages counts.
fn log_is_clean(table: &MasterFileTable<'_>) -> Result<bool, Stop> {
    let log = table.record(system_file::LOG)?.stream(attribute::DATA, &[])?;
    let log = log.ok_or_else(|| Stop::damaged("its log has no clusters"))?;
    let mut newest = None;
    for page in [0, RESTART_PAGE_BYTES] {
        let mut bytes = [0; 512];
        table.read_runs(&log.runs, page, &mut bytes)?;
        // Emptied by ntfs-3g or mkntfs.
        if page == 0 && bytes.iter().all(|byte| *byte == 0xff) {
            return Ok(true);
        }
        // A page that chkdsk went over has the magic CHKD: Windows has not been here since.
        if !bytes.starts_with(b"RSTR") {
            continue;
        }
        // The last two bytes of a sector belong to its update sequence: no area lies there.
        let area = slice(&bytes[..510], le16(&bytes, 24)?.into(), 16)?;
        let (sequence_number, client, flags) = (le64(area, 0)?, le16(area, 12)?, le16(area, 14)?);
        let clean = client == NO_CLIENT || flags & IS_CLEAN != 0;
        newest = newest.max(Some((sequence_number, clean)));
    }
    Ok(newest.is_some_and(|(_, clean)| clean))
}
