//! Opening a pack: trailer, header, directory, tables and manifests are checked against the root. Chunk data is not read here.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::format::{ALIGN_BYTES, DIRECTORY_ENTRY_BYTES, DirectoryEntry, Header, SectionKind, TRAILER_BYTES, Trailer, root};
pub use super::records::{ChunkRecord, ImageInfo, Segment};
use super::records::{decode_chunks, decode_images, decode_segments};
use crate::manifest::envelope;
use crate::{Codec, Error, ImageSet, Manifest, Result};

/// An open pack.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    pub(super) file: File,
    header: Header,
    root: [u8; 32],
    /// Where the chunk records end.
    pub(super) data_end: u64,
    chunks: Vec<ChunkRecord>,
    segments: Vec<Segment>,
    images: Vec<ImageInfo>,
    /// One per image.
    manifests: Vec<DirectoryEntry>,
}

impl Pack {
    /// Opens a pack and checks everything but the chunks' data.
    ///
    /// # Errors
    /// Names the part of the pack that is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("opening", path))?;
        let metadata = file.metadata().map_err(Error::io("reading the size of", path))?;
        if !metadata.is_file() {
            return Err(Error::pack(path, "file", "it is no regular file"));
        }
        let reader = Reader { path, file: &file };
        let file_bytes = metadata.len();
        if file_bytes < (ALIGN_BYTES + TRAILER_BYTES) as u64 {
            return Err(Error::pack(path, "file", format!("{file_bytes} bytes are too few for a pack")));
        }
        let header_bytes: [u8; ALIGN_BYTES] = reader.array(0)?;
        let header = Header::decode(&header_bytes).map_err(|why| Error::pack(path, "header", why))?;
        let trailer = Trailer::decode(&reader.array(file_bytes - TRAILER_BYTES as u64)?)
            .ok_or_else(|| Error::pack(path, "trailer", "it is damaged or cut off: is the pack complete?"))?;

        let expected_bytes = (3 + u64::from(header.images)) * DIRECTORY_ENTRY_BYTES as u64;
        if trailer.directory_bytes != expected_bytes
            || trailer.directory_offset.checked_add(expected_bytes) != Some(file_bytes - TRAILER_BYTES as u64)
        {
            return Err(Error::pack(path, "trailer", "the directory is not where it should be"));
        }
        let directory = reader.bytes(trailer.directory_offset, expected_bytes)?;
        if root(&header_bytes, &directory) != trailer.root {
            return Err(Error::pack(path, "header or section directory", "their BLAKE3 is not the root"));
        }
        let sections = decode_directory(&directory, trailer.directory_offset).map_err(|why| Error::pack(path, "section directory", why))?;
        let data_end = sections.first().map_or(0, |first| first.offset);

        let table = |index: usize, name: &str| reader.section(&sections[index], name);
        let named = |name: &'static str| move |why| Error::pack(path, name, why);
        let chunks = decode_chunks(&table(0, "chunk table")?, &header, data_end).map_err(named("chunk table"))?;
        let segments = decode_segments(&table(1, "segment table")?, &header, &chunks).map_err(named("segment table"))?;
        let images = decode_images(&table(2, "image table")?, &header, &chunks, &segments).map_err(named("image table"))?;
        let manifests = sections[3..].to_vec();
        let pack = Self { path: path.to_owned(), file, header, root: trailer.root, data_end, chunks, segments, images, manifests };
        for image in 0..pack.images.len() {
            pack.manifest_section(image)?;
        }
        Ok(pack)
    }

    /// The file it was opened from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// BLAKE3 that stands for all content: equal roots, equal packs.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        self.root
    }

    /// Pages of a full chunk.
    #[must_use]
    pub fn chunk_pages(&self) -> u32 {
        self.header.chunk_pages
    }

    /// The chunks, by id.
    #[must_use]
    pub fn chunks(&self) -> &[ChunkRecord] {
        &self.chunks
    }

    /// The segments, in order of their chunks: what most images want comes first.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The images, in the order they were named in when the pack was made.
    #[must_use]
    pub fn images(&self) -> &[ImageInfo] {
        &self.images
    }

    /// The images that want a chunk.
    ///
    /// # Panics
    /// When `chunk` is not below the number of chunks.
    #[must_use]
    pub fn images_of_chunk(&self, chunk: crate::ChunkId) -> &ImageSet {
        &self.segments[self.chunks[chunk.index()].segment as usize].images
    }

    /// The index of an image.
    ///
    /// # Errors
    /// When there is none of that name; the error lists those there are.
    pub fn image_index(&self, name: &str) -> Result<usize> {
        self.images.iter().position(|image| image.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.images.iter().map(|image| image.name.as_str()).collect();
            Error::NoSuchImage { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// The manifest of an image as stored, to be sent alone; [`Manifest::decode`] reads it. Its hash is checked.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    ///
    /// # Panics
    /// When `image` is not below the number of images.
    pub fn manifest_section(&self, image: usize) -> Result<Vec<u8>> {
        let name = self.manifest_name(image);
        Reader { path: &self.path, file: &self.file }.section(&self.manifests[image], &name)
    }

    /// The manifest of an image.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    ///
    /// # Panics
    /// When `image` is not below the number of images.
    pub fn manifest(&self, image: usize) -> Result<Manifest> {
        let section = self.manifest_section(image)?;
        Manifest::decode(&section).map_err(|error| Error::pack(&self.path, self.manifest_name(image), error.to_string()))
    }

    pub(super) fn manifest_name(&self, image: usize) -> String {
        format!("manifest of {}", self.images[image].name)
    }
}

/// Checks that the sections are those that must be there, one directly after the other up to the directory.
fn decode_directory(directory: &[u8], directory_offset: u64) -> Result<Vec<DirectoryEntry>, String> {
    let mut sections: Vec<DirectoryEntry> = Vec::new();
    for (index, bytes) in directory.chunks_exact(DIRECTORY_ENTRY_BYTES).enumerate() {
        let section = DirectoryEntry::decode(bytes).ok_or_else(|| format!("entry {index} is not valid"))?;
        let (kind, id) = match index {
            0 => (SectionKind::ChunkTable, 0),
            1 => (SectionKind::SegmentTable, 0),
            2 => (SectionKind::ImageTable, 0),
            _ => (SectionKind::Manifest, index as u32 - 3),
        };
        let follows = sections.last().is_none_or(|last| last.offset + last.stored_bytes == section.offset);
        let ends_in_range = section.offset.checked_add(section.stored_bytes).is_some_and(|end| end <= directory_offset);
        if (section.kind, section.id) != (kind, id) || !follows || !ends_in_range {
            return Err(format!("entry {index} is not where or what it should be"));
        }
        sections.push(section);
    }
    let data_end = sections.first().map_or(0, |first| first.offset);
    if data_end < ALIGN_BYTES as u64 || !data_end.is_multiple_of(ALIGN_BYTES as u64) {
        return Err("the sections begin at no multiple of 4096".into());
    }
    if sections.last().is_none_or(|last| last.offset + last.stored_bytes != directory_offset) {
        return Err("the sections do not reach to the directory".into());
    }
    Ok(sections)
}

/// Reads parts of the file.
struct Reader<'a> {
    path: &'a Path,
    file: &'a File,
}

impl Reader<'_> {
    fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut array = [0; N];
        self.file.read_exact_at(&mut array, offset).map_err(Error::io("reading", self.path))?;
        Ok(array)
    }

    /// The caller has checked that the range is inside the file, so that the allocation is no larger than it.
    fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(Error::io("reading", self.path))?;
        Ok(bytes)
    }

    /// A section's raw bytes, its hash checked.
    fn section(&self, entry: &DirectoryEntry, name: &str) -> Result<Vec<u8>> {
        let stored = self.bytes(entry.offset, entry.stored_bytes)?;
        if *blake3::hash(&stored).as_bytes() != entry.hash {
            return Err(Error::pack(self.path, name, "its BLAKE3 differs: it is damaged"));
        }
        if entry.codec == Codec::None && entry.raw_bytes == entry.stored_bytes {
            return Ok(stored);
        }
        envelope::open(&stored, entry.codec, entry.raw_bytes).map_err(|why| Error::pack(self.path, name, why))
    }
}
