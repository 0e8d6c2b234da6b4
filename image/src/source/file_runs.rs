//! A run of a disk or a file as pages of data and holes: what both kinds of source hand over.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::PageSink;
use crate::disk_image::next_data;
use crate::units::round_up;
use crate::{Error, PAGE_BYTES, Result};

/// Hands `size_bytes` of a file to `sink`. Holes shorter than a page are data.
pub(super) fn scan(file: &File, path: &Path, size_bytes: u64, sink: &mut dyn PageSink) -> Result<()> {
    let next = |offset| next_data(file, path, size_bytes, offset);
    let read = |offset, buffer: &mut [u8]| match file.read_exact_at(buffer, offset) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::SourceChanged { path: path.to_owned() }),
        outcome => outcome.map_err(Error::io("reading", path)),
    };
    scan_runs(0..size_bytes, &next, &read, sink)
}

/// Hands a range to `sink`, its pages counted from the range's start. `next` finds the next stored range from an offset on, `read` reads.
pub(super) fn scan_runs(
    range: Range<u64>,
    next: &dyn Fn(u64) -> Result<Option<Range<u64>>>,
    read: &dyn Fn(u64, &mut [u8]) -> Result<()>,
    sink: &mut dyn PageSink,
) -> Result<()> {
    let page_bytes = PAGE_BYTES as u64;
    let round_down = |offset: u64| range.start + (offset - range.start) / page_bytes * page_bytes;
    let mut offset = range.start;
    while offset < range.end {
        let Some(stored) = next(offset)?.filter(|stored| stored.start < range.end) else {
            return sink.hole(offset, range.end - offset);
        };
        let start = round_down(stored.start).max(offset);
        if start > offset {
            sink.hole(offset, start - offset)?;
        }
        let end = (range.start + round_up(stored.end - range.start, page_bytes)).min(range.end);
        let mut position = start;
        sink.data(start, end - start, &mut |buffer| {
            read(position, buffer)?;
            position += buffer.len() as u64;
            Ok(())
        })?;
        offset = end;
    }
    Ok(())
}
