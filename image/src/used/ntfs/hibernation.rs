//! Whether Windows hibernates on an NTFS volume, or was shut down with fast startup, which is the same: it would go on with what it has in
//! memory, which the volume's structures do not show.

use super::super::fields::{Stop, le16, le32, le64, slice, u8_at};
use super::record::{Attribute, MasterFileTable, attribute, fix_up, system_file};

/// The index of names of a directory.
const NAMES: [u16; 4] = [b'$' as u16, b'I' as u16, b'3' as u16, b'0' as u16];
const FILE_NAME: &str = "hiberfil.sys";
/// More blocks of names in the root directory are not looked at.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Flag of an entry: the last one, which has no name.
const LAST: u16 = 2;

/// Stops when the root directory has a hibernation file that is in force.
pub(super) fn check(table: &MasterFileTable<'_>) -> Result<(), Stop> {
    let root = table.record(system_file::ROOT_DIRECTORY)?;
    root.require_complete()?;
    let Some(Attribute::Resident(index_root)) = root.attribute(attribute::INDEX_ROOT, &NAMES)? else {
        return Err(Stop::damaged("its root directory has no index"));
    };
    // index_root: type, collation, bytes of an index block, …; then the index header.
    let block_bytes = le32(index_root, 8)? as usize;
    check_entries(table, slice(index_root, 16, index_root.len().saturating_sub(16))?)?;
    let Some(blocks) = root.stream(attribute::INDEX_ALLOCATION, &NAMES)? else {
        return Ok(());
    };
    if !(512..=65536).contains(&block_bytes) || !block_bytes.is_power_of_two() {
        return Err(Stop::damaged("the blocks of its root directory have an impossible size"));
    }
    if blocks.length_bytes > INDEX_BYTES_MAX {
        return Err(Stop::Whole("its root directory is too large to be searched for a hibernation file".into()));
    }
    let mut block = vec![0; block_bytes];
    for number in 0..blocks.length_bytes.min(blocks.written_bytes) / block_bytes as u64 {
        table.read_runs(&blocks.runs, number * block_bytes as u64, &mut block)?;
        // Blocks that are not in use may hold anything.
        if fix_up(&mut block, b"INDX").is_ok() {
            check_entries(table, slice(&block, 24, block_bytes - 24)?)?;
        }
    }
    Ok(())
}

/// Looks at the entries behind an index header.
fn check_entries(table: &MasterFileTable<'_>, index: &[u8]) -> Result<(), Stop> {
    let (mut at, end) = (le32(index, 0)? as usize, le32(index, 4)? as usize);
    while at < end {
        let length = usize::from(le16(index, at + 8)?);
        let entry = slice(index, at, length)?;
        if length < 16 {
            return Err(Stop::damaged("an entry of its root directory is too short"));
        }
        if le16(entry, 12)? & LAST != 0 {
            return Ok(());
        }
        // file_name_attr at 16: its length in UTF-16 units at 64 of it, the name at 66.
        let name = slice(entry, 16 + 66, usize::from(u8_at(entry, 16 + 64)?) * 2)?;
        let name = name.as_chunks().0.iter().map(|unit| u8::try_from(u16::from_le_bytes(*unit)).unwrap_or(0).to_ascii_lowercase());
        if name.eq(FILE_NAME.bytes()) {
            // The upper 16 bits count how often the record was used again.
            check_file(table, le64(entry, 0)? & 0xffff_ffff_ffff)?;
        }
        at += length;
    }
    Ok(())
}

fn check_file(table: &MasterFileTable<'_>, record: u64) -> Result<(), Stop> {
    let record = table.record(record)?;
    if !record.is_in_use()? {
        return Ok(());
    }
    let Some(data) = record.stream(attribute::DATA, &[])? else {
        return Ok(());
    };
    let mut magic = [0; 4];
    if data.length_bytes.min(data.written_bytes) >= 4096 {
        table.read_runs(&data.runs, 0, &mut magic)?;
    }
    if magic.eq_ignore_ascii_case(b"hibr") {
        return Err(Stop::Whole(
            "Windows hibernates on it: shut it down fully (shutdown /s /f, without fast startup) before packing".into(),
        ));
    }
    Ok(())
}
