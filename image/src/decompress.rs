//! Decompression of chunks and sections. Zstd has one context per thread: a context costs 100 KiB and more time to make than a small section to
//! decompress. LZ4 needs none.

use std::cell::RefCell;
use std::io;

use crate::Codec;

thread_local! {
    static CONTEXT: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decompresses `stored` into `raw` and returns its length, which is at most that of `raw`.
pub(crate) fn decompress_into(codec: Codec, stored: &[u8], raw: &mut [u8]) -> io::Result<usize> {
    match codec {
        Codec::None => {
            let room = raw.get_mut(..stored.len()).ok_or(io::ErrorKind::InvalidData)?;
            room.copy_from_slice(stored);
            Ok(stored.len())
        }
        Codec::Lz4 => lz4_flex::block::decompress_into(stored, raw).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Codec::Zstd => zstd_into(stored, raw),
    }
}

/// Decompresses one zstd frame into `raw` and returns its length.
pub(crate) fn zstd_into(stored: &[u8], raw: &mut [u8]) -> io::Result<usize> {
    CONTEXT.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(zstd::bulk::Decompressor::new()?),
        };
        context.decompress_to_buffer(stored, raw)
    })
}
