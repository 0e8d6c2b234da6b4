//! One file as runs of data and holes, found with SEEK_DATA and SEEK_HOLE.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::PageSink;
use crate::units::round_up;
use crate::{Error, PAGE_BYTES, Result};

/// Hands `size_bytes` of a file to `sink`. Holes shorter than a page are data.
pub(super) fn scan(file: &File, path: &Path, size_bytes: u64, sink: &mut dyn PageSink) -> Result<()> {
    let page_bytes = PAGE_BYTES as u64;
    let mut offset = 0;
    while offset < size_bytes {
        let data_start = match seek(file, SeekFrom::Data(offset)) {
            Ok(start) => (start / page_bytes * page_bytes).clamp(offset, size_bytes),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => size_bytes,
            // A filesystem or device without holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(error) => return Err(Error::io("finding data in", path)(error)),
        };
        if data_start > offset {
            sink.hole(offset, data_start - offset)?;
        }
        if data_start == size_bytes {
            break;
        }
        let data_end = match seek(file, SeekFrom::Hole(data_start)) {
            // At least a page, so that the loop moves on even when the file changes under it.
            Ok(end) => round_up(end, page_bytes).clamp(data_start + 1, size_bytes),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size_bytes,
            // The file has shrunk: reading will say so.
            Err(Errno::NXIO) => size_bytes,
            Err(error) => return Err(Error::io("finding a hole in", path)(error)),
        };
        let mut position = data_start;
        sink.data(data_start, data_end - data_start, &mut |buffer| {
            match file.read_exact_at(buffer, position) {
                Ok(()) => position += buffer.len() as u64,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(Error::SourceChanged { path: path.to_owned() });
                }
                Err(error) => return Err(Error::io("reading", path)(error)),
            }
            Ok(())
        })?;
        offset = data_end;
    }
    Ok(())
}
