//! What proves a pack without its chunks: header, section directory and trailer, and the signature over them. The directory holds the hash of
//! every section, the chunk table and the manifests those of the chunks, so whoever has a checked proof and a manifest can check all
//! that he is sent.
//!
//! As bytes a proof is these parts of the pack one after the other, just as they stand in it. Sender and receiver pass it on like that.

use super::format::{
    ALIGN_BYTES, DIRECTORY_ENTRY_BYTES, DirectoryEntry, Header, SectionKind, SignatureBlock, TRAILER_BYTES, Trailer, root,
};
use crate::signature::{PublicKey, SecretKey};
use crate::{Error, Result};

/// The checked outer structures of a pack.
#[derive(Clone, Debug)]
pub struct Proof {
    header: Header,
    /// Chunk table, segment table, image table, manifests.
    sections: Vec<DirectoryEntry>,
    signature: Option<SignatureBlock>,
    trailer: Trailer,
}

/// Which part of it is wrong, and why.
pub(super) type Wrong = (&'static str, String);

impl Proof {
    /// Reads a proof that came alone. What it says of itself is checked; whom it is from only [`Proof::check_signature`] can tell.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let parts = || {
            let (header, rest) = bytes.split_first_chunk::<ALIGN_BYTES>()?;
            let (rest, trailer) = rest.split_last_chunk::<TRAILER_BYTES>()?;
            Some((header, rest, trailer))
        };
        let wrong = |(part, why): Wrong| Error::Untrusted(format!("the proof that came with the manifest is damaged: {part}: {why}"));
        let (header, directory_and_signature, trailer) = parts().ok_or_else(|| wrong(("end", "it is too short".into())))?;
        Self::from_parts(header, directory_and_signature, trailer).map_err(wrong)
    }

    /// From the parts of a pack: `directory_and_signature` is all that lies between the sections and the trailer.
    pub(super) fn from_parts(
        header_bytes: &[u8; ALIGN_BYTES],
        directory_and_signature: &[u8],
        trailer_bytes: &[u8; TRAILER_BYTES],
    ) -> Result<Self, Wrong> {
        let header = Header::decode(header_bytes).map_err(|why| ("header", why))?;
        let trailer =
            Trailer::decode(trailer_bytes).ok_or_else(|| ("trailer", "it is damaged or cut off: is the pack complete?".into()))?;
        let directory_bytes = header.directory_bytes();
        if trailer.directory_bytes != directory_bytes as u64
            || directory_and_signature.len() as u64 != trailer.directory_bytes + trailer.signature_bytes
        {
            return Err(("trailer", "the directory is not where it should be".into()));
        }
        let (directory, signature) = directory_and_signature.split_at(directory_bytes);
        if root(header_bytes, directory) != trailer.root {
            return Err(("header or section directory", "their BLAKE3 is not the root".into()));
        }
        let sections = decode_directory(directory, trailer.directory_offset).map_err(|why| ("section directory", why))?;
        let signature = if signature.is_empty() { None } else { Some(checked_signature(signature, trailer_bytes)?) };
        Ok(Self { header, sections, signature, trailer })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        self.trailer.root
    }

    /// The key that signed the pack, if one did. That says nothing yet: anybody can have a key.
    #[must_use]
    pub fn signed_by(&self) -> Option<PublicKey> {
        self.signature.as_ref().map(|signature| signature.key)
    }

    /// That `key` signed the pack.
    ///
    /// # Errors
    /// When it did not.
    pub fn check_signature(&self, key: &PublicKey) -> Result<()> {
        match self.signed_by() {
            Some(by) if by == *key => Ok(()),
            Some(by) => Err(Error::Untrusted(format!("the pack is signed by another key, {by}; expected is {key}"))),
            None => Err(Error::Untrusted("the pack is not signed; sign it with: discus sign PACK --key KEY".into())),
        }
    }

    /// That `manifest` is one of the pack's manifest sections.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_manifest(&self, manifest: &[u8]) -> Result<()> {
        let hash = *blake3::hash(manifest).as_bytes();
        let is_it = |section: &DirectoryEntry| {
            section.kind == SectionKind::Manifest && section.hash == hash && section.stored_bytes == manifest.len() as u64
        };
        if self.sections.iter().any(is_it) {
            return Ok(());
        }
        Err(Error::Untrusted("the manifest is not one of the pack that is signed".into()))
    }

    /// The directory's entries.
    pub(super) fn sections(&self) -> &[DirectoryEntry] {
        &self.sections
    }

    /// The trailer.
    pub(super) fn trailer(&self) -> &Trailer {
        &self.trailer
    }
}

/// The end of a pack from the directory on, signed when there is a key.
pub(super) fn encode_end(header: &[u8; ALIGN_BYTES], directory: &[u8], directory_offset: u64, key: Option<&SecretKey>) -> Vec<u8> {
    let signature_bytes = if key.is_some() { SignatureBlock::BYTES as u64 } else { 0 };
    let trailer = Trailer { directory_offset, directory_bytes: directory.len() as u64, signature_bytes, root: root(header, directory) };
    let trailer = trailer.encode();
    let mut end = directory.to_vec();
    if let Some(key) = key {
        let block = SignatureBlock { key: key.public_key(), signature: key.sign(&trailer) };
        end.extend_from_slice(&block.encode());
    }
    end.extend_from_slice(&trailer);
    end
}

/// A signature that is valid for the key it names: damage to it is found without knowing whom to trust.
fn checked_signature(bytes: &[u8], trailer: &[u8; TRAILER_BYTES]) -> Result<SignatureBlock, Wrong> {
    let block = SignatureBlock::decode(bytes).ok_or_else(|| ("signature", "it is damaged".to_owned()))?;
    if !block.key.verify(trailer, &block.signature) {
        return Err(("signature", "it is not valid for the trailer and the key that it names".into()));
    }
    Ok(block)
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
