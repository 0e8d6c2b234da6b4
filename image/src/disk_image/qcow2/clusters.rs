//! Reading the tables and the compressed clusters of a qcow2 image, with a few of each kept.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::{Decompress, FlushDecompress};

use super::header::{ClusterCodec, Header, be64};
use super::read_up_to;

/// Bytes of L2 tables that are kept. One of 64 KiB covers 512 MiB of the disk.
const TABLE_CACHE_BYTES: usize = 8 << 20;
/// Largest window of a compressed cluster's frame, as a power of two: no cluster has more than 2 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 22;

/// Host offset in entries of L1 and L2 tables: bits 9 to 55.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// Where the bytes of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the backing file, or zeros when there is none.
    Backing,
    /// Zeros, whatever the backing file holds.
    Zero,
    /// In the file, from this offset on.
    File(u64),
    /// In a compressed cluster, whose data lies in these bytes of the file.
    Compressed {
        /// Where it begins.
        offset: u64,
        /// At most so many bytes.
        bytes: u64,
    },
}

/// An L2 table as it is in the file.
pub(super) type Table = Arc<Vec<u8>>;

/// What was read last.
#[derive(Default)]
pub(super) struct Cache {
    /// Tables with their offsets, the one used last at the end.
    tables: Vec<(u64, Table)>,
    /// The cluster that was decompressed last, by the offset of its data.
    cluster: Option<(u64, Arc<Vec<u8>>)>,
}

/// The L2 table at `offset`; the file ends early in no valid image.
pub(super) fn table(cache: &mut Cache, file: &File, offset: u64, cluster_bytes: usize) -> std::io::Result<Table> {
    if let Some(at) = cache.tables.iter().position(|(known, _)| *known == offset) {
        let found = cache.tables.remove(at);
        let table = found.1.clone();
        cache.tables.push(found);
        return Ok(table);
    }
    let mut bytes = vec![0; cluster_bytes];
    file.read_exact_at(&mut bytes, offset)?;
    let table = Arc::new(bytes);
    if cache.tables.len() >= (TABLE_CACHE_BYTES / cluster_bytes).clamp(2, 64) {
        cache.tables.remove(0);
    }
    cache.tables.push((offset, table.clone()));
    Ok(table)
}

/// The offset of an L2 table from its L1 entry; `None` when the whole range is in the backing file.
pub(super) fn table_offset(entry: u64) -> Option<u64> {
    Some(entry & OFFSET).filter(|&offset| offset != 0)
}

/// Where the byte `in_cluster` of a cluster is whose entry in `table` has this index, and how many bytes from there on are in one place.
/// An error says what is wrong with the entry.
pub(super) fn place(header: &Header, table: &[u8], index: usize, in_cluster: u64) -> Result<(Place, u64), &'static str> {
    let cluster_bytes = 1u64 << header.cluster_bits;
    let rest = cluster_bytes - in_cluster;
    let entry_bytes = if header.extended_l2 { 16 } else { 8 };
    // The index is below the number of entries of a table.
    let entry = index.checked_mul(entry_bytes).and_then(|at| be64(table, at)).ok_or("an L2 table is cut off")?;
    if entry & COMPRESSED != 0 {
        // The low bits are the offset, those above it the 512-byte sectors after the first.
        let offset_bits = 62 - (header.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry & !(3 << 62)) >> offset_bits) + 1;
        return Ok((Place::Compressed { offset, bytes: sectors * 512 - offset % 512 }, rest));
    }
    let offset = entry & OFFSET;
    let in_file = |offset: u64| {
        if offset == 0 || !offset.is_multiple_of(cluster_bytes) {
            Err("a cluster's offset is out of range")
        } else {
            Ok(Place::File(offset + in_cluster))
        }
    };
    if header.extended_l2 {
        let bitmaps = be64(table, index * 16 + 8).ok_or("an L2 table is cut off")?;
        let subcluster_bytes = cluster_bytes / 32;
        // At most 31.
        let subcluster = in_cluster / subcluster_bytes;
        let (allocated, zero) = (bitmaps >> subcluster & 1 != 0, bitmaps >> (subcluster + 32) & 1 != 0);
        let place = match (allocated, zero) {
            (false, false) => Place::Backing,
            (false, true) => Place::Zero,
            (true, false) => in_file(offset)?,
            (true, true) => return Err("a subcluster is both allocated and zero"),
        };
        return Ok((place, subcluster_bytes - in_cluster % subcluster_bytes));
    }
    let place = if header.has_zero_bit && entry & ZERO != 0 {
        Place::Zero
    } else if offset == 0 {
        Place::Backing
    } else {
        in_file(offset)?
    };
    Ok((place, rest))
}

/// The compressed cluster whose data lies in `bytes` bytes at `offset`. The last one's may reach beyond the end of the file.
pub(super) fn compressed(cache: &mut Cache, header: &Header, file: &File, offset: u64, bytes: u64) -> std::io::Result<Arc<Vec<u8>>> {
    if let Some((known, cluster)) = &cache.cluster
        && *known == offset
    {
        return Ok(cluster.clone());
    }
    let cluster_bytes = 1usize << header.cluster_bits;
    // At most 4 MiB: the entry has no more bits for it.
    let data = read_up_to(file, offset, bytes as usize)?;
    let cluster = Arc::new(decompress(header.codec, &data, cluster_bytes)?);
    cache.cluster = Some((offset, cluster.clone()));
    Ok(cluster)
}

fn decompress(codec: ClusterCodec, data: &[u8], cluster_bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut cluster = vec![0; cluster_bytes];
    match codec {
        ClusterCodec::Deflate => {
            let mut inflate = Decompress::new(false);
            inflate.decompress(data, &mut cluster, FlushDecompress::Finish).map_err(std::io::Error::other)?;
            if inflate.total_out() != cluster_bytes as u64 {
                return Err(std::io::Error::other("a compressed cluster is cut off"));
            }
        }
        ClusterCodec::Zstd => {
            // Behind the frame lies whatever fills the last sector.
            let mut decoder = zstd::stream::read::Decoder::with_buffer(data)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            decoder.read_exact(&mut cluster)?;
        }
    }
    Ok(cluster)
}
