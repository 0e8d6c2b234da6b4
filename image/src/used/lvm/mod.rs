//! LVM2: where a volume group has one physical volume and its logical volumes are linear, each of them is looked into. Extents of no logical volume
//! are free. Layouts are those of lvm2, lib/format_text/layout.h and lib/label/label.h.

mod text;
mod volume;

use std::ops::Range;

use super::fields::{Stop, le32, le64, read_vec, slice};
use super::plan::describe;
use super::{Finding, Ranges, probe_filesystems};
use crate::Result;
use crate::disk_image::{DiskImage, Part};
use text::{Section, Value};
use volume::LogicalVolume;

const NAME: &str = "LVM2";
const SECTOR_BYTES: u64 = 512;
/// The label is in one of the first four sectors.
const LABEL_SECTORS: u64 = 4;
/// Metadata areas are 1 MiB, rarely more.
const METADATA_BYTES_MAX: u64 = 8 << 20;

/// What the operator is told of each logical volume.
pub(super) type Notes = Vec<String>;

pub(super) fn probe(volume: &Part<'_>) -> Result<Option<(Finding, Notes)>> {
    let outcome = label(volume).and_then(|label| label.map(|label| used(volume, &label)).transpose());
    Ok(match outcome {
        Ok(None) => None,
        Ok(Some((used, notes))) => Some((Finding::Used { filesystem: NAME, used }, notes)),
        Err(Stop::Whole(why)) => Some((Finding::Whole { filesystem: NAME, why }, Notes::new())),
        Err(Stop::Unreadable(error)) => return Err(error),
    })
}

/// Whether there is a label at all.
pub(super) fn is_physical_volume(volume: &Part<'_>) -> Result<bool> {
    match label(volume) {
        Ok(label) => Ok(label.is_some()),
        Err(Stop::Whole(_)) => Ok(true),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

/// LVM's CRC-32: the usual polynomial, its own start, nothing inverted.
fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    sum.update(bytes);
    !sum.finalize()
}

/// The sector of the label, if there is one.
fn label(volume: &Part<'_>) -> Result<Option<Vec<u8>>, Stop> {
    for number in 0..LABEL_SECTORS {
        if volume.size_bytes() < (number + 1) * SECTOR_BYTES {
            break;
        }
        let sector = read_vec(volume, number * SECTOR_BYTES, SECTOR_BYTES as usize)?;
        if sector.starts_with(b"LABELONE") && slice(&sector, 24, 8)? == b"LVM2 001" {
            let right = le64(&sector, 8)? == number && le32(&sector, 16)? == checksum(slice(&sector, 20, 492)?);
            return if right { Ok(Some(sector)) } else { Err(Stop::damaged("its label has the wrong checksum")) };
        }
    }
    Ok(None)
}

fn used(volume: &Part<'_>, label: &[u8]) -> Result<(Ranges, Notes), Stop> {
    // The header of the physical volume: UUID, size, then offset and size of each data area and of each metadata area; zeros end a list.
    let header = le32(label, 20)? as usize;
    let mut at = header.saturating_add(40);
    let mut area = || -> Result<Option<Range<u64>>, Stop> {
        let (start, bytes) = (le64(label, at)?, le64(label, at.saturating_add(8))?);
        at += 16;
        Ok((start != 0 || bytes != 0).then(|| start..start.saturating_add(bytes)))
    };
    while area()?.is_some() {}
    let metadata = area()?.ok_or_else(|| Stop::unknown("it keeps no metadata, which is in another physical volume"))?;
    let metadata = read_metadata(volume, metadata)?;
    let metadata = text::parse(&metadata)?;
    let (group_name, group) = metadata.sections().next().ok_or_else(|| Stop::damaged("its metadata names no volume group"))?;
    let group = Group::new(group_name, group, volume.size_bytes())?;

    let mut pieces = vec![0..group.extents.start, group.extents.end..volume.size_bytes()];
    let mut notes = Notes::new();
    let volumes = group.section.section("logical_volumes").map(|(name, section)| Ok((name, group.runs(name, section)?)));
    let volumes = volumes.collect::<Result<Vec<_>, Stop>>()?;
    let runs = || volumes.iter().flat_map(|(_, runs)| runs.iter().cloned());
    let bytes = runs().fold(0u64, |sum, run| sum.saturating_add(run.end - run.start));
    if runs().collect::<Ranges>().bytes() != bytes {
        return Err(Stop::damaged("its logical volumes overlap"));
    }
    for (name, runs) in volumes {
        let logical = LogicalVolume::new(volume, runs);
        let part = Part::whole(&logical);
        let found = if is_physical_volume(&part)? {
            Some(Finding::Whole { filesystem: NAME, why: "a volume group within another is not followed".into() })
        } else {
            probe_filesystems(&part)?
        };
        notes.push(describe(&format!("logical volume {group_name}/{name}"), found.as_ref(), part.size_bytes()));
        match found {
            Some(Finding::Used { used, .. }) => used.iter().for_each(|range| pieces.extend(logical.physical(range))),
            _ => pieces.extend(logical.physical(0..logical.size_bytes())),
        }
    }
    Ok((pieces.into_iter().collect(), notes))
}

/// The present text of a metadata area, which is a ring of such texts after a sector with the place of the present one.
fn read_metadata(volume: &Part<'_>, area: Range<u64>) -> Result<String, Stop> {
    let header = read_vec(volume, area.start, SECTOR_BYTES as usize)?;
    let area_bytes = le64(&header, 32)?;
    let right = le32(&header, 0)? == checksum(slice(&header, 4, 508)?)
        && slice(&header, 4, 16)? == b" LVM2 x[5A%r0N*>"
        && le32(&header, 20)? == 1
        && le64(&header, 24)? == area.start
        && (SECTOR_BYTES..=area.end - area.start).contains(&area_bytes);
    if !right {
        return Err(Stop::damaged("its metadata area is not right"));
    }
    let (offset, bytes, expected, flags) = (le64(&header, 40)?, le64(&header, 48)?, le32(&header, 56)?, le32(&header, 60)?);
    if offset == 0 || flags & 1 != 0 {
        return Err(Stop::Whole("it is in no volume group, or keeps its metadata elsewhere".into()));
    }
    if !(SECTOR_BYTES..area_bytes).contains(&offset) || bytes > area_bytes - SECTOR_BYTES || bytes > METADATA_BYTES_MAX {
        return Err(Stop::damaged("its metadata is out of range"));
    }
    let first = bytes.min(area_bytes - offset);
    let mut text = read_vec(volume, area.start.saturating_add(offset), first as usize)?;
    text.extend(read_vec(volume, area.start + SECTOR_BYTES, (bytes - first) as usize)?);
    if checksum(&text) != expected {
        return Err(Stop::damaged("its metadata has the wrong checksum"));
    }
    String::from_utf8(text).map_err(|_| Stop::damaged("its metadata is not text"))
}

/// A volume group of one physical volume.
struct Group<'a> {
    section: &'a Section<'a>,
    physical_name: &'a str,
    extent_bytes: u64,
    /// Where the extents are, in bytes.
    extents: Range<u64>,
}

impl<'a> Group<'a> {
    fn new(name: &str, section: &'a Section<'a>, size_bytes: u64) -> Result<Self, Stop> {
        let mut volumes = section.section("physical_volumes");
        let (Some((physical_name, physical)), None) = (volumes.next(), volumes.next()) else {
            return Err(Stop::unknown(format_args!("the volume group {name} has several physical volumes")));
        };
        let sectors = |sectors: u64| sectors.checked_mul(SECTOR_BYTES);
        let extent_bytes = sectors(section.number("extent_size")?).filter(|&bytes| bytes > 0);
        let start = sectors(physical.number("pe_start")?);
        let count = physical.number("pe_count")?;
        let layout =
            extent_bytes.zip(start).and_then(|(extent, start)| Some((extent, start, start.checked_add(extent.checked_mul(count)?)?)));
        match layout {
            Some((extent_bytes, start, end)) if end <= size_bytes => Ok(Self { section, physical_name, extent_bytes, extents: start..end }),
            _ => Err(Stop::damaged("its extents do not fit it")),
        }
    }

    /// The bytes of a logical volume, in its order.
    fn runs(&self, name: &str, volume: &Section<'_>) -> Result<Vec<Range<u64>>, Stop> {
        let mut segments = Vec::new();
        for (_, segment) in volume.sections().filter(|(name, _)| name.starts_with("segment")) {
            let first = match (segment.get("type"), segment.get("stripes")) {
                (Some(Value::Text("striped")), Some(Value::List(stripes))) => match stripes.as_slice() {
                    [Value::Text(physical), Value::Number(first)] if *physical == self.physical_name => *first,
                    _ => return Err(Stop::unknown(format_args!("the logical volume {name} is striped"))),
                },
                _ => return Err(Stop::unknown(format_args!("the logical volume {name} is not linear"))),
            };
            let count = segment.number("extent_count")?;
            let end = first
                .checked_add(count)
                .and_then(|end| end.checked_mul(self.extent_bytes))
                .map(|end| end.saturating_add(self.extents.start));
            let run = end.filter(|&end| end <= self.extents.end).map(|end| self.extents.start + first * self.extent_bytes..end);
            segments.push((segment.number("start_extent")?, count, run.ok_or_else(|| Stop::damaged("a logical volume is out of range"))?));
        }
        segments.sort_by_key(|(start, ..)| *start);
        let mut next = 0;
        for (start, count, _) in &segments {
            if *start != next || *count == 0 {
                return Err(Stop::damaged(format_args!("the segments of {name} do not fit together")));
            }
            next = start.saturating_add(*count);
        }
        if segments.is_empty() || volume.number("segment_count")? != segments.len() as u64 {
            return Err(Stop::damaged(format_args!("the segments of {name} are not all there")));
        }
        Ok(segments.into_iter().map(|(.., run)| run).collect())
    }
}
