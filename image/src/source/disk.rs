//! A disk image as a source: its bytes in use, in order, without what is free in its filesystems and what the image does not store.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use super::file_runs::scan_runs;
use super::{PageSink, Source, SourceOptions};
use crate::disk_image::DiskImage;
use crate::used::{self, Plan, Ranges, Region};
use crate::{ImageKind, Result};

/// A disk image of any format.
pub struct DiskSource {
    disk: Box<dyn DiskImage>,
    /// Made once: both passes must see the same.
    plan: Plan,
    /// Bytes that are both in use and stored.
    bytes: u64,
}

impl DiskSource {
    /// The bytes of `disk` that are in use.
    ///
    /// # Errors
    /// Those of reading its partition table and filesystems.
    pub fn new(disk: Box<dyn DiskImage>, options: SourceOptions) -> Result<Self> {
        let plan = if options.all_blocks { Plan::whole(disk.size_bytes()) } else { used::plan(disk.as_ref())? };
        let stored = Stored { disk: disk.as_ref(), last: RefCell::default() };
        let bytes = plan.regions.iter().try_fold(0, |sum, region| Ok(sum + count_region(&stored, region)?))?;
        Ok(Self { disk, plan, bytes })
    }
}

impl Source for DiskSource {
    fn kind(&self) -> ImageKind {
        ImageKind::Disk
    }

    fn path(&self) -> &Path {
        self.disk.path()
    }

    fn scan(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let stored = Stored { disk: self.disk.as_ref(), last: RefCell::default() };
        self.plan.regions.iter().try_for_each(|region| scan_region(&stored, region, sink))
    }

    fn estimated_bytes(&self) -> u64 {
        self.bytes
    }

    fn notes(&self) -> Vec<String> {
        self.plan.notes.clone()
    }
}

/// The image's own map, with the last answer kept: used ranges are often many in one stored range, and asking costs two system calls.
struct Stored<'a> {
    disk: &'a dyn DiskImage,
    last: RefCell<Range<u64>>,
}

impl Stored<'_> {
    fn next(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let last = self.last.borrow().clone();
        if last.contains(&offset) {
            return Ok(Some(offset..last.end));
        }
        let found = self.disk.next_stored(offset)?;
        if let Some(found) = &found {
            self.last.replace(found.clone());
        }
        Ok(found)
    }
}

/// Bytes of a region that a scan reads, but for the rest of their pages.
fn count_region(stored: &Stored<'_>, region: &Region) -> Result<u64> {
    let Range { start, end } = region.range;
    let mut bytes = 0;
    let mut offset = start;
    while offset < end {
        let next = match &region.used {
            None => stored.next(offset)?.filter(|next| next.start < end),
            Some(used) => next_used(stored, used, start, offset)?,
        };
        let Some(next) = next else { break };
        offset = next.end.min(end);
        bytes += offset - next.start;
    }
    Ok(bytes)
}

fn scan_region(stored: &Stored<'_>, region: &Region, sink: &mut dyn PageSink) -> Result<()> {
    let disk = stored.disk;
    match &region.used {
        None => scan_runs(region.range.clone(), &|offset| stored.next(offset), &|offset, buffer| disk.read_at(offset, buffer), sink),
        Some(used) => {
            let start = region.range.start;
            let next = |offset| next_used(stored, used, start, offset);
            let read = |offset, buffer: &mut [u8]| {
                disk.read_at(offset, buffer)?;
                clear_unused(used, offset - start, buffer);
                Ok(())
            };
            scan_runs(region.range.clone(), &next, &read, sink)
        }
    }
}

/// The first range from `offset` on that is both in use and stored.
fn next_used(stored: &Stored<'_>, used: &Ranges, start: u64, offset: u64) -> Result<Option<Range<u64>>> {
    let mut offset = offset;
    while let Some(range) = used.next_from(offset - start) {
        let (from, end) = (offset.max(start + range.start), start + range.end);
        match stored.next(from)? {
            None => return Ok(None),
            Some(found) if found.start < end => return Ok(Some(found.start..found.end.min(end))),
            Some(found) => offset = found.start,
        }
    }
    Ok(None)
}

/// Pages are read whole: what of them is not in use, in blocks smaller than a page, becomes zeros. `offset` counts as `used` does.
fn clear_unused(used: &Ranges, offset: u64, buffer: &mut [u8]) {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        let range = used.next_from(at).unwrap_or(u64::MAX..u64::MAX);
        let room = (buffer.len() - done) as u64;
        // At most the buffer's length, so the conversions lose nothing.
        let unused = range.start.saturating_sub(at).min(room);
        buffer[done..done + unused as usize].fill(0);
        done += unused.saturating_add((range.end - range.start.max(at)).min(room - unused)) as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk_image::SliceImage;
    use crate::manifest::Entry;
    use crate::source::ReadRun;

    #[derive(Default)]
    struct Seen {
        runs: Vec<(u64, u64, bool)>,
        bytes: Vec<u8>,
    }

    impl PageSink for Seen {
        fn entry(&mut self, _: Entry) -> Result<()> {
            Ok(())
        }

        fn data(&mut self, target_offset: u64, length: u64, read: &mut ReadRun<'_>) -> Result<()> {
            self.runs.push((target_offset, length, true));
            let mut buffer = vec![0; length as usize];
            read(&mut buffer)?;
            self.bytes.extend(buffer);
            Ok(())
        }

        fn hole(&mut self, target_offset: u64, length: u64) -> Result<()> {
            self.runs.push((target_offset, length, false));
            self.bytes.extend(vec![0; length as usize]);
            Ok(())
        }
    }

    #[test]
    fn pages_are_counted_from_the_region_and_free_bytes_read_as_zeros() {
        let disk = vec![7; 63 * 512 + 6 * 4096 + 512];
        let size_bytes = disk.len() as u64;
        let start = 63 * 512;
        let used: Ranges = [0..100, 4000..4097, 16384..16385, 20480..20481, 6 * 4096 + 10..6 * 4096 + 20].into_iter().collect();
        let regions = [Region { range: 0..start, used: None }, Region { range: start..size_bytes, used: Some(used.clone()) }];
        let image = SliceImage(&disk);
        let stored = Stored { disk: &image, last: RefCell::default() };
        let mut seen = Seen::default();
        regions.iter().try_for_each(|region| scan_region(&stored, region, &mut seen)).unwrap();
        let runs = [
            (0, start, true),
            (start, 8192, true),
            (start + 8192, 8192, false),
            (start + 16384, 4096, true),
            (start + 20480, 4096, true),
            (start + 24576, 512, true),
        ];
        let merged = |runs: &[(u64, u64, bool)]| {
            runs.iter().fold(Vec::<(u64, u64, bool)>::new(), |mut merged, &run| {
                match merged.last_mut() {
                    Some(last) if last.2 == run.2 && last.0 + last.1 == run.0 => last.1 += run.1,
                    _ => merged.push(run),
                }
                merged
            })
        };
        assert_eq!(merged(&seen.runs), merged(&runs));
        let expected = (0..size_bytes)
            .map(|at| if at < start || used.next_from(at - start).is_some_and(|r| r.contains(&(at - start))) { 7 } else { 0 });
        assert!(seen.bytes.iter().copied().eq(expected));
    }
}
