//! The records of NTFS's table of files (`$MFT`): their attributes, and the clusters that hold the attributes' bytes.

use std::ops::Range;

use super::super::fields::{Stop, le16, le32, le64, read, slice, u8_at};
use super::boot_sector::BootSector;
use crate::disk_image::Part;

/// Numbers of records that are the same on every volume.
pub(super) mod system_file {
    pub(in super::super) const TABLE: u64 = 0;
    pub(in super::super) const LOG: u64 = 2;
    pub(in super::super) const VOLUME: u64 = 3;
    pub(in super::super) const ROOT_DIRECTORY: u64 = 5;
    pub(in super::super) const BITMAP: u64 = 6;
}

/// Types of attributes.
pub(super) mod attribute {
    pub(in super::super) const ATTRIBUTE_LIST: u32 = 0x20;
    pub(in super::super) const VOLUME_INFORMATION: u32 = 0x70;
    pub(in super::super) const DATA: u32 = 0x80;
    pub(in super::super) const INDEX_ROOT: u32 = 0x90;
    pub(in super::super) const INDEX_ALLOCATION: u32 = 0xa0;
    pub(super) const END: u32 = u32::MAX;
}

/// Every so many bytes of a multi-sector structure, the last two are replaced by its update sequence number.
const STRIDE_BYTES: usize = 512;
/// A record that is in use.
const IN_USE: u16 = 1;

/// Puts the bytes back that the update sequence array holds, after checking that the structure was written whole.
pub(super) fn fix_up(bytes: &mut [u8], magic: &[u8; 4]) -> Result<(), Stop> {
    let torn = || Stop::damaged("a record is wrong or was not written whole");
    if !bytes.starts_with(magic) || !bytes.len().is_multiple_of(STRIDE_BYTES) {
        return Err(torn());
    }
    let (start, count) = (usize::from(le16(bytes, 4)?), usize::from(le16(bytes, 6)?));
    let array = slice(bytes, start, count * 2)?.to_vec();
    let (number, saved) = array.split_first_chunk::<2>().ok_or_else(torn)?;
    let saved = saved.as_chunks::<2>().0;
    if saved.len() != bytes.len() / STRIDE_BYTES {
        return Err(torn());
    }
    for (stride, saved) in bytes.chunks_exact_mut(STRIDE_BYTES).zip(saved) {
        match stride.last_chunk_mut::<2>() {
            Some(last) if last == number => *last = *saved,
            _ => return Err(torn()),
        }
    }
    Ok(())
}

/// Consecutive clusters of an attribute, one run after another from its first byte on: the cluster on disk and their count. `None` is a hole.
#[derive(Default)]
pub(super) struct Runs(Vec<(Option<u64>, u64)>);

impl Runs {
    /// From mapping pairs: per run a byte with the lengths of two numbers, the run's length, and its distance from the last one.
    fn parse(mut pairs: &[u8], boot: &BootSector) -> Result<Self, Stop> {
        let damaged = || Stop::damaged("the clusters of a system file are wrong");
        let mut runs = Self::default();
        let (mut cluster, mut total) = (0_u64, 0_u64);
        loop {
            let (lengths, rest) = pairs.split_first().ok_or_else(damaged)?;
            if *lengths == 0 {
                return Ok(runs);
            }
            let (length_bytes, distance_bytes) = (usize::from(lengths & 15), usize::from(lengths >> 4));
            let count = u64::try_from(number(slice(rest, 0, length_bytes)?).ok_or_else(damaged)?).map_err(|_| damaged())?;
            total = total.checked_add(count).filter(|total| count > 0 && *total <= boot.clusters).ok_or_else(damaged)?;
            if distance_bytes == 0 {
                runs.0.push((None, count));
            } else {
                let distance = number(slice(rest, length_bytes, distance_bytes)?).ok_or_else(damaged)?;
                cluster = cluster.checked_add_signed(distance).ok_or_else(damaged)?;
                if cluster.checked_add(count).is_none_or(|end| end > boot.clusters) {
                    return Err(damaged());
                }
                runs.0.push((Some(cluster), count));
            }
            pairs = slice(rest, length_bytes + distance_bytes, rest.len().saturating_sub(length_bytes + distance_bytes))?;
        }
    }

    /// Where they lie on the volume, in bytes.
    pub(super) fn ranges(&self, boot: &BootSector) -> impl Iterator<Item = Range<u64>> {
        self.ranges_from(0, boot)
    }

    /// Where they lie from the byte `offset` of the attribute on.
    pub(super) fn ranges_from(&self, offset: u64, boot: &BootSector) -> impl Iterator<Item = Range<u64>> {
        let mut skip = offset;
        let ranges = self.0.iter().map(move |(cluster, count)| {
            let run_bytes = count * boot.cluster_bytes;
            let skipped = skip.min(run_bytes);
            skip -= skipped;
            cluster.map(|cluster| cluster * boot.cluster_bytes + skipped..cluster * boot.cluster_bytes + run_bytes)
        });
        ranges.flatten().filter(|range| !range.is_empty())
    }

    /// How many bytes they hold.
    pub(super) fn bytes(&self, boot: &BootSector) -> u64 {
        self.0.iter().map(|(_, count)| count * boot.cluster_bytes).sum()
    }
}

/// A signed number of up to eight bytes.
fn number(bytes: &[u8]) -> Option<i64> {
    let (last, length) = (bytes.last()?, bytes.len());
    let mut whole = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
    whole.get_mut(..length)?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(whole))
}

/// The bytes of an attribute outside of its record.
pub(super) struct Stream {
    pub(super) runs: Runs,
    /// Its length; what lies beyond [`Self::written_bytes`] of it reads as zeros.
    pub(super) length_bytes: u64,
    pub(super) written_bytes: u64,
}

/// An attribute of a record.
pub(super) enum Attribute<'r> {
    /// Its bytes lie in the record.
    Resident(&'r [u8]),
    /// They lie in clusters.
    Stream(Stream),
}

/// The table of files, as far as its first record describes it.
pub(super) struct MasterFileTable<'a> {
    pub(super) volume: &'a Part<'a>,
    pub(super) boot: &'a BootSector,
    runs: Runs,
    written_bytes: u64,
}

impl<'a> MasterFileTable<'a> {
    pub(super) fn read(volume: &'a Part<'a>, boot: &'a BootSector) -> Result<Self, Stop> {
        let mut first = Self { volume, boot, runs: Runs::default(), written_bytes: 0 };
        // The table's own record is its first one.
        let record_clusters = (boot.record_bytes as u64).div_ceil(boot.cluster_bytes);
        first.runs.0.push((Some(boot.table_cluster), record_clusters));
        // A table in many pieces goes on in other records; the first ones are what is needed.
        let data = first.record(system_file::TABLE)?.stream(attribute::DATA, &[])?;
        let data = data.ok_or_else(|| Stop::damaged("its table of files has no clusters"))?;
        if data.runs.ranges(boot).next().is_none_or(|range| range.start != boot.table_cluster * boot.cluster_bytes) {
            return Err(Stop::damaged("its table of files is not where its boot sector says"));
        }
        Ok(Self { volume, boot, runs: data.runs, written_bytes: data.written_bytes })
    }

    /// The clusters that are known to belong to the table.
    pub(super) fn runs(&self) -> &Runs {
        &self.runs
    }

    /// Clusters that the table has in stock: no record has been written there yet.
    pub(super) fn unwritten(&self) -> impl Iterator<Item = Range<u64>> {
        self.runs.ranges_from(self.written_bytes, self.boot)
    }

    /// Fills `buffer` with the bytes from `offset` on of what `runs` hold.
    pub(super) fn read_runs(&self, runs: &Runs, offset: u64, mut buffer: &mut [u8]) -> Result<(), Stop> {
        let mut skip = offset;
        for (cluster, count) in &runs.0 {
            // Within the volume's size, see Runs::parse.
            let run_bytes = count * self.boot.cluster_bytes;
            if skip >= run_bytes {
                skip -= run_bytes;
                continue;
            }
            let length = usize::try_from(run_bytes - skip).unwrap_or(usize::MAX).min(buffer.len());
            let (part, rest) = buffer.split_at_mut(length);
            match cluster {
                Some(cluster) => read(self.volume, cluster * self.boot.cluster_bytes + skip, part)?,
                None => part.fill(0),
            }
            buffer = rest;
            skip = 0;
            if buffer.is_empty() {
                return Ok(());
            }
        }
        Err(Stop::damaged("a system file is shorter than it should be"))
    }

    /// A record that is in use.
    pub(super) fn record(&self, number: u64) -> Result<Record<'_>, Stop> {
        let mut bytes = vec![0; self.boot.record_bytes];
        let offset = number.checked_mul(self.boot.record_bytes as u64);
        let offset = offset.filter(|offset| *offset < self.runs.bytes(self.boot));
        let offset = offset.ok_or_else(|| Stop::Whole("its table of files is too fragmented to be followed".into()))?;
        self.read_runs(&self.runs, offset, &mut bytes)?;
        fix_up(&mut bytes, b"FILE")?;
        Ok(Record { bytes, boot: self.boot })
    }
}

/// A record of the table.
pub(super) struct Record<'a> {
    bytes: Vec<u8>,
    boot: &'a BootSector,
}

impl Record<'_> {
    pub(super) fn is_in_use(&self) -> Result<bool, Stop> {
        Ok(le16(&self.bytes, 22)? & IN_USE != 0)
    }

    /// The attribute of this type and name (UTF-16) that begins with its first cluster.
    pub(super) fn attribute(&self, kind: u32, name: &[u16]) -> Result<Option<Attribute<'_>>, Stop> {
        if !self.is_in_use()? {
            return Err(Stop::damaged("the record of a system file is not in use"));
        }
        let mut at = usize::from(le16(&self.bytes, 20)?);
        loop {
            let found = le32(&self.bytes, at)?;
            if found == attribute::END {
                return Ok(None);
            }
            let length = le32(&self.bytes, at + 4)? as usize;
            if length < 24 {
                return Err(Stop::damaged("an attribute of a system file is too short"));
            }
            let bytes = slice(&self.bytes, at, length)?;
            at += length;
            let name_bytes = slice(bytes, le16(bytes, 10)?.into(), usize::from(u8_at(bytes, 9)?) * 2)?;
            let has_name = name_bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).eq(name.iter().copied());
            if found != kind || !has_name {
                continue;
            }
            if u8_at(bytes, 8)? == 0 {
                let (length, start) = (le32(bytes, 16)? as usize, usize::from(le16(bytes, 20)?));
                return Ok(Some(Attribute::Resident(slice(bytes, start, length)?)));
            }
            // A later piece of a file in many pieces.
            if le64(bytes, 16)? != 0 {
                continue;
            }
            let pairs = usize::from(le16(bytes, 32)?);
            let runs = Runs::parse(slice(bytes, pairs, bytes.len().saturating_sub(pairs))?, self.boot)?;
            return Ok(Some(Attribute::Stream(Stream { runs, length_bytes: le64(bytes, 48)?, written_bytes: le64(bytes, 56)? })));
        }
    }

    /// The same, when its bytes lie in clusters.
    pub(super) fn stream(&self, kind: u32, name: &[u16]) -> Result<Option<Stream>, Stop> {
        Ok(match self.attribute(kind, name)? {
            Some(Attribute::Stream(stream)) => Some(stream),
            _ => None,
        })
    }

    /// Refuses a record whose attributes go on in other records.
    pub(super) fn require_complete(&self) -> Result<(), Stop> {
        match self.attribute(attribute::ATTRIBUTE_LIST, &[])? {
            None => Ok(()),
            Some(_) => Err(Stop::Whole("a system file is too fragmented to be followed".into())),
        }
    }

    /// The bytes of a system file, which all lie in clusters.
    pub(super) fn complete_data(&self) -> Result<Stream, Stop> {
        self.require_complete()?;
        let data = self.stream(attribute::DATA, &[])?;
        data.filter(|data| data.runs.bytes(self.boot) >= data.length_bytes)
            .ok_or_else(|| Stop::damaged("a system file has no clusters or too few"))
    }
}
