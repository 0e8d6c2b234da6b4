//! A damaged pack is noticed, wherever the damage is, and no bytes make the reader panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{Page, pack, write_image};
use image::pack::PackOptions;
use image::pack::format::{self, DIRECTORY_ENTRY_BYTES, DirectoryEntry, TRAILER_BYTES, Trailer};
use image::{Codec, Error, Pack, Progress, restore};
use proptest::prelude::*;

/// Two images, a compressed and an incompressible chunk; 13 KB.
fn small_pack(directory: &Path, codec: Codec) -> PathBuf {
    let (one, other) = (directory.join("one"), directory.join("other"));
    write_image(&one, &[Page::Text(1), Page::Text(2), Page::Hole, Page::Text(1)], 0);
    write_image(&other, &[Page::Random(3), Page::Text(2), Page::Text(1)], 0);
    let output = directory.join("small.pack");
    pack(&[("one", &one), ("other", &other)], &output, PackOptions { codec, ..PackOptions::default() }).unwrap();
    output
}

fn open_and_verify(path: &Path) -> image::Result<()> {
    Pack::open(path)?.verify(&Progress::default()).map(|_| ())
}

#[test]
fn every_flipped_bit_is_noticed() {
    let directory = common::memory_directory();
    let path = small_pack(directory.path(), Codec::Zstd);
    open_and_verify(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for (offset, &byte) in bytes.iter().enumerate() {
        for bit in 0..8 {
            file.write_all_at(&[byte ^ (1 << bit)], offset as u64).unwrap();
            match open_and_verify(&path) {
                Err(Error::Pack { section, .. }) => assert!(!section.is_empty()),
                other => panic!("bit {bit} of byte {offset}: {other:?}"),
            }
        }
        file.write_all_at(&[byte], offset as u64).unwrap();
    }
    open_and_verify(&path).unwrap();
}

#[test]
fn a_flipped_bit_is_named_by_its_section() {
    let directory = common::memory_directory();
    let path = small_pack(directory.path(), Codec::Zstd);
    let opened = Pack::open(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let trailer = Trailer::decode(bytes.last_chunk::<TRAILER_BYTES>().unwrap()).unwrap();
    let directory_bytes = &bytes[trailer.directory_offset as usize..][..trailer.directory_bytes as usize];
    let section = |index: usize| DirectoryEntry::decode(&directory_bytes[index * DIRECTORY_ENTRY_BYTES..]).unwrap().offset;
    for (offset, expected) in [
        (20, "header or section directory"),
        (opened.chunks()[0].offset, "chunk 0"),
        (opened.chunks()[1].offset + 5, "chunk 1"),
        (opened.chunks()[0].offset + 4095, "chunk 0"),
        (section(0), "chunk table"),
        (section(1), "segment table"),
        (section(2) + 3, "image table"),
        (section(4) + 20, "manifest of other"),
        (trailer.directory_offset + 9, "header or section directory"),
        (bytes.len() as u64 - 1, "trailer"),
    ] {
        let mut damaged = bytes.clone();
        damaged[offset as usize] ^= 1;
        let copy = directory.path().join("damaged");
        fs::write(&copy, damaged).unwrap();
        match open_and_verify(&copy) {
            Err(Error::Pack { section, .. }) => assert_eq!(section, expected, "byte {offset}"),
            other => panic!("byte {offset}: {other:?}"),
        }
    }
}

#[test]
fn a_pack_cut_off_anywhere_is_refused() {
    let directory = common::memory_directory();
    let path = small_pack(directory.path(), Codec::Zstd);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    for shorter in (0..length).rev() {
        file.set_len(shorter).unwrap();
        assert!(matches!(Pack::open(&path), Err(Error::Pack { .. })), "{shorter} of {length} bytes");
    }
}

/// A pack whose tables were changed by somebody who recomputed all hashes.
fn with_valid_hashes(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let trailer = Trailer::decode(bytes.last_chunk::<TRAILER_BYTES>().unwrap()).unwrap();
    change(&mut bytes[..trailer.directory_offset as usize]);
    let (content, rest) = bytes.split_at_mut(trailer.directory_offset as usize);
    let directory = &mut rest[..trailer.directory_bytes as usize];
    for entry in directory.chunks_exact_mut(DIRECTORY_ENTRY_BYTES) {
        let mut decoded = DirectoryEntry::decode(entry).unwrap();
        let section = &content[decoded.offset as usize..][..decoded.stored_bytes as usize];
        decoded.hash = *blake3::hash(section).as_bytes();
        let mut encoded = Vec::new();
        decoded.encode(&mut encoded);
        entry.copy_from_slice(&encoded);
    }
    let root = format::root(content[..4096].try_into().unwrap(), directory);
    let trailer = Trailer { root, ..trailer }.encode();
    let at = bytes.len() - TRAILER_BYTES;
    bytes[at..].copy_from_slice(&trailer);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn a_forged_pack_makes_no_reader_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        thread_local! {
            static PACK: (tempfile::TempDir, Vec<u8>, u64) = {
                let directory = common::memory_directory();
                // Uncompressed, so that changes reach the tables.
                let path = small_pack(directory.path(), Codec::None);
                let bytes = fs::read(&path).unwrap();
                let trailer = Trailer::decode(bytes.last_chunk::<TRAILER_BYTES>().unwrap()).unwrap();
                (directory, bytes, trailer.directory_offset)
            };
        }
        PACK.with(|(directory, bytes, sections_end)| {
            let sections_start = (sections_end / 4096 * 4096) as usize;
            let forged = with_valid_hashes(bytes, |content| {
                let header_and_sections: Vec<usize> = (0..32).chain(sections_start..content.len()).collect();
                for (at, value) in &changes {
                    content[header_and_sections[at.index(header_and_sections.len())]] = *value;
                }
            });
            let path = directory.path().join("forged");
            fs::write(&path, forged).unwrap();
            if let Ok(opened) = Pack::open(&path) {
                let verified = opened.verify(&Progress::default());
                for image in 0..opened.images().len() {
                    let target = directory.path().join("target");
                    let options = restore::TargetOptions { force: true, ..Default::default() };
                    let restored = restore::restore(&opened, image, &target, &options, &Progress::default());
                    // Data that does not have its hash is never written: what verifies, restores.
                    assert!(verified.is_err() || restored.is_ok(), "{restored:?}");
                }
            }
        });
    }

    #[test]
    fn random_bytes_are_no_pack(bytes in prop::collection::vec(any::<u8>(), 0..9000), magic: bool) {
        let directory = common::memory_directory();
        let path = directory.path().join("random");
        let mut bytes = bytes;
        if magic && bytes.len() > 32 {
            bytes[..12].copy_from_slice(b"DISCUSPK\x01\0\0\0");
            let end = bytes.len() - 8;
            bytes[end..].copy_from_slice(b"DISCUSND");
        }
        fs::write(&path, bytes).unwrap();
        prop_assert!(Pack::open(&path).is_err());
    }
}
