//! Making ranges of a device or file read as zeros, in the cheapest way that it takes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::manifest::{Content, Extent};
use crate::restore::BufferPool;
use crate::units::round_up;
use crate::{Error, Result};

/// Bytes zeroed per call: between calls the job can be given up. Discarding is fast, writing zeros is not.
const DISCARD_BYTES: u64 = 16 << 30;
const ZERO_BYTES: u64 = 64 << 20;
/// Zeros written at once where the kernel does not do it.
const ZERO_BUFFER_BYTES: usize = 1 << 20;

/// Everything from `start` on that the image leaves zero, neighbours merged, ends rounded up to `unit`.
pub(super) fn ranges(extents: &[Extent], start: u64, unit: u64) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for extent in extents.iter().filter(|extent| !matches!(extent.content, Content::Data { .. })) {
        let (start, end) = (extent.target_offset.max(start), round_up(extent.end(), unit));
        match ranges.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ if start < end => ranges.push((start, end)),
            _ => {}
        }
    }
    ranges
}

/// How a device or file zeroes, best first.
#[derive(Clone, Copy)]
pub(super) enum Method {
    /// Deallocates blocks that read as zeros afterwards.
    Discard,
    /// Write Zeroes commands, or zeros written by the kernel.
    Kernel,
    /// Zeros written by us.
    Write,
}

/// Zeroes ranges of one device or file.
pub(super) struct Zeroer<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a Path,
    /// The best that may be tried.
    pub(super) method: Method,
    /// Set to stop early.
    pub(super) given_up: &'a AtomicBool,
}

impl Zeroer<'_> {
    pub(super) fn run(&self, ranges: &[(u64, u64)]) -> Result<()> {
        let mut method = self.method;
        for &(start, end) in ranges {
            let mut offset = start;
            while offset < end && !self.given_up.load(Ordering::Relaxed) {
                let (mode, step) = match method {
                    Method::Discard => (FallocateFlags::PUNCH_HOLE, DISCARD_BYTES),
                    Method::Kernel => (FallocateFlags::ZERO_RANGE, ZERO_BYTES),
                    Method::Write => {
                        self.write_zeros(offset, end)?;
                        break;
                    }
                };
                let length = step.min(end - offset);
                match fallocate(self.file, mode | FallocateFlags::KEEP_SIZE, offset, length) {
                    Ok(()) => offset += length,
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                        method = if matches!(method, Method::Discard) { Method::Kernel } else { Method::Write };
                    }
                    Err(error) => return Err(self.error(offset, length, error.into())),
                }
            }
        }
        Ok(())
    }

    fn write_zeros(&self, start: u64, end: u64) -> Result<()> {
        let mut zeros = BufferPool::new(1, ZERO_BUFFER_BYTES)?.take_wait();
        zeros.fill(0);
        let mut offset = start;
        while offset < end && !self.given_up.load(Ordering::Relaxed) {
            let length = (end - offset).min(ZERO_BUFFER_BYTES as u64);
            let written = self.file.write_all_at(&zeros[..length as usize], offset);
            written.map_err(|error| self.error(offset, length, error))?;
            offset += length;
        }
        Ok(())
    }

    fn error(&self, offset: u64, length_bytes: u64, error: std::io::Error) -> Error {
        Error::WriteTarget { path: self.path.to_owned(), offset, length_bytes, error }
    }
}
