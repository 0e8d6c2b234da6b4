//! The chunks of btrfs: which logical addresses lie where on the device.

use std::ops::Range;

use super::super::fields::{Stop, le16, le64, slice};
use super::superblock::Superblock;
use super::tree::{KEY_BYTES, Key, Reader};
use crate::disk_image::Part;

/// `BTRFS_FIRST_CHUNK_TREE_OBJECTID` and `BTRFS_CHUNK_ITEM_KEY`.
const CHUNK_OBJECT: u64 = 256;
const CHUNK_ITEM: u8 = 228;
/// `btrfs_chunk` without its stripes, and `btrfs_stripe`.
const CHUNK_BYTES: usize = 48;
const STRIPE_BYTES: usize = 32;
/// Bits of a chunk's type: data, system or metadata; `BTRFS_BLOCK_GROUP_DUP`. The others are profiles for several devices, or not known.
const KIND_MASK: u64 = 7;
const PROFILE_DUP: u64 = 1 << 5;
/// Chunks of a petabyte: a device with more is not of this world.
const CHUNKS_MAX: usize = 1 << 20;

/// A range of logical addresses, and where its first byte is on the device, once or twice.
struct Chunk {
    logical: Range<u64>,
    copies: Vec<u64>,
}

/// All chunks, ascending by logical address.
pub(super) struct Chunks(Vec<Chunk>);

/// Reads the chunk tree, with the chunks of the superblock's array, which hold it.
pub(super) fn read(volume: &Part<'_>, superblock: &Superblock) -> Result<Chunks, Stop> {
    let mut system = Chunks(Vec::new());
    let array = &superblock.system_chunks;
    let mut at = 0;
    while at < array.len() {
        let key = Key::at(array, at)?;
        let stripes = usize::from(le16(array, at + KEY_BYTES + 44)?);
        let item = slice(array, at + KEY_BYTES, CHUNK_BYTES + stripes * STRIPE_BYTES)?;
        system.add(key, item, superblock)?;
        at += KEY_BYTES + item.len();
    }
    let mut all = Chunks(Vec::new());
    Reader { volume, superblock, chunks: &system }.walk(superblock.chunk_root, &mut |key, item| match key.kind {
        CHUNK_ITEM => all.add(key, item, superblock),
        _ => Ok(()),
    })?;
    Ok(all)
}

impl Chunks {
    fn add(&mut self, key: Key, item: &[u8], superblock: &Superblock) -> Result<(), Stop> {
        let damaged = || Stop::damaged(format_args!("its chunk at logical address {} is wrong", key.offset));
        if key.kind != CHUNK_ITEM || key.object != CHUNK_OBJECT {
            return Err(damaged());
        }
        let (length, kind, stripes) = (le64(item, 0)?, le64(item, 24)?, le16(item, 44)?);
        let copies = match kind & !KIND_MASK {
            0 => 1,
            PROFILE_DUP => 2,
            other => return Err(Stop::unknown(format_args!("it has chunks of type {other:#x}"))),
        };
        if stripes != copies {
            return Err(damaged());
        }
        let end = key.offset.checked_add(length).filter(|_| length > 0).ok_or_else(damaged)?;
        if self.0.last().is_some_and(|last| last.logical.end > key.offset) || self.0.len() >= CHUNKS_MAX {
            return Err(damaged());
        }
        let stripe = |number: usize| {
            let at = CHUNK_BYTES + number * STRIPE_BYTES;
            let (device, start) = (le64(item, at)?, le64(item, at + 8)?);
            let inside = start.checked_add(length).is_some_and(|end| end <= superblock.device_bytes);
            if device == superblock.device_id && inside { Ok(start) } else { Err(damaged()) }
        };
        let copies = (0..usize::from(copies)).map(stripe).collect::<Result<_, Stop>>()?;
        self.0.push(Chunk { logical: key.offset..end, copies });
        Ok(())
    }

    fn holding(&self, logical: u64, length: u64) -> Result<&Chunk, Stop> {
        let chunk = self.0.get(self.0.partition_point(|chunk| chunk.logical.end <= logical));
        let chunk =
            chunk.filter(|chunk| chunk.logical.start <= logical && logical.checked_add(length).is_some_and(|end| end <= chunk.logical.end));
        chunk.ok_or_else(|| Stop::damaged(format_args!("no chunk holds {length} bytes at logical address {logical}")))
    }

    /// Where the first copy of a range is on the device.
    pub(super) fn physical(&self, logical: u64, length: u64) -> Result<u64, Stop> {
        let chunk = self.holding(logical, length)?;
        let copy = chunk.copies.first().copied().unwrap_or_default();
        Ok(copy + (logical - chunk.logical.start))
    }

    /// Where all copies of a range are on the device.
    pub(super) fn copies(&self, logical: u64, length: u64) -> Result<impl Iterator<Item = Range<u64>> + use<'_>, Stop> {
        let chunk = self.holding(logical, length)?;
        let within = logical - chunk.logical.start;
        Ok(chunk.copies.iter().map(move |copy| copy + within..copy + within + length))
    }
}
