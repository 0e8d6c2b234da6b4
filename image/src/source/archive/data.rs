//! Where the bytes of an archive's files lie: segments of a file on this machine, which is the archive itself or, when that is compressed, a
//! temporary file with its decompressed bytes.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::source::compression::{Compression, read_full};
use crate::{Error, PAGE_BYTES, Result};

/// A run of a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where it begins in the file of the tree.
    pub(super) offset: u64,
    /// Its bytes, more than 0.
    pub(super) bytes: u64,
    /// Where it lies in the [`DataFile`].
    pub(super) stored_at: u64,
}

/// The bytes of one file of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Data {
    /// Which [`DataFile`].
    pub(super) file: usize,
    pub(super) size_bytes: u64,
    /// Ascending; between them there are holes.
    pub(super) segments: Vec<Segment>,
}

impl Data {
    /// The first range with data from `offset` on.
    pub(super) fn next_stored(&self, offset: u64) -> Option<Range<u64>> {
        let next = self.segments.partition_point(|segment| segment.offset + segment.bytes <= offset);
        self.segments.get(next).map(|segment| segment.offset.max(offset)..segment.offset + segment.bytes)
    }

    /// Where all of it lies in one piece; `None` when it is sparse.
    pub(super) fn in_one_piece(&self) -> Option<Range<u64>> {
        match self.segments.as_slice() {
            [] if self.size_bytes == 0 => Some(0..0),
            [segment] if segment.bytes == self.size_bytes => Some(segment.stored_at..segment.stored_at + segment.bytes),
            _ => None,
        }
    }
}

/// Bytes that can be read anywhere.
pub(super) trait ReadAt {
    /// Reads from `offset` on into `buffer`. Returns how many bytes, fewer only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// How many there are.
    fn bytes(&self) -> u64;
}

impl ReadAt for &[u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let bytes = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(bytes)
    }

    fn bytes(&self) -> u64 {
        self.len() as u64
    }
}

/// A file on this machine that holds the data of files of a tree, or the part of it in `range`.
#[derive(Debug)]
pub(super) struct DataFile {
    /// For messages: the archive, even when `file` is temporary.
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// What of it counts.
    pub(super) range: Range<u64>,
}

impl DataFile {
    /// All of the regular file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        // Opening a fifo would wait for ever.
        if !std::fs::metadata(path).map_err(Error::io("opening", path))?.is_file() {
            return Err(Error::Source { path: path.to_owned(), why: "it is no regular file".into() });
        }
        let file = File::open(path).map_err(Error::io("opening", path))?;
        let bytes = file.metadata().map_err(Error::io("reading", path))?.len();
        Ok(Self { path: path.to_owned(), file, range: 0..bytes })
    }

    /// A part of it as one of its own.
    pub(super) fn part(&self, range: Range<u64>) -> Result<Self> {
        let file = self.file.try_clone().map_err(Error::io("opening", &self.path))?;
        let start = self.range.start.saturating_add(range.start).min(self.range.end);
        let end = self.range.start.saturating_add(range.end).clamp(start, self.range.end);
        Ok(Self { path: self.path.clone(), file, range: start..end })
    }

    /// Fills `buffer` with the bytes of `data` from `offset` on.
    pub(super) fn read(&self, data: &Data, mut offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            let stored = data.segments.get(data.segments.partition_point(|segment| segment.offset + segment.bytes <= offset));
            let bytes = match stored {
                Some(segment) if segment.offset <= offset => {
                    let within = offset - segment.offset;
                    let bytes = (segment.bytes - within).min(buffer.len() as u64) as usize;
                    let (piece, _) = buffer.split_at_mut(bytes);
                    let read = self.read_at(segment.stored_at.saturating_add(within), piece).map_err(Error::io("reading", &self.path))?;
                    if read < bytes {
                        return Err(Error::SourceChanged { path: self.path.clone() });
                    }
                    bytes
                }
                hole => {
                    let end = hole.map_or(u64::MAX, |segment| segment.offset);
                    let bytes = (end - offset).min(buffer.len() as u64) as usize;
                    let (piece, _) = buffer.split_at_mut(bytes);
                    piece.fill(0);
                    bytes
                }
            };
            offset += bytes as u64;
            buffer = buffer.split_at_mut(bytes).1;
        }
        Ok(())
    }
}

impl ReadAt for DataFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.range.start.saturating_add(offset);
        let within = self.range.end.saturating_sub(at).min(buffer.len() as u64) as usize;
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..within).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A file's bytes from front to back.
pub(super) struct Reader<'a> {
    file: &'a DataFile,
    offset: u64,
}

impl<'a> Reader<'a> {
    /// From its beginning.
    pub(super) fn of(file: &'a DataFile) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(self.offset, buffer)?;
        self.offset += bytes as u64;
        Ok(bytes)
    }
}

/// Writes a stream that comes from the compressed file `path` to a temporary file without a name. Pages of zeros become holes, so that an
/// archive made of nothing else does not fill the disk.
pub(super) fn spool(stream: &mut dyn Read, compression: Compression, path: &Path) -> Result<DataFile> {
    let directory = temporary_directory();
    let doing = "writing the decompressed archive (set TMPDIR to where there is room) to a temporary file in";
    let file = tempfile::tempfile_in(&directory).map_err(Error::io(doing, &directory))?;
    let mut buffer = vec![0; 256 << 10];
    let mut size_bytes = 0u64;
    loop {
        let filled = read_full(stream, &mut buffer).map_err(|error| compression.error(path, error))?;
        if filled == 0 {
            break;
        }
        let pages: Vec<&[u8]> = buffer.get(..filled).unwrap_or_default().chunks(PAGE_BYTES).collect();
        let is_zero = |page: &[u8]| page.iter().all(|&byte| byte == 0);
        for run in pages.chunk_by(|one, other| is_zero(one) == is_zero(other)) {
            let bytes = run.concat();
            if !is_zero(&bytes) {
                file.write_all_at(&bytes, size_bytes).map_err(Error::io(doing, &directory))?;
            }
            size_bytes += bytes.len() as u64;
        }
    }
    file.set_len(size_bytes).map_err(Error::io(doing, &directory))?;
    Ok(DataFile { path: path.to_owned(), file, range: 0..size_bytes })
}

/// TMPDIR, or where large temporary files belong: /tmp is often in memory.
fn temporary_directory() -> PathBuf {
    let var_tmp = PathBuf::from("/var/tmp");
    if std::env::var_os("TMPDIR").is_none() && var_tmp.is_dir() { var_tmp } else { std::env::temp_dir() }
}
