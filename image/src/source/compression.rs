//! Compressed files as streams: which of gzip, zstd and xz a file is, and its bytes decompressed. Concatenated members and frames are read as
//! one stream, as the tools do.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use crate::{Error, Result};

/// The largest window of a zstd frame, as a power of two: 128 MiB, which is also what `zstd -d` takes without `--long`.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// The memory an xz stream may ask for. `xz -9` takes 65 MiB to decompress.
const XZ_MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 128 << 10;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// The .xz file format 1.2.
    Xz,
}

impl Compression {
    /// What `beginning`, the first bytes of a file, say; `None` when it is none of them.
    pub(super) fn of(beginning: &[u8]) -> Option<Self> {
        match *beginning {
            // Method 8 is deflate, the only one there is; the upper flags are reserved.
            [0x1f, 0x8b, 8, flags, ..] if flags & 0xe0 == 0 => Some(Self::Gzip),
            // A frame, or a skippable frame: pzstd begins with one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            _ => None,
        }
    }

    /// Its usual name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        }
    }

    /// `compressed` as the bytes it was made from.
    pub(super) fn reader<'a>(self, compressed: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(compressed)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
            Self::Xz => Box::new(XzDecoder::new_stream(compressed, Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, CONCATENATED)?)),
        })
    }

    /// Opens the compressed file at `path`.
    pub(super) fn open(self, path: &Path) -> Result<Box<dyn Read + Send>> {
        let file = File::open(path).map_err(Error::io("opening", path))?;
        self.reader(BufReader::with_capacity(READ_BYTES, file)).map_err(|error| self.error(path, error))
    }

    /// What an error of [`Compression::reader`]'s stream means.
    pub(super) fn error(self, path: &Path, error: io::Error) -> Error {
        // What the kernel says has a number; everything else comes from a decoder.
        if error.raw_os_error().is_some() {
            return Error::io("reading", path)(error);
        }
        let advice = match self {
            Self::Gzip => "",
            Self::Zstd => " (a window of at most 128 MiB is read: zstd --long=27)",
            Self::Xz => " (at most 256 MiB of memory are given to it: a dictionary of 192 MiB)",
        };
        Error::Source { path: path.to_owned(), why: format!("its {} data cannot be decompressed: {error}{advice}", self.name()) }
    }
}

/// Fills `buffer` as far as the stream goes. Returns how far.
pub(super) fn read_full(stream: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
