//! FAT12, FAT16 and FAT32 (Microsoft's specification of 2005, and the dirty bits that Linux keeps, fs/fat/fat.h): what is before the clusters, and
//! every cluster whose entry is not zero.

use super::fields::{Stop, finding, le16, le32, read, u8_at};
use super::{Finding, Ranges};
use crate::Result;
use crate::disk_image::{DiskImage, Part};

/// Bytes of the tables that are looked at together: whole entries of every kind, also where two share three bytes.
const PIECE_BYTES: usize = 3 << 16;

/// Bits of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fat12 = 12,
    Fat16 = 16,
    Fat32 = 32,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Fat12 => "FAT12",
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
        }
    }

    /// From here on an entry is no cluster: reserved, bad (…7) and end of chain.
    fn special(self) -> u32 {
        match self {
            Self::Fat12 => 0xff0,
            Self::Fat16 => 0xfff0,
            Self::Fat32 => 0x0fff_fff0,
        }
    }

    /// Entry `index` of a piece that begins with a whole entry. The upper four bits of FAT32 are not part of the number.
    fn entry(self, piece: &[u8], index: usize) -> Result<u32, Stop> {
        match self {
            Self::Fat12 => {
                let pair = u32::from(le16(piece, index / 2 * 3 + index % 2)?);
                Ok(if index.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 })
            }
            Self::Fat16 => le16(piece, index * 2).map(u32::from),
            Self::Fat32 => Ok(le32(piece, index * 4)? & 0x0fff_ffff),
        }
    }
}

/// Where things are, in bytes.
struct Layout {
    kind: Kind,
    table: u64,
    table_bytes: u64,
    tables: u64,
    data: u64,
    cluster_bytes: u64,
    clusters: u64,
}

pub(super) fn probe(volume: &Part<'_>) -> Result<Option<Finding>> {
    let mut sector = [0; 512];
    if volume.size_bytes() < sector.len() as u64 {
        return Ok(None);
    }
    volume.read_at(0, &mut sector)?;
    if !looks_like(&sector) {
        return Ok(None);
    }
    match layout(&sector, volume.size_bytes()) {
        Ok(layout) => finding(layout.kind.name(), used(volume, &sector, &layout)).map(Some),
        Err(stop) => finding("FAT", Err(stop)).map(Some),
    }
}

/// There is no magic number: a jump, a signature and fields in their ranges. NTFS has no reserved sectors, exFAT no sector size here.
fn looks_like(sector: &[u8; 512]) -> bool {
    let u16_at = |at: usize| le16(sector, at).unwrap_or(0);
    matches!(sector[0], 0xeb | 0xe9)
        && u16_at(510) == 0xaa55
        && matches!(u16_at(11), 512 | 1024 | 2048 | 4096)
        && sector[13].is_power_of_two()
        && u16_at(14) > 0
        && matches!(sector[16], 1 | 2)
        && matches!(sector[21], 0xf0 | 0xf8..)
        && sector[3..11] != *b"-FVE-FS-"
}

fn layout(sector: &[u8; 512], volume_bytes: u64) -> Result<Layout, Stop> {
    let sector_bytes = u64::from(le16(sector, 11)?);
    let short_or = |short: u16, long: u32| if short != 0 { u64::from(short) } else { u64::from(long) };
    let table_sectors = short_or(le16(sector, 22)?, le32(sector, 36)?);
    let sectors = short_or(le16(sector, 19)?, le32(sector, 32)?);
    let tables = u64::from(u8_at(sector, 16)?);
    let root_sectors = (u64::from(le16(sector, 17)?) * 32).div_ceil(sector_bytes);
    let table = u64::from(le16(sector, 14)?);
    let data = table + tables * table_sectors + root_sectors;
    let cluster_sectors = u64::from(u8_at(sector, 13)?);
    let clusters = sectors.saturating_sub(data) / cluster_sectors;
    // As Linux and mkfs.fat decide, which also make a small FAT32.
    let kind = match (le16(sector, 22)?, clusters) {
        (0, _) => Kind::Fat32,
        (_, 0..=4084) => Kind::Fat12,
        _ => Kind::Fat16,
    };
    let table_bytes = table_sectors * sector_bytes;
    let clusters_max = table_bytes.saturating_mul(8) / kind as u64;
    if clusters == 0 || clusters + 2 > clusters_max || clusters + 2 > kind.special().into() || sectors * sector_bytes > volume_bytes {
        return Err(Stop::damaged("its boot sector describes an impossible layout"));
    }
    Ok(Layout {
        kind,
        table: table * sector_bytes,
        table_bytes,
        tables,
        data: data * sector_bytes,
        cluster_bytes: cluster_sectors * sector_bytes,
        clusters,
    })
}

fn used(volume: &Part<'_>, sector: &[u8; 512], layout: &Layout) -> Result<Ranges, Stop> {
    let unclean = || Stop::Whole("it was not cleanly unmounted or has errors; fsck.fat repairs it".into());
    let kind = layout.kind;
    let state = u8_at(sector, if kind == Kind::Fat32 { 65 } else { 37 })?;
    if state & 1 != 0 {
        return Err(unclean());
    }
    if kind == Kind::Fat32 && (le16(sector, 40)? & 0x80 != 0 || le16(sector, 42)? != 0) {
        return Err(Stop::unknown("its tables are not copies of each other, or it is of a newer version"));
    }
    let root = if kind == Kind::Fat32 { Some(le32(sector, 44)?) } else { None };
    let end = layout.clusters as u32 + 2;
    if root.is_some_and(|root| !(2..end).contains(&root)) {
        return Err(Stop::damaged("its root directory is out of range"));
    }
    let mut used = Ranges::default();
    used.push(0..layout.data);
    let mut cluster = 0;
    let mut done = 0;
    let (mut piece, mut copy) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    while done < layout.table_bytes && cluster < end {
        let length = (layout.table_bytes - done).min(PIECE_BYTES as u64) as usize;
        let (piece, copy) = (&mut piece[..length], &mut copy[..length]);
        read(volume, layout.table + done, piece)?;
        for number in 1..layout.tables {
            read(volume, layout.table + number * layout.table_bytes + done, copy)?;
            if piece != copy {
                return Err(Stop::damaged("its two allocation tables differ; fsck.fat repairs it"));
            }
        }
        for index in 0..length * 8 / kind as usize {
            if cluster == end {
                break;
            }
            let entry = kind.entry(piece, index)?;
            match cluster {
                // The media byte, then flags for "clean" and "no errors".
                0 if entry & 0xff != u32::from(u8_at(sector, 21)?) => {
                    return Err(Stop::damaged("its allocation table does not begin as it should"));
                }
                1 if kind == Kind::Fat32 && entry & 0x0c00_0000 != 0x0c00_0000 => return Err(unclean()),
                1 if kind == Kind::Fat16 && entry & 0xc000 != 0xc000 => return Err(unclean()),
                0 | 1 => {}
                _ if entry == 1 || (end..kind.special()).contains(&entry) => {
                    return Err(Stop::damaged(format_args!("the entry of cluster {cluster} is out of range")));
                }
                _ if entry == 0 && root == Some(cluster) => return Err(Stop::damaged("its root directory is in a free cluster")),
                _ if entry == 0 => {}
                _ => {
                    let start = layout.data + u64::from(cluster - 2) * layout.cluster_bytes;
                    used.push(start..start + layout.cluster_bytes);
                }
            }
            cluster += 1;
        }
        done += length as u64;
    }
    // Less than a cluster, or what another layer keeps behind the filesystem.
    used.push(layout.data + layout.clusters * layout.cluster_bytes..volume.size_bytes());
    Ok(used)
}
