//! O_DIRECT: what a file asks of it, and whether an image's extents fit that.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, OFlags, StatxFlags, fcntl_getfl, fcntl_setfl, statx};

use super::Run;
use crate::PAGE_BYTES;
use crate::manifest::Extent;

/// The multiple that offsets and lengths of O_DIRECT writes to a regular file must be of: asked of the kernel (since 6.1), else a page.
/// `None` when the filesystem cannot do it.
pub(super) fn alignment_bytes(file: impl AsFd) -> Option<u32> {
    let page_bytes = PAGE_BYTES as u32;
    match statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(found) if found.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            let fits = (1..=page_bytes).contains(&found.stx_dio_offset_align) && found.stx_dio_mem_align <= page_bytes;
            fits.then_some(found.stx_dio_offset_align)
        }
        _ => Some(page_bytes),
    }
}

/// Whether every write begins and ends at a multiple of `align_bytes`. The end of the image is left out: the zeros after it in the last
/// page are written too.
pub(super) fn extents_fit(extents: &[Extent], align_bytes: u32) -> bool {
    extents.iter().all(|extent| extent.target_offset.is_multiple_of(align_bytes.into()))
}

/// Switches O_DIRECT of an open file.
pub(super) fn set(file: impl AsFd, on: bool) -> rustix::io::Result<()> {
    let mut flags = fcntl_getfl(&file)?;
    flags.set(OFlags::DIRECT, on);
    fcntl_setfl(&file, flags)
}

/// A run as O_DIRECT takes it, or unchanged for buffered writes (`direct_bytes` 0).
pub(super) fn padded(run: Run, direct_bytes: u32) -> Run {
    match direct_bytes {
        0 => run,
        // At most a page, and chunks consist of whole pages: the result stays inside the chunk.
        align_bytes => Run { length: run.length.next_multiple_of(align_bytes), ..run },
    }
}
