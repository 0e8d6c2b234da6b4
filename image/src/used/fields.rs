//! How the readers take numbers out of on-disk structures: checked, and with one way to give up on a filesystem.

use super::{Finding, Ranges};
use crate::disk_image::{DiskImage, Part};
use crate::{Error, Result};

/// Why a reader stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The filesystem has to be stored whole, for this reason.
    Whole(String),
    /// The disk cannot be read.
    Unreadable(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Unreadable(error)
    }
}

impl Stop {
    /// A structure contradicts itself or another one.
    pub(super) fn damaged(what: impl std::fmt::Display) -> Self {
        Self::Whole(format!("it looks damaged: {what}; check and repair it before packing"))
    }

    /// Something that the reader does not know.
    pub(super) fn unknown(what: impl std::fmt::Display) -> Self {
        Self::Whole(format!("{what}, which discus does not understand"))
    }
}

/// What is said of a filesystem by its reader's outcome.
pub(super) fn finding(filesystem: &'static str, outcome: Result<Ranges, Stop>) -> Result<Finding> {
    match outcome {
        Ok(used) => Ok(Finding::Used { filesystem, used }),
        Err(Stop::Whole(why)) => Ok(Finding::Whole { filesystem, why }),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

/// Fills `buffer` with a structure of the volume; one that is not within the volume is damage.
pub(super) fn read(volume: &Part<'_>, offset: u64, buffer: &mut [u8]) -> Result<(), Stop> {
    if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > volume.size_bytes()) {
        return Err(Stop::damaged(format_args!("a structure at byte {offset} lies beyond its end")));
    }
    Ok(volume.read_at(offset, buffer)?)
}

/// The structure of `length_bytes` at `offset`. The caller bounds the length.
pub(super) fn read_vec(volume: &Part<'_>, offset: u64, length_bytes: usize) -> Result<Vec<u8>, Stop> {
    let mut bytes = vec![0; length_bytes];
    read(volume, offset, &mut bytes)?;
    Ok(bytes)
}

/// `N` bytes from `at` on.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Stop> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or_else(|| Stop::damaged("a structure ends early"))
}

/// `length` bytes from `at` on.
pub(super) fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], Stop> {
    let found = at.checked_add(length).and_then(|end| bytes.get(at..end));
    found.ok_or_else(|| Stop::damaged("a structure ends early"))
}

pub(super) fn u8_at(bytes: &[u8], at: usize) -> Result<u8, Stop> {
    array(bytes, at).map(u8::from_le_bytes)
}

pub(super) fn le16(bytes: &[u8], at: usize) -> Result<u16, Stop> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn le32(bytes: &[u8], at: usize) -> Result<u32, Stop> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn le64(bytes: &[u8], at: usize) -> Result<u64, Stop> {
    array(bytes, at).map(u64::from_le_bytes)
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Result<u16, Stop> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Result<u32, Stop> {
    array(bytes, at).map(u32::from_be_bytes)
}

pub(super) fn be64(bytes: &[u8], at: usize) -> Result<u64, Stop> {
    array(bytes, at).map(u64::from_be_bytes)
}
