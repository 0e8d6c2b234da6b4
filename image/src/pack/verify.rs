//! Proving a pack whole: everything that opening does not read. Opening has checked every section against the root already.

use std::os::unix::fs::FileExt;

use super::Pack;
use super::format::ALIGN_BYTES;
use crate::restore::decode_chunk;
use crate::units::round_up;
use crate::{ChunkId, Codec, Error, Progress, Result, Stage};

/// What was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Chunks read, hashed and decompressed.
    pub chunks: usize,
    /// Their stored bytes.
    pub stored_bytes: u64,
    /// Their raw bytes.
    pub raw_bytes: u64,
    /// Manifests decoded and compared with the tables.
    pub manifests: usize,
}

impl Pack {
    /// Reads the whole file and checks it: every chunk's hash and decompression, that chunk records and padding fill the file up to the
    /// sections without a gap, that the padding is zero, and that every manifest needs exactly the chunks which the tables say it does.
    ///
    /// # Errors
    /// Names the chunk or section that is wrong.
    pub fn verify(&self, progress: &Progress) -> Result<VerifyReport> {
        let raw_bytes = self.chunks().iter().map(|chunk| u64::from(chunk.raw_bytes)).sum();
        let stored_bytes = self.chunks().iter().map(|chunk| u64::from(chunk.stored_bytes)).sum();
        progress.start(Stage::Verify, stored_bytes);
        let mut raw_hashes = vec![None; self.chunks().len()];
        for image in 0..self.images().len() {
            self.verify_manifest(image, &mut raw_hashes)?;
        }
        self.verify_chunks(&raw_hashes, progress)?;
        Ok(VerifyReport { chunks: self.chunks().len(), stored_bytes, raw_bytes, manifests: self.images().len() })
    }

    /// The manifest agrees with the chunk, segment and image tables. Notes what it says of raw chunks in `raw_hashes`, by chunk id, and
    /// that it says the same as earlier ones.
    fn verify_manifest(&self, image: usize, raw_hashes: &mut [Option<[u8; 32]>]) -> Result<()> {
        let wrong = |why: String| Error::pack(self.path(), self.manifest_name(image), why);
        let manifest = self.manifest(image)?;
        let info = &self.images()[image];
        if manifest.name != info.name || manifest.kind() != info.kind || manifest.chunk_pages != self.chunk_pages() {
            return Err(wrong("name, kind or chunk size differ from the tables".into()));
        }
        let data_bytes = manifest.data_bytes();
        if manifest.logical_bytes() != info.logical_bytes || data_bytes != info.used_bytes {
            return Err(wrong("it has other sizes than the image table".into()));
        }
        let wanted = self.segments().iter().filter(|segment| segment.images.contains(image));
        let mut wanted = wanted.flat_map(|segment| (segment.first_chunk.0..).take(segment.chunks as usize)).map(ChunkId);
        for chunk in &manifest.chunks {
            if wanted.next() != Some(chunk.id) {
                return Err(wrong(format!("it needs chunk {}, the segment table does not say so", chunk.id)));
            }
            if !self.chunks()[chunk.id.index()].agrees_with(chunk) {
                return Err(wrong(format!("it describes chunk {} otherwise than the chunk table", chunk.id)));
            }
            let known = &mut raw_hashes[chunk.id.index()];
            if known.is_some() && chunk.raw_hash.is_some() && *known != chunk.raw_hash {
                return Err(wrong(format!("it describes chunk {} otherwise than another manifest", chunk.id)));
            }
            *known = known.or(chunk.raw_hash);
        }
        match wanted.next() {
            Some(id) => Err(wrong(format!("it does not need chunk {id}, the segment table says that it does"))),
            None => Ok(()),
        }
    }

    /// In order of the file, so that it is read once from front to back.
    fn verify_chunks(&self, raw_hashes: &[Option<[u8; 32]>], progress: &Progress) -> Result<()> {
        let mut order: Vec<u32> = (0..self.chunks().len() as u32).collect();
        order.sort_unstable_by_key(|&id| self.chunks()[id as usize].offset);
        let align_bytes = ALIGN_BYTES as u64;
        let mut stored = Vec::new();
        let mut raw = vec![0; self.chunk_pages() as usize * crate::PAGE_BYTES];
        let mut offset = align_bytes;
        for id in order.into_iter().map(ChunkId) {
            let record = &self.chunks()[id.index()];
            let wrong = |why: &str| Error::pack(self.path(), format!("chunk {id}"), why);
            if record.offset != offset {
                return Err(wrong("it overlaps another, or there is a gap before it"));
            }
            let padded_bytes = round_up(record.stored_bytes.into(), align_bytes);
            stored.resize(padded_bytes as usize, 0);
            self.file.read_exact_at(&mut stored, offset).map_err(Error::io("reading", self.path()))?;
            let (bytes, padding) = stored.split_at(record.stored_bytes as usize);
            if padding.iter().any(|&byte| byte != 0) {
                return Err(wrong("its padding is not zero"));
            }
            decode_chunk(&record.descriptor(id), bytes, &mut raw[..record.raw_bytes as usize]).map_err(|error| {
                let why = match &error {
                    Error::Chunk { why, .. } => why.clone(),
                    other => other.to_string(),
                };
                wrong(&why)
            })?;
            let raw = &raw[..record.raw_bytes as usize];
            if record.codec != Codec::None && raw_hashes[id.index()].is_some_and(|hash| *blake3::hash(raw).as_bytes() != hash) {
                return Err(wrong("the manifests say another BLAKE3 of its raw bytes"));
            }
            offset += padded_bytes;
            progress.add(record.stored_bytes.into());
        }
        if offset != self.data_end {
            return Err(Error::pack(self.path(), "chunk table", "there is a gap between the last chunk and the sections"));
        }
        Ok(())
    }
}
