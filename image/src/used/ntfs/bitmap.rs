//! `$Bitmap` of NTFS: a bit for each cluster, the lowest of a byte first.

use super::super::Ranges;
use super::super::bitmap::runs;
use super::super::fields::Stop;
use super::record::{MasterFileTable, Stream};

/// Bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// The bytes of all clusters that are marked.
pub(super) fn used(table: &MasterFileTable<'_>, bitmap: &Stream) -> Result<Ranges, Stop> {
    let boot = table.boot;
    let needed_bytes = boot.clusters.div_ceil(8);
    if bitmap.length_bytes.min(bitmap.written_bytes) < needed_bytes {
        return Err(Stop::damaged("its bitmap of clusters is too short"));
    }
    let mut used = Ranges::default();
    let mut buffer = vec![0; READ_BYTES as usize];
    for offset in (0..needed_bytes).step_by(READ_BYTES as usize) {
        buffer.truncate((needed_bytes - offset).min(READ_BYTES) as usize);
        table.read_runs(&bitmap.runs, offset, &mut buffer)?;
        let first = offset * 8;
        for run in runs(&buffer, boot.clusters - first) {
            used.push((first + run.start) * boot.cluster_bytes..(first + run.end) * boot.cluster_bytes);
        }
    }
    Ok(used)
}
