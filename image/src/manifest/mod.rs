//! A manifest: how the bytes of one image are made from pages of chunks, zeros and holes. It is self-contained, so that it can
//! be sent to a receiver alone, and is decoded as hostile input.

mod cursor;
mod decode;
mod encode;
pub(crate) mod envelope;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use crate::units::CHUNK_PAGES_MAX;
use crate::{ChunkId, Codec, Error, ImageKind, PAGE_BYTES, Result};

pub(crate) use encode::encode;

/// Everything a receiver must know to re-create one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The image's name.
    pub name: String,
    /// Pages of a full chunk in this pack.
    pub chunk_pages: u32,
    /// The chunks this image needs, ascending by id; every one is used by at least one extent.
    pub chunks: Vec<ChunkDescriptor>,
    /// What the chunks are put together to.
    pub body: Body,
}

/// What is needed to check and decode one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkDescriptor {
    /// Its number in the pack and on the wire.
    pub id: ChunkId,
    /// Bytes as stored and sent: 1 to `raw_bytes`.
    pub stored_bytes: u32,
    /// Bytes when decoded: a multiple of [`PAGE_BYTES`].
    pub raw_bytes: u32,
    /// How the one becomes the other.
    pub codec: Codec,
    /// BLAKE3 of the stored bytes.
    pub hash: [u8; 32],
    /// BLAKE3 of the raw bytes, by which a chunk is recognised at a target. That of the stored bytes where they are the same; `None` for a
    /// compressed chunk of a manifest of version 1, which did not say it.
    pub raw_hash: Option<[u8; 32]>,
}

/// The two kinds of image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A disk or partition.
    Disk(DiskBody),
    /// A tree of files; shared, because a tree of a million files is large.
    Tree(Arc<TreeBody>),
}

/// A disk image: extents that follow each other without gap from 0 to `size_bytes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskBody {
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Ascending; each begins where the one before it ends.
    pub extents: Vec<Extent>,
}

/// A tree: entry 0 is the root directory, parents come before their children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeBody {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The extents of all files, each file's in one piece, see [`EntryKind::File`].
    pub extents: Vec<Extent>,
}

/// A run of bytes of a disk or of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the disk or file. A multiple of the page size in a file; any byte on a disk.
    pub target_offset: u64,
    /// Its bytes, more than 0.
    pub length: u64,
    /// What is there.
    pub content: Content,
}

impl Extent {
    /// The byte after its last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.target_offset + self.length
    }
}

/// What an extent consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Consecutive pages of one chunk. When the length is no multiple of the page size, the rest of the last page is zero
    /// in the chunk and belongs to nobody.
    Data {
        /// Index into [`Manifest::chunks`].
        chunk: u32,
        /// The first page in the raw chunk.
        page: u32,
    },
    /// Zeros that the source held as data.
    Zero,
    /// A range that the source did not store. Reads as zeros too.
    Hole,
}

/// Name and value of an extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

impl TreeBody {
    /// Whether every name is a single component that leads nowhere else, and every entry is in a directory before it. The decoder has
    /// checked that; who makes files by a tree asks again, since it may have come otherwise.
    pub(crate) fn stays_inside(&self) -> bool {
        let inside = |(index, entry): (usize, &Entry)| {
            let before = self.entries.get(..index).unwrap_or_default();
            let original = match entry.kind {
                EntryKind::HardLink { original } => {
                    before.get(original as usize).is_some_and(|original| original.kind != EntryKind::Directory)
                }
                _ => true,
            };
            let parent = before.get(entry.parent as usize).is_some_and(|parent| parent.kind == EntryKind::Directory);
            decode::is_component(&entry.name) && parent && original
        };
        self.entries.first().is_some_and(|root| root.kind == EntryKind::Directory) && self.entries.iter().enumerate().skip(1).all(inside)
    }
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Index of the directory it is in; 0 for the root itself.
    pub parent: u32,
    /// Its name there: any bytes but NUL and `/`, neither `.` nor `..`; empty for the root only.
    pub name: Vec<u8>,
    /// Permission bits, set-id bits and sticky bit.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: whole seconds since 1970 …
    pub mtime_s: i64,
    /// … and nanoseconds after that.
    pub mtime_ns: u32,
    /// Extended attributes: name and value, ascending by name. POSIX ACLs and file capabilities are among them.
    pub xattrs: Vec<Xattr>,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its size.
        size_bytes: u64,
        /// Its extents in [`TreeBody::extents`], which follow each other without gap from 0 to `size_bytes`.
        extents: Range<usize>,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to: not empty, no NUL.
        target: Vec<u8>,
    },
    /// One more name of an earlier entry, which is neither a directory nor itself a hard link. Metadata is that entry's.
    HardLink {
        /// The earlier entry.
        original: u32,
    },
    /// A character device.
    CharacterDevice {
        /// Its numbers.
        major: u32,
        /// See `major`.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its numbers.
        major: u32,
        /// See `major`.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

/// Longest manifest before compression: that of about ten million files.
pub(crate) const RAW_BYTES_MAX: u64 = 1 << 30;
/// Longest path of an entry below the root: what one system call takes, less its NUL.
pub(crate) const PATH_BYTES_MAX: usize = 4095;
/// Longest name of an entry, as in every Linux filesystem.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Largest disk or file: what a signed 64-bit file offset reaches, with room for rounding up.
pub(crate) const SIZE_BYTES_MAX: u64 = i64::MAX as u64 - (1 << 20);

impl Manifest {
    /// Decodes what [`Pack::manifest_section`](crate::Pack::manifest_section) returned.
    ///
    /// # Errors
    /// Refuses everything that is not exactly a manifest. Whatever it holds, decompression takes at most 256 times its length
    /// and at most 1 GiB, and the decoded types at most about 50 times that (a real manifest: 3 and 10 times).
    pub fn decode(section: &[u8]) -> Result<Self> {
        decode::decode(section).map_err(|malformed| Error::Manifest(malformed.to_string()))
    }

    /// Disk or tree.
    #[must_use]
    pub fn kind(&self) -> ImageKind {
        match self.body {
            Body::Disk(_) => ImageKind::Disk,
            Body::Tree(_) => ImageKind::Tree,
        }
    }

    /// The extents of the disk, or of all files of the tree.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        match &self.body {
            Body::Disk(disk) => &disk.extents,
            Body::Tree(tree) => &tree.extents,
        }
    }

    /// Bytes of the disk, or of all files of the tree together.
    #[must_use]
    pub fn logical_bytes(&self) -> u64 {
        match &self.body {
            Body::Disk(disk) => disk.size_bytes,
            Body::Tree(tree) => tree.extents.iter().map(|extent| extent.length).sum(),
        }
    }

    /// Bytes that have to be written as data: several times those of a chunk that is used several times.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        let is_data = |extent: &&Extent| matches!(extent.content, Content::Data { .. });
        self.extents().iter().filter(is_data).map(|extent| extent.length).sum()
    }

    /// Bytes that have to be received: the stored bytes of all its chunks.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.stored_bytes)).sum()
    }

    /// The most bytes a chunk of this pack can have, raw or stored.
    #[must_use]
    pub fn chunk_bytes_max(&self) -> usize {
        self.chunk_pages as usize * PAGE_BYTES
    }

    /// The index into [`Manifest::chunks`] of a chunk, if this image needs it.
    #[must_use]
    pub fn chunk_index(&self, id: ChunkId) -> Option<usize> {
        self.chunks.binary_search_by_key(&id, |chunk| chunk.id).ok()
    }
}

/// Checks a name for an image: it appears in URLs, logs and metrics, so it is plain.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_image_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+:@".contains(c);
    if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
        return Err(Error::Parameter(format!("{name:?} is no image name: 1 to 128 letters, digits and . _ - + : @ make one")));
    }
    Ok(())
}

/// Whether a pack may have chunks of this many pages.
pub(crate) fn chunk_pages_in_range(chunk_pages: u32) -> bool {
    (1..=CHUNK_PAGES_MAX).contains(&chunk_pages)
}
