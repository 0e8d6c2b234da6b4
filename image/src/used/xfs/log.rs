//! The log of XFS: whether it is clean, and what a clean one has to keep.
//!
//! The log is a ring of 512-byte basic blocks. The first word of each is the number of the pass (cycle) in which it was written; a block that begins a
//! record has a magic there and the cycle in its second word (fs/xfs/libxfs/xfs_log_format.h, `xlog_rec_header`). At mount the kernel finds the
//! head by these numbers alone (`xlog_find_head`), takes the record before it, and when that is an unmount record it replays nothing
//! (`xlog_check_unmount_rec`). So a clean log keeps the numbers and that record. It cannot be left out altogether: version 5's metadata carries log
//! sequence numbers, and a log that begins anew in cycle 1 would lie behind them.

use std::ops::Range;

use super::super::Ranges;
use super::super::fields::{Stop, array, be32, read, read_vec, u8_at};
use super::superblock::Superblock;
use crate::disk_image::Part;

const BASIC_BLOCK_BYTES: usize = 512;
/// `XLOG_HEADER_MAGIC_NUM`.
const HEADER_MAGIC: u32 = 0xfeed_babe;
/// `XLOG_HEADER_CYCLE_SIZE`: a header block describes so many bytes of its record.
const HEADER_COVERS_BYTES: u32 = 32 * 1024;
/// `XLOG_MAX_RECORD_BSIZE`.
const RECORD_BYTES_MAX: u32 = 256 * 1024;
/// `XLOG_UNMOUNT_TRANS`, a flag of an operation.
const UNMOUNT: u8 = 0x20;
/// A larger log is kept whole: a range for each of its basic blocks would take more memory than it saves space.
const STRIPPED_BYTES_MAX: u64 = 256 << 20;
/// Bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// The bytes of a clean log that have to be stored, counted from the start of the volume; a log that is not clean stops the reader.
pub(super) fn kept(volume: &Part<'_>, superblock: &Superblock) -> Result<Ranges, Stop> {
    let range = superblock.log_range();
    let cycles = Cycles::read(volume, &range)?;
    let head = cycles.head()?;
    let log = Log { volume, start: range.start, blocks: (range.end - range.start) / BASIC_BLOCK_BYTES as u64 };
    let unmount_record = log.unmount_record_before(head, superblock)?;
    if range.end - range.start > STRIPPED_BYTES_MAX {
        return Ok(std::iter::once(range).collect());
    }
    let record = unmount_record.map(|block| {
        let start = log.offset(block);
        start..start + BASIC_BLOCK_BYTES as u64
    });
    Ok(cycles.words.iter().chain(record).collect())
}

fn not_clean() -> Stop {
    Stop::Whole("it was not cleanly unmounted: mount and unmount it before packing".into())
}

/// What the first words of all basic blocks say.
struct Cycles {
    /// Runs of blocks with equal cycles: the first block and the cycle.
    runs: Vec<(u64, u32)>,
    /// Where the words lie on the volume; zeros are left out. Empty for a log that is kept whole.
    words: Ranges,
}

impl Cycles {
    fn read(volume: &Part<'_>, range: &Range<u64>) -> Result<Self, Stop> {
        let mut cycles = Self { runs: Vec::new(), words: Ranges::default() };
        let with_words = range.end - range.start <= STRIPPED_BYTES_MAX;
        let mut buffer = vec![0; READ_BYTES as usize];
        let mut offset = range.start;
        while offset < range.end {
            let length = (range.end - offset).min(READ_BYTES);
            // At most READ_BYTES.
            buffer.truncate(length as usize);
            read(volume, offset, &mut buffer)?;
            for block in buffer.chunks_exact(BASIC_BLOCK_BYTES) {
                let first = be32(block, 0)?;
                let (cycle, word_bytes) = if first == HEADER_MAGIC { (be32(block, 4)?, 8) } else { (first, 4) };
                if cycles.runs.last().is_none_or(|(_, last)| *last != cycle) {
                    // A clean log has two runs, see below; a few more say that it has not, and bound the memory.
                    if cycles.runs.len() == 3 {
                        return Err(not_clean());
                    }
                    cycles.runs.push(((offset - range.start) / BASIC_BLOCK_BYTES as u64, cycle));
                }
                if with_words && first != 0 {
                    cycles.words.push(offset..offset + word_bytes);
                }
                offset += BASIC_BLOCK_BYTES as u64;
            }
        }
        Ok(cycles)
    }

    /// The block that would be written next. In a log that was closed properly the blocks before it have a cycle, and those from it on the one before
    /// that cycle (0: not written yet). Other patterns come from writes that were cut off.
    fn head(&self) -> Result<u64, Stop> {
        match self.runs.as_slice() {
            [(_, cycle)] if *cycle > 0 => Ok(0),
            [(_, cycle), (head, before)] if before.checked_add(1) == Some(*cycle) => Ok(*head),
            _ => Err(not_clean()),
        }
    }
}

/// The ring.
struct Log<'a> {
    volume: &'a Part<'a>,
    start: u64,
    blocks: u64,
}

impl Log<'_> {
    /// Where a block lies on the volume.
    fn offset(&self, block: u64) -> u64 {
        self.start + block * BASIC_BLOCK_BYTES as u64
    }

    /// The block `count` blocks before `block`, around the ring.
    fn before(&self, block: u64, count: u64) -> u64 {
        (block + self.blocks - count % self.blocks) % self.blocks
    }

    /// The blocks of the unmount record that ends at `head`.
    fn unmount_record_before(&self, head: u64, superblock: &Superblock) -> Result<impl Iterator<Item = u64> + use<>, Stop> {
        // The header lies right before the head, by the length of a record at most: its headers, then its data.
        let distance_max = u64::from(RECORD_BYTES_MAX / BASIC_BLOCK_BYTES as u32 + RECORD_BYTES_MAX / HEADER_COVERS_BYTES);
        for distance in 1..=distance_max.min(self.blocks) {
            let first = self.before(head, distance);
            let header = read_vec(self.volume, self.offset(first), BASIC_BLOCK_BYTES)?;
            if be32(&header, 0)? != HEADER_MAGIC {
                continue;
            }
            // xlog_rec_header: h_cycle, h_version, h_len, …, h_num_logops at 40, h_fs_uuid at 304, h_size at 320.
            let (version, length_bytes, size_bytes) = (be32(&header, 8)?, be32(&header, 12)?, be32(&header, 320)?);
            let header_blocks = match version & 2 != 0 && superblock.log_v2 && size_bytes > HEADER_COVERS_BYTES {
                true => size_bytes.min(RECORD_BYTES_MAX).div_ceil(HEADER_COVERS_BYTES),
                false => 1,
            };
            let length_blocks = length_bytes.div_ceil(BASIC_BLOCK_BYTES as u32);
            let complete = u64::from(header_blocks) + u64::from(length_blocks) == distance;
            if !complete || length_blocks == 0 || be32(&header, 40)? != 1 || array(&header, 304)? != superblock.uuid {
                return Err(not_clean());
            }
            // The record's only operation, `xlog_op_header`: oh_tid, oh_len, oh_clientid, oh_flags.
            let operation_block = self.before(head, length_blocks.into());
            let operation = read_vec(self.volume, self.offset(operation_block), BASIC_BLOCK_BYTES)?;
            if u8_at(&operation, 9)? & UNMOUNT == 0 {
                return Err(not_clean());
            }
            let blocks = self.blocks;
            return Ok((0..distance).map(move |number| (first + number) % blocks));
        }
        Err(not_clean())
    }
}
