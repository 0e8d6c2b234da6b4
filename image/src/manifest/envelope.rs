//! The envelope that a manifest and the sections of a pack are stored in: compressed, with a bound on how much they may expand.

use crate::Codec;
use crate::decompress::zstd_into;

/// A stored section expands to at most this many times its length. zstd alone could make 4 GiB from 128 KiB; real
/// sections stay below 60. The encoder stores what would exceed it uncompressed.
pub(crate) const EXPANSION_MAX: u64 = 256;

/// Level for sections: small beside the chunks, so better than the chunks' 3.
const SECTION_LEVEL: i32 = 9;

/// Compresses `raw` when that is worth it, unless `codec` is none. With zstd whatever the chunks have: sections are small, and hold what a slower
/// codec is good at.
pub(crate) fn seal(raw: Vec<u8>, codec: Codec) -> (Codec, Vec<u8>) {
    if codec != Codec::None
        && let Ok(stored) = zstd::bulk::compress(&raw, SECTION_LEVEL)
        && stored.len() < raw.len()
        && raw.len() as u64 <= stored.len() as u64 * EXPANSION_MAX
    {
        return (Codec::Zstd, stored);
    }
    (Codec::None, raw)
}

/// The raw bytes of a section that is announced to have `raw_bytes`.
pub(crate) fn open(stored: &[u8], codec: Codec, raw_bytes: u64) -> Result<Vec<u8>, &'static str> {
    match codec {
        Codec::None if raw_bytes == stored.len() as u64 => Ok(stored.to_vec()),
        Codec::None => Err("its length is not the announced one"),
        Codec::Lz4 => Err("its codec is not one for sections"),
        Codec::Zstd if raw_bytes > stored.len() as u64 * EXPANSION_MAX => Err("it announces an impossible expansion"),
        Codec::Zstd => {
            let mut raw = vec![0; raw_bytes as usize];
            let length = zstd_into(stored, &mut raw).map_err(|_| "it does not decompress")?;
            if length != raw.len() {
                return Err("it decompresses to another length than announced");
            }
            Ok(raw)
        }
    }
}
