//! The boot sector of NTFS: sizes, and where the table of files begins.

use super::super::fields::{Stop, le16, le64, read, read_vec, u8_at};
use crate::disk_image::{DiskImage, Part};

/// What of the boot sector the reader needs.
pub(super) struct BootSector {
    /// Bytes of a cluster, the unit of allocation.
    pub(super) cluster_bytes: u64,
    /// How many clusters there are.
    pub(super) clusters: u64,
    /// Where the volume ends: there is the backup of the boot sector. Less than a cluster may lie before it that belongs to nobody.
    pub(super) end: u64,
    /// The first cluster of `$MFT`.
    pub(super) table_cluster: u64,
    /// Bytes of a record of `$MFT`.
    pub(super) record_bytes: usize,
}

/// Whether the volume begins with a boot sector of NTFS.
pub(super) fn recognised(volume: &Part<'_>) -> Result<bool, Stop> {
    let mut sector = [0; 512];
    read(volume, 0, &mut sector)?;
    Ok(sector.get(3..11) == Some(b"NTFS    ") && sector.ends_with(&[0x55, 0xaa]))
}

impl BootSector {
    /// Reads and checks it.
    pub(super) fn read(volume: &Part<'_>) -> Result<Self, Stop> {
        let impossible = || Stop::damaged("the sizes in its boot sector are impossible");
        let bytes = read_vec(volume, 0, 512)?;
        let sector_bytes = u64::from(le16(&bytes, 11)?);
        // Above 128 it is a negative power of two: clusters beyond 64 KiB.
        let sectors_per_cluster = match u8_at(&bytes, 13)? {
            count @ 1..=128 if count.is_power_of_two() => u64::from(count),
            exponent @ 244..=255 => 1 << (256 - u32::from(exponent)),
            _ => return Err(impossible()),
        };
        if !(256..=4096).contains(&sector_bytes) || !sector_bytes.is_power_of_two() {
            return Err(impossible());
        }
        let cluster_bytes = sector_bytes * sectors_per_cluster;
        let record_bytes = match i8::from_le_bytes([u8_at(&bytes, 64)?]) {
            // A power of two bytes, or so many clusters.
            exponent @ -16..=-9 => 1 << exponent.unsigned_abs(),
            count @ 1.. => u64::from(count.unsigned_abs()) * cluster_bytes,
            _ => return Err(impossible()),
        };
        let sectors = le64(&bytes, 40)?;
        let end = sectors.checked_mul(sector_bytes).filter(|end| *end <= volume.size_bytes());
        let end = end.ok_or_else(|| Stop::damaged(format_args!("it says that it has {sectors} sectors, the volume is smaller")))?;
        let boot = Self {
            cluster_bytes,
            clusters: sectors / sectors_per_cluster,
            end,
            table_cluster: le64(&bytes, 48)?,
            // At most 127 clusters of 16 MiB; bounded below.
            record_bytes: record_bytes as usize,
        };
        if !(512..=65536).contains(&record_bytes) || !record_bytes.is_power_of_two() || boot.cluster_bytes > 2 << 20 {
            return Err(impossible());
        }
        if boot.table_cluster >= boot.clusters {
            return Err(Stop::damaged("its table of files lies beyond its end"));
        }
        Ok(boot)
    }
}
