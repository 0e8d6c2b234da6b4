//! qcow2 images, versions 2 and 3, read in this process: compressed clusters (zlib and zstd), subclusters and backing chains. What an image
//! asks for beyond that (encryption, an external data file) is refused by name.
//!
//! Why not the crate imago, which is well kept: it reads no zstd clusters and no subclusters, and opens whatever file an image names.

mod backing;
mod clusters;
mod header;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use self::backing::Chain;
use self::clusters::{Cache, Place};
use self::header::{HEADER_BYTES, Header, be64};
use super::{DiskImage, RawImage};
use crate::{Error, Result};

/// A qcow2 image with its backing chain.
pub struct Qcow2Image {
    path: PathBuf,
    file: File,
    file_bytes: u64,
    header: Header,
    l1: Vec<u64>,
    backing: Option<Box<dyn DiskImage>>,
    cache: Mutex<Cache>,
}

/// Why an image is not read, without its name.
#[derive(Debug)]
struct Refused(String);

impl From<&str> for Refused {
    fn from(why: &str) -> Self {
        Self(why.to_owned())
    }
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self(why)
    }
}

impl Qcow2Image {
    /// Opens the image at `path` and its backing files. These must lie in the directory of the image that names them, unless
    /// `backing_anywhere`: an image from elsewhere could name any file of this machine.
    ///
    /// # Errors
    /// When it or a backing file cannot be opened, is damaged, or needs what is not understood.
    pub fn open(path: PathBuf, backing_anywhere: bool) -> Result<Self> {
        let file = File::open(&path).map_err(Error::io("opening", &path))?;
        let metadata = file.metadata().map_err(Error::io("reading", &path))?;
        let chain = Chain::new(&metadata, backing_anywhere);
        Self::open_in(path, file, &chain)
    }

    fn open_in(path: PathBuf, file: File, chain: &Chain) -> Result<Self> {
        let refused = |Refused(why)| Error::Source { path: path.clone(), why };
        let read = |offset: u64, bytes: usize| read_up_to(&file, offset, bytes).map_err(Error::io("reading", &path));
        let file_bytes = file.metadata().map_err(Error::io("reading", &path))?.len();
        // One byte more: the compression type, in the first bytes of the optional fields.
        let header = Header::parse(&read(0, HEADER_BYTES + 1)?, file_bytes).map_err(refused)?;
        let l1 = read(header.l1_offset, header.l1_entries * 8)?;
        let l1: Vec<u64> = (0..header.l1_entries).filter_map(|index| be64(&l1, index * 8)).collect();
        check_l1(&l1, 1 << header.cluster_bits, file_bytes).map_err(refused)?;
        let backing = match header.backing_name {
            None => None,
            Some((offset, bytes)) => {
                let name = read(offset, bytes)?;
                let first_cluster = read(0, 1 << header.cluster_bits)?;
                let format = header.backing_format(&first_cluster);
                Some(open_backing(&path, &name, format, chain)?)
            }
        };
        Ok(Self { path, file, file_bytes, header, l1, backing, cache: Mutex::default() })
    }

    fn damaged(&self, why: &str) -> Error {
        Error::Source { path: self.path.clone(), why: format!("it is damaged: {why}; see `qemu-img check`") }
    }

    /// Where the byte at `offset` is, and up to where the bytes behind it are in the same place.
    fn place(&self, offset: u64) -> Result<(Place, u64)> {
        let cluster_bits = self.header.cluster_bits;
        let l2_bits = cluster_bits - if self.header.extended_l2 { 4 } else { 3 };
        let span_bits = cluster_bits + l2_bits;
        let size_bytes = self.header.size_bytes;
        let entry = usize::try_from(offset >> span_bits).ok().and_then(|index| self.l1.get(index)).copied().unwrap_or(0);
        let Some(table_offset) = clusters::table_offset(entry) else {
            let end = ((offset >> span_bits) + 1) << span_bits;
            return Ok((Place::Backing, end.min(size_bytes)));
        };
        let table = {
            // What a panicking thread leaves is at worst an incomplete cache.
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            clusters::table(&mut cache, &self.file, table_offset, 1 << cluster_bits).map_err(Error::io("reading", &self.path))?
        };
        let index = ((offset >> cluster_bits) & ((1 << l2_bits) - 1)) as usize;
        let in_cluster = offset & ((1 << cluster_bits) - 1);
        let (place, bytes) = clusters::place(&self.header, &table, index, in_cluster).map_err(|why| self.damaged(why))?;
        Ok((place, offset.saturating_add(bytes).min(size_bytes)))
    }

    fn read_piece(&self, place: Place, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match place {
            Place::Zero => buffer.fill(0),
            Place::Backing => {
                let backing = self.backing.as_deref().filter(|backing| offset < backing.size_bytes());
                // The backing file may be shorter than this one.
                let within = backing.map_or(0, |backing| (backing.size_bytes() - offset).min(buffer.len() as u64) as usize);
                let (stored, beyond) = buffer.split_at_mut(within);
                if let Some(backing) = backing {
                    backing.read_at(offset, stored)?;
                }
                beyond.fill(0);
            }
            Place::File(at) => {
                // The last cluster may be cut short: QEMU lets the file end where its data ends.
                let within = self.file_bytes.saturating_sub(at).min(buffer.len() as u64) as usize;
                let (stored, beyond) = buffer.split_at_mut(within);
                self.file.read_exact_at(stored, at).map_err(Error::io("reading", &self.path))?;
                beyond.fill(0);
            }
            Place::Compressed { offset: at, bytes } => {
                let cluster = {
                    let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                    clusters::compressed(&mut cache, &self.header, &self.file, at, bytes)
                };
                let cluster = cluster.map_err(|error| match error.raw_os_error() {
                    Some(_) => Error::io("reading", &self.path)(error),
                    None => self.damaged(&format!("a compressed cluster cannot be read: {error}")),
                })?;
                let in_cluster = (offset & ((1 << self.header.cluster_bits) - 1)) as usize;
                let bytes = cluster.get(in_cluster..).and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(bytes.ok_or_else(|| self.damaged("a read leaves its cluster"))?);
            }
        }
        Ok(())
    }
}

impl DiskImage for Qcow2Image {
    fn path(&self) -> &Path {
        &self.path
    }

    fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            if offset >= self.header.size_bytes {
                return Err(self.damaged("a read reaches beyond its end"));
            }
            let (place, mut end) = self.place(offset)?;
            // Small clusters mostly lie one behind the other: one read for all of them.
            while let Place::File(at) = place
                && end - offset < buffer.len() as u64
                && end < self.header.size_bytes
            {
                match self.place(end)? {
                    (Place::File(next), next_end) if next == at + (end - offset) => end = next_end,
                    _ => break,
                }
            }
            let bytes = (end - offset).min(buffer.len() as u64);
            let (piece, rest) = buffer.split_at_mut(bytes as usize);
            self.read_piece(place, offset, piece)?;
            offset += bytes;
            buffer = rest;
        }
        Ok(())
    }

    fn next_stored(&self, mut offset: u64) -> Result<Option<Range<u64>>> {
        let mut found: Option<Range<u64>> = None;
        while offset < self.header.size_bytes {
            let (place, end) = self.place(offset)?;
            let stored = match place {
                Place::Zero => None,
                Place::File(_) | Place::Compressed { .. } => Some(offset..end),
                Place::Backing => self.stored_in_backing(offset, end)?,
            };
            match (&mut found, stored) {
                (None, None) => {}
                (None, Some(stored)) => {
                    let goes_on = stored.end == end;
                    found = Some(stored);
                    if !goes_on {
                        break;
                    }
                }
                (Some(found), Some(stored)) if stored.start == found.end => {
                    found.end = stored.end;
                    if stored.end != end {
                        break;
                    }
                }
                (Some(_), _) => break,
            }
            offset = end;
        }
        Ok(found)
    }
}

impl Qcow2Image {
    /// The first range that the backing file stores of `offset..end`.
    fn stored_in_backing(&self, offset: u64, end: u64) -> Result<Option<Range<u64>>> {
        let Some(backing) = self.backing.as_deref().filter(|backing| offset < backing.size_bytes()) else { return Ok(None) };
        let stored = backing.next_stored(offset)?.filter(|stored| stored.start < end);
        Ok(stored.map(|stored| stored.start.max(offset)..stored.end.min(end)))
    }
}

/// Refuses tables that lie outside of the file or between clusters, or that two entries share, which no valid image has. That they are not shared bounds the work of reading the map
/// by the length of the file.
fn check_l1(l1: &[u64], cluster_bytes: u64, file_bytes: u64) -> Result<(), Refused> {
    let mut offsets: Vec<u64> = l1.iter().filter_map(|&entry| clusters::table_offset(entry)).collect();
    offsets.sort_unstable();
    let is_misplaced = |offset: &u64| !offset.is_multiple_of(cluster_bytes) || *offset >= file_bytes;
    if offsets.iter().any(is_misplaced) || offsets.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err("it is damaged: an L2 table lies outside of the file or is named twice; see `qemu-img check`".into());
    }
    Ok(())
}

fn open_backing(image: &Path, name: &[u8], format: Option<&[u8]>, chain: &Chain) -> Result<Box<dyn DiskImage>> {
    let refused = |Refused(why)| Error::Source { path: image.to_owned(), why };
    let (path, chain) = chain.follow(image, name).map_err(refused)?;
    let file = File::open(&path).map_err(Error::io("opening", &path))?;
    let is_qcow2 = match format {
        Some(b"qcow2") => true,
        Some(b"raw" | b"file") => false,
        Some(other) => {
            let why = format!(
                "its backing file has the format {:?}, only raw and qcow2 are read: convert the image with `qemu-img convert -O qcow2 IN OUT`",
                String::from_utf8_lossy(other)
            );
            return Err(refused(why.into()));
        }
        // Images of before QEMU 6.1 need not say it.
        None => read_up_to(&file, 0, 4).map_err(Error::io("reading", &path))? == b"QFI\xfb",
    };
    if is_qcow2 { Ok(Box::new(Qcow2Image::open_in(path, file, &chain)?)) } else { Ok(Box::new(RawImage::open(path)?)) }
}

/// The bytes at `offset`, fewer when the file ends.
fn read_up_to(file: &File, offset: u64, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled as u64))? {
            0 => break,
            read => filled += read,
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
