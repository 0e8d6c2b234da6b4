//! A raw disk image that is compressed as a whole: decompressed from front to back in each pass. There is no random access, so that its
//! filesystems cannot be looked at: all of it is packed.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::compression::{Compression, read_full};
use super::{PageSink, Source};
use crate::{Error, ImageKind, Result};

/// Bytes decompressed at a time: a chunk's worth.
const PIECE_BYTES: usize = 256 << 10;
/// How much a disk image shrinks, for the progress line; the formats' own words on it are optional, or modulo 4 GiB.
const USUAL_RATIO: u64 = 4;

/// A compressed raw image.
pub(super) struct CompressedDiskSource {
    path: PathBuf,
    compression: Compression,
    compressed_bytes: u64,
}

impl CompressedDiskSource {
    /// The image in the file `path`.
    pub(super) fn open(path: PathBuf, compression: Compression) -> Result<Self> {
        let compressed_bytes = std::fs::metadata(&path).map_err(Error::io("opening", &path))?.len();
        Ok(Self { path, compression, compressed_bytes })
    }
}

impl Source for CompressedDiskSource {
    fn kind(&self) -> ImageKind {
        ImageKind::Disk
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn scan(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        let mut stream = self.compression.open(&self.path)?;
        hand_over(&mut *stream, sink, &|error| self.compression.error(&self.path, error))
    }

    fn estimated_bytes(&self) -> u64 {
        self.compressed_bytes.saturating_mul(USUAL_RATIO)
    }

    fn notes(&self) -> Vec<String> {
        vec![format!(
            "{} is compressed as a whole ({}): its free blocks are not recognised and are packed too; unpack it or convert it to qcow2 to leave them out",
            self.path.display(),
            self.compression.name()
        )]
    }
}

/// Hands a stream to `sink` in whole pages, but for the last.
fn hand_over(stream: &mut dyn Read, sink: &mut dyn PageSink, explain: &dyn Fn(std::io::Error) -> Error) -> Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut offset = 0;
    loop {
        let filled = read_full(stream, &mut buffer).map_err(explain)?;
        if filled == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..filled];
        sink.data(offset, filled as u64, &mut |page| {
            // `data` asks for no more than it was told there is.
            let (taken, left) = rest.split_at_checked(page.len()).ok_or(Error::Stopped)?;
            page.copy_from_slice(taken);
            rest = left;
            Ok(())
        })?;
        offset += filled as u64;
    }
}
