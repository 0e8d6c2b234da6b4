//! The format stays what it is: packs written by an earlier build are read, and the same sources still give the same bytes.
//!
//! `DISCUS_BLESS=1 cargo test -p discus-image --test golden -- --test-threads 1` writes the golden files anew, for a change of format that is meant (and
//! then needs a new version number).
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Page, assert_same_bytes, pack, restore_to, write_image};
use image::manifest::{Body, Content};
use image::pack::PackOptions;
use image::{Codec, Pack, Progress};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Two disks with a page in common, a hole, zeros, a repeated page and a short last page.
fn disks(directory: &Path) -> [(&'static str, PathBuf); 2] {
    let (web, db) = (directory.join("web.raw"), directory.join("db.raw"));
    write_image(&web, &[Page::Text(1), Page::Text(2), Page::Hole, Page::Text(1), Page::Text(3)], 96);
    write_image(&db, &[Page::Zero, Page::Text(2), Page::Text(4), Page::Text(5), Page::Text(6)], 0);
    [("web", web), ("db", db)]
}

fn build(directory: &Path, output: &Path, codec: Codec) -> Pack {
    let images = disks(directory);
    let named: Vec<_> = images.iter().map(|(name, path)| (*name, path.as_path())).collect();
    pack(&named, output, PackOptions { chunk_pages: 2, codec, ..PackOptions::default() }).unwrap()
}

fn blessed(name: &str, codec: Codec) -> PathBuf {
    let path = golden(name);
    if std::env::var_os("DISCUS_BLESS").is_some() {
        let directory = tempfile::tempdir().unwrap();
        build(directory.path(), &path, codec);
    }
    path
}

#[test]
fn the_same_sources_give_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("now.pack");
    // Uncompressed: what a compressor writes may differ between its versions.
    build(directory.path(), &output, Codec::None);
    assert_same_bytes(&blessed("plain.pack", Codec::None), &output);
}

#[test]
fn packs_of_the_past_are_read() {
    for (name, codec) in [("plain.pack", Codec::None), ("lz4.pack", Codec::Lz4), ("zstd.pack", Codec::Zstd)] {
        let opened = Pack::open(&blessed(name, codec)).unwrap();
        opened.verify(&Progress::default()).unwrap();
        assert!(opened.chunks().iter().all(|chunk| chunk.codec == codec));
        let directory = tempfile::tempdir().unwrap();
        for (image, source) in disks(directory.path()) {
            let target = directory.path().join("target");
            restore_to(&opened, image, &target, true).unwrap();
            assert_same_bytes(&source, &target);
        }
    }
}

/// The bytes of a field.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().unwrap()
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(field(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(field(bytes, offset))
}

/// Reads the golden pack with nothing but the tables of docs/pack-format.md.
#[test]
fn every_field_is_where_the_specification_says() {
    let path = blessed("plain.pack", Codec::None);
    let bytes = fs::read(&path).unwrap();
    // Header: version, page bytes, chunk pages, chunks, segments, images.
    assert_eq!(&bytes[..8], b"DISCUSPK");
    assert_eq!([8, 12, 16, 20, 24, 28].map(|offset| u32_at(&bytes, offset)), [1, 4096, 2, 4, 3, 2]);
    assert!(bytes[32..4096].iter().all(|&byte| byte == 0));
    // Trailer.
    let trailer = bytes.len() - 64;
    let (directory, directory_bytes) = (u64_at(&bytes, trailer) as usize, u64_at(&bytes, trailer + 8) as usize);
    assert_eq!((directory + directory_bytes, directory_bytes), (trailer, 5 * 64));
    assert_eq!(u64_at(&bytes, trailer + 16), 0);
    assert_eq!(&bytes[trailer + 56..], b"DISCUSND");
    let root = blake3::Hasher::new().update(&bytes[..4096]).update(&bytes[directory..trailer]).finalize();
    assert_eq!(field(&bytes, trailer + 24), *root.as_bytes());
    assert_eq!(Pack::open(&path).unwrap().root(), *root.as_bytes());
    // Directory: kind, codec and id of each section, its place and its hash.
    let mut sections = Vec::new();
    for (index, expected) in [(1, 0), (2, 0), (3, 0), (4, 0), (4, 1)].into_iter().enumerate() {
        let entry = directory + index * 64;
        assert_eq!((u16::from_le_bytes(field(&bytes, entry)), u32_at(&bytes, entry + 4)), expected);
        assert_eq!(u16::from_le_bytes(field(&bytes, entry + 2)), 0);
        let (offset, stored, raw) = (u64_at(&bytes, entry + 8), u64_at(&bytes, entry + 16), u64_at(&bytes, entry + 24));
        assert_eq!(stored, raw);
        let section = &bytes[offset as usize..][..stored as usize];
        assert_eq!(field(&bytes, entry + 32), *blake3::hash(section).as_bytes());
        sections.push(section);
    }
    // Chunk table: the first chunk is what both images want, a single page.
    assert_eq!(sections[0].len(), 4 * 56);
    let first = u64_at(sections[0], 0) as usize;
    assert_eq!([8, 12, 16].map(|offset| u32_at(sections[0], offset)), [4096, 4096, 0]);
    assert_eq!(field::<4>(sections[0], 20), [0; 4]);
    assert_eq!(&bytes[first..first + 4096], common::page_bytes(Page::Text(2)));
    assert_eq!(field(sections[0], 24), *blake3::hash(&bytes[first..first + 4096]).as_bytes());
    // Segment table: common, web, db: first chunk, chunks, pages, images.
    let segments: Vec<_> = sections[1].chunks(13).map(|entry| (u32_at(entry, 0), u32_at(entry, 4), u32_at(entry, 8), entry[12])).collect();
    assert_eq!(segments, [(0, 1, 1, 0b11), (1, 1, 2, 0b01), (2, 2, 3, 0b10)]);
    // Image table.
    assert_eq!(&sections[2][..5], b"\0\x03web");
    assert_eq!([5, 13, 21, 29].map(|offset| u64_at(sections[2], offset)), [5 * 4096 - 96, 4 * 4096 - 96, 0, 4096]);
    assert_eq!(&sections[2][37..41], b"\0\x02db");
    // Manifest of web: envelope, name, kind, chunk pages; chunks 0 and 1, of 1 and 2 pages, stored as they are, their hashes; extents.
    let manifest = sections[3];
    assert_eq!(&manifest[..8], b"DCMF\x01\0\0\0");
    assert_eq!(u64_at(manifest, 8) as usize, manifest.len() - 16);
    let body = &manifest[16..];
    assert_eq!(&body[..6], b"\x03web\0\x02");
    assert_eq!(&body[6..15], [2, 0, 0, 1, 2, 0, 0, 0, 0]);
    assert_eq!(body[15..47], sections[0][24..56]);
    // Numbered by pages: chunk 0 begins at page 0, chunk 1 at page 2.
    let size = [0xa0, 0x9f, 0x01]; // 20384
    let count = [4];
    let text_1 = [1 << 3, 4]; // one page of data from page 2, where 0 was expected: +2 in zigzag
    let text_2 = [1 << 3, 5]; // one page of data from page 0, where 3 was expected: -3
    let hole = [1 << 3 | 2]; // one page
    let text_1_and_3 = [0x84, 0xfa, 0x03, 2]; // 8096 bytes (8096 << 3 | 4) from page 2, where 1 was expected: +1
    let extents = [&size[..], &count, &text_1, &text_2, &hole, &text_1_and_3].concat();
    assert_eq!(&body[79..], extents);
}

#[test]
fn the_manifest_says_what_the_sources_are() {
    let opened = Pack::open(&blessed("zstd.pack", Codec::Zstd)).unwrap();
    let Body::Disk(disk) = opened.manifest(1).unwrap().body else { panic!("a disk") };
    let contents: Vec<_> = disk.extents.iter().map(|extent| (extent.length, extent.content)).collect();
    let data = |chunk, page| Content::Data { chunk, page };
    assert_eq!(contents, [(4096, Content::Zero), (4096, data(0, 0)), (8192, data(1, 0)), (4096, data(2, 0))]);
}
