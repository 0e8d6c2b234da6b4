//! Zstd decompression with one context per thread: a context costs 100 KiB and more time to make than a small section to decompress.

use std::cell::RefCell;
use std::io;

thread_local! {
    static CONTEXT: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decompresses one frame into `raw` and returns its length.
pub(crate) fn zstd_into(stored: &[u8], raw: &mut [u8]) -> io::Result<usize> {
    CONTEXT.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(zstd::bulk::Decompressor::new()?),
        };
        context.decompress_to_buffer(stored, raw)
    })
}
