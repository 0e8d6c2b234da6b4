//! Opening a pack: trailer, header, directory, tables and manifests are checked against the root. Chunk data is not read here.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::format::{ALIGN_BYTES, DirectoryEntry, Header, TRAILER_BYTES, Trailer};
use super::proof::Proof;
pub use super::records::{ChunkRecord, ImageInfo, Segment};
use super::records::{decode_chunks, decode_images, decode_segments};
use crate::manifest::envelope;
use crate::{Codec, Error, ImageSet, Manifest, Result};

/// An open pack.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    pub(super) file: File,
    proof: Proof,
    /// Where the chunk records end.
    pub(super) data_end: u64,
    chunks: Vec<ChunkRecord>,
    segments: Vec<Segment>,
    images: Vec<ImageInfo>,
}

impl Pack {
    /// Opens a pack and checks everything but the chunks' data.
    ///
    /// # Errors
    /// Names the part of the pack that is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_file(File::open(path).map_err(Error::io("opening", path))?, path)
    }

    /// As [`Pack::open`], from a file that is open already; `path` is for messages.
    pub(crate) fn from_file(file: File, path: &Path) -> Result<Self> {
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
        let trailer_offset = file_bytes - TRAILER_BYTES as u64;
        let trailer_bytes: [u8; TRAILER_BYTES] = reader.array(trailer_offset)?;
        // The length of what lies before the trailer is bounded by the header's image count before anything is allocated.
        let header = Header::decode(&header_bytes).map_err(|why| Error::pack(path, "header", why))?;
        let end_bytes = Trailer::decode(&trailer_bytes)
            .map_or(0, |trailer| header.directory_bytes() as u64 + trailer.signature_bytes)
            .min(trailer_offset - ALIGN_BYTES as u64);
        let end = reader.bytes(trailer_offset - end_bytes, end_bytes)?;
        let proof = Proof::from_parts(&header_bytes, &end, &trailer_bytes).map_err(|(part, why)| Error::pack(path, part, why))?;
        if proof.trailer().directory_offset != trailer_offset - end_bytes {
            return Err(Error::pack(path, "trailer", "the directory is not where it should be"));
        }
        let sections = proof.sections();
        let data_end = sections.first().map_or(0, |first| first.offset);

        let table = |index: usize, name: &str| reader.section(&sections[index], name);
        let named = |name: &'static str| move |why| Error::pack(path, name, why);
        let chunks = decode_chunks(&table(0, "chunk table")?, &header, data_end).map_err(named("chunk table"))?;
        let segments = decode_segments(&table(1, "segment table")?, &header, &chunks).map_err(named("segment table"))?;
        let images = decode_images(&table(2, "image table")?, &header, &chunks, &segments).map_err(named("image table"))?;
        let pack = Self { path: path.to_owned(), file, proof, data_end, chunks, segments, images };
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
        self.proof.root()
    }

    /// Header, directory, signature and trailer.
    #[must_use]
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// The proof as [`Proof::decode`] reads it, to be sent with a manifest.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn proof_bytes(&self) -> Result<Vec<u8>> {
        let reader = Reader { path: &self.path, file: &self.file };
        let mut bytes = reader.array::<ALIGN_BYTES>(0)?.to_vec();
        let trailer = self.proof.trailer();
        let end_bytes = trailer.directory_bytes + trailer.signature_bytes + TRAILER_BYTES as u64;
        bytes.extend_from_slice(&reader.bytes(trailer.directory_offset, end_bytes)?);
        Ok(bytes)
    }

    /// Pages of a full chunk.
    #[must_use]
    pub fn chunk_pages(&self) -> u32 {
        self.proof.header().chunk_pages
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
        Reader { path: &self.path, file: &self.file }.section(&self.proof.sections()[3 + image], &name)
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

    /// The stored bytes of a chunk, its hash checked.
    ///
    /// # Errors
    /// When there is no such chunk, or it cannot be read or is damaged.
    pub fn stored_chunk(&self, chunk: crate::ChunkId) -> Result<Vec<u8>> {
        let name = || format!("chunk {chunk}");
        let Some(record) = self.chunks.get(chunk.0 as usize) else {
            return Err(Error::pack(&self.path, name(), "there is no such chunk"));
        };
        let stored = Reader { path: &self.path, file: &self.file }.bytes(record.offset, record.stored_bytes.into())?;
        if *blake3::hash(&stored).as_bytes() != record.hash {
            return Err(Error::pack(&self.path, name(), "its BLAKE3 differs: it is damaged"));
        }
        Ok(stored)
    }

    pub(super) fn manifest_name(&self, image: usize) -> String {
        format!("manifest of {}", self.images[image].name)
    }
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
