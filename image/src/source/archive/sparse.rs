//! Where the data of a tar archive's files lies, sparse ones included: the old GNU format and the three of GNU tar's pax archives.

use super::data::{Data, Segment};
use super::pax::{self, Records};
use super::tar::{BLOCK_BYTES, Blocks, Header, Malformed, number};
use crate::manifest::SIZE_BYTES_MAX;

/// Segments of a sparse file. A map of this many takes 24 MiB.
const SEGMENTS_MAX: usize = 1 << 20;

/// Offsets in the file and lengths of what is stored, one behind the other.
type Map = Vec<(u64, u64)>;

/// Where the data of a file lies, and where its stored bytes begin: behind the extension blocks of an old GNU sparse file.
pub(super) fn data(
    blocks: &mut Blocks<'_>,
    header: &Header<'_>,
    records: &Records,
    file: usize,
    data_at: u64,
    stored_bytes: u64,
) -> Result<(Data, u64), Malformed> {
    let (map, size_bytes, start) = if header.kind() == b'S' {
        gnu_map(blocks, header, data_at)?
    } else if records.get(b"GNU.sparse.major") == Some(b"1") {
        let size = records.get(b"GNU.sparse.realsize").and_then(pax::decimal).ok_or("a sparse file's size is out of range")?;
        let (map, map_bytes) = leading_map(blocks, data_at, stored_bytes)?;
        (map, size, data_at + map_bytes)
    } else if let Some(map) = records_map(records)? {
        let size = records.get(b"GNU.sparse.size").or(records.get(b"GNU.sparse.realsize")).and_then(pax::decimal);
        (map, size.ok_or("a sparse file's size is out of range")?, data_at)
    } else {
        (vec![(0, stored_bytes)], stored_bytes, data_at)
    };
    if size_bytes > SIZE_BYTES_MAX {
        return Err("a file's size is out of range".into());
    }
    let mut segments = Vec::new();
    let (mut stored_at, mut offset) = (start, 0u64);
    for (at, bytes) in map {
        let end = at.checked_add(bytes).filter(|&end| at >= offset && end <= size_bytes).ok_or("a sparse file's map is damaged")?;
        if bytes > 0 {
            segments.push(Segment { offset: at, bytes, stored_at });
        }
        (stored_at, offset) = (stored_at.checked_add(bytes).ok_or("a sparse file's map is damaged")?, end);
    }
    // A GNU sparse file's stored bytes come after its extension blocks, those of the others include the map.
    let first = if header.kind() == b'S' { start } else { data_at };
    if stored_at - first > stored_bytes {
        return Err("a sparse file's map is damaged".into());
    }
    Ok((Data { file, size_bytes, segments }, first))
}

/// The map of an old GNU sparse file: four pairs in the header, and blocks of 21 behind it.
fn gnu_map(blocks: &mut Blocks<'_>, header: &Header<'_>, data_at: u64) -> Result<(Map, u64, u64), Malformed> {
    let damaged = "a sparse file's map is damaged";
    let mut map = Vec::new();
    let mut take = |fields: &[u8]| {
        for pair in fields.chunks_exact(24) {
            let (offset, bytes) = pair.split_at(12);
            // Unused pairs begin with NUL.
            if offset.first() == Some(&0) || map.len() >= SEGMENTS_MAX {
                break;
            }
            let unsigned = |field| number(field).and_then(|value| u64::try_from(value).ok());
            map.push((unsigned(offset)?, unsigned(bytes)?));
        }
        Some(())
    };
    take(header.field(386, 96)).ok_or(damaged)?;
    let size_bytes = header.number(483, 12).and_then(|size| u64::try_from(size).ok()).ok_or(damaged)?;
    let mut more = header.field(482, 1) != [0];
    let mut start = data_at;
    while more {
        let block = blocks.block(start)?.ok_or("the archive is cut off in a sparse file's map")?;
        take(Header::new(&block).field(0, 504)).ok_or(damaged)?;
        more = Header::new(&block).field(504, 1) != [0];
        start += BLOCK_BYTES;
    }
    if map.len() >= SEGMENTS_MAX {
        return Err("a sparse file has more than a million segments".into());
    }
    Ok((map, size_bytes, start))
}

/// The map of a sparse file in the format 1.0: lines of decimal numbers in front of the data, in whole blocks. Returns the bytes of these blocks too.
fn leading_map(blocks: &mut Blocks<'_>, data_at: u64, stored_bytes: u64) -> Result<(Map, u64), Malformed> {
    let damaged = "a sparse file's map is damaged";
    let mut numbers: Vec<u64> = Vec::new();
    let mut line: Vec<u8> = Vec::new();
    let mut map_bytes = 0;
    // The first number says how many pairs follow.
    let complete = |numbers: &[u64]| numbers.first().is_some_and(|&pairs| numbers.len() as u64 > pairs.saturating_mul(2));
    while !complete(&numbers) {
        if map_bytes >= stored_bytes || numbers.len() > 2 * SEGMENTS_MAX {
            return Err(damaged.into());
        }
        let block = blocks.block(data_at + map_bytes)?.ok_or("the archive is cut off in a sparse file's map")?;
        map_bytes += BLOCK_BYTES;
        for byte in block {
            match byte {
                b'\n' => numbers.push(pax::decimal(&std::mem::take(&mut line)).ok_or(damaged)?),
                _ if line.len() < 20 => line.push(byte),
                _ => return Err(damaged.into()),
            }
            if complete(&numbers) {
                break;
            }
        }
    }
    let pairs = numbers.get(1..).unwrap_or_default().chunks_exact(2);
    let map = pairs.filter_map(|pair| Some((*pair.first()?, *pair.last()?))).collect();
    Ok((map, map_bytes))
}

/// The map of a sparse file in the formats 0.0 (pairs of records) and 0.1 (one record).
fn records_map(records: &Records) -> Result<Option<Map>, Malformed> {
    let numbers: Vec<&[u8]> = match records.get(b"GNU.sparse.map") {
        Some(map) => map.split(|&byte| byte == b',').collect(),
        None if records.get(b"GNU.sparse.size").is_some() => records.all(&[b"GNU.sparse.offset", b"GNU.sparse.numbytes"]).collect(),
        None => return Ok(None),
    };
    let pair = |pair: &[&[u8]]| match pair {
        [offset, bytes] => Some((pax::decimal(offset)?, pax::decimal(bytes)?)),
        _ => None,
    };
    Ok(Some(numbers.chunks(2).map(pair).collect::<Option<Map>>().ok_or("a sparse file's map is damaged")?))
}
