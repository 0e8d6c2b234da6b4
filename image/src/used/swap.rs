//! Linux swap space (include/linux/swap.h, `union swap_header`): only its header page has to be kept. A hibernated system is kept whole.

use super::Finding;
use crate::Result;
use crate::disk_image::{DiskImage, Part};

const NAME: &str = "swap";
/// The page sizes that mkswap writes for; the signature stands in the last 10 bytes of the first page.
const PAGE_SIZES_BYTES: [u64; 5] = [4096, 8192, 16384, 32768, 65536];

pub(super) fn probe(volume: &Part<'_>) -> Result<Option<Finding>> {
    for page_bytes in PAGE_SIZES_BYTES {
        if volume.size_bytes() < page_bytes {
            break;
        }
        let mut signature = [0; 10];
        volume.read_at(page_bytes - 10, &mut signature)?;
        let whole = |why: &str| Some(Finding::Whole { filesystem: NAME, why: why.to_owned() });
        return Ok(match &signature {
            b"SWAPSPACE2" => Some(Finding::Used { filesystem: NAME, used: std::iter::once(0..page_bytes).collect() }),
            b"SWAP-SPACE" => whole("its header is of the old kind"),
            // kernel/power/swap.c; the others are those of TuxOnIce and of uswsusp.
            b"S1SUSPEND\0" | b"S2SUSPEND\0" | b"ULSUSPEND\0" | b"LINHIB0001" => whole("it holds a hibernated system"),
            _ => continue,
        });
    }
    Ok(None)
}
