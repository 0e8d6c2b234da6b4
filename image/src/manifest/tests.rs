//! Tests of encoding and decoding together: what is encoded comes back, and nothing else is accepted.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn descriptor(id: u32, pages: u32, codec: Codec) -> ChunkDescriptor {
    let raw_bytes = pages * PAGE_BYTES as u32;
    let stored_bytes = if codec == Codec::None { raw_bytes } else { raw_bytes / 3 };
    let hash = [id as u8; 32];
    let raw_hash = if codec == Codec::None { hash } else { [0xf0; 32] };
    ChunkDescriptor { id: ChunkId(id), stored_bytes, raw_bytes, codec, hash, raw_hash: Some(raw_hash) }
}

/// Two chunks, and extents of every kind.
fn disk() -> Manifest {
    let extent = |target_offset, length, content| Extent { target_offset, length, content };
    let extents = vec![
        extent(0, 8192, Content::Data { chunk: 0, page: 2 }),
        extent(8192, 512, Content::Zero),
        extent(8704, 4096, Content::Data { chunk: 1, page: 0 }),
        extent(12800, 1 << 40, Content::Hole),
        extent((1 << 40) + 12800, 5000, Content::Data { chunk: 0, page: 0 }),
    ];
    let size_bytes = extents[4].end();
    Manifest {
        name: "web".into(),
        chunk_pages: 4,
        chunks: vec![descriptor(3, 4, Codec::Zstd), descriptor(9, 1, Codec::None)],
        body: Body::Disk(DiskBody { size_bytes, extents }),
    }
}

fn entry(parent: u32, name: &[u8], kind: EntryKind) -> Entry {
    let xattrs = vec![(b"user.a".to_vec(), vec![1, 2]), (b"user.b".to_vec(), vec![])];
    Entry { parent, name: name.to_vec(), mode: 0o4755, uid: 7, gid: 8, mtime_s: -5, mtime_ns: 999_999_999, xattrs, kind }
}

/// Every kind of entry, and a name that is not UTF-8.
fn tree() -> Manifest {
    let link =
        Entry { mode: 0, uid: 0, gid: 0, mtime_s: 0, mtime_ns: 0, xattrs: vec![], ..entry(1, b"l", EntryKind::HardLink { original: 2 }) };
    let entries = vec![
        entry(0, b"", EntryKind::Directory),
        entry(0, b"d\xff", EntryKind::Directory),
        entry(1, b"file", EntryKind::File { size_bytes: 5000, extents: 0..2 }),
        link,
        entry(0, b"s", EntryKind::Symlink { target: b"../..".to_vec() }),
        entry(0, b"c", EntryKind::CharacterDevice { major: 1, minor: 3 }),
        entry(0, b"b", EntryKind::BlockDevice { major: 8, minor: 0 }),
        entry(0, b"p", EntryKind::Fifo),
        entry(0, b"k", EntryKind::Socket),
        entry(0, b"empty", EntryKind::File { size_bytes: 0, extents: 2..2 }),
    ];
    let extents = vec![
        Extent { target_offset: 0, length: 4096, content: Content::Hole },
        Extent { target_offset: 4096, length: 904, content: Content::Data { chunk: 0, page: 0 } },
    ];
    Manifest {
        name: "t".into(),
        chunk_pages: 64,
        chunks: vec![descriptor(0, 1, Codec::Zstd)],
        body: Body::Tree(Arc::new(TreeBody { entries, extents })),
    }
}

/// The tree with its entries changed.
fn changed(change: impl FnOnce(&mut Vec<Entry>)) -> Manifest {
    let mut manifest = tree();
    if let Body::Tree(body) = &mut manifest.body {
        change(&mut Arc::make_mut(body).entries);
    }
    manifest
}

fn refusal(manifest: &Manifest) -> String {
    Manifest::decode(&encode(manifest, Codec::None).unwrap()).unwrap_err().to_string()
}

#[test]
fn a_manifest_comes_back() {
    for manifest in [disk(), tree()] {
        for codec in [Codec::None, Codec::Zstd] {
            assert_eq!(Manifest::decode(&encode(&manifest, codec).unwrap()).unwrap(), manifest);
        }
    }
}

#[test]
fn a_manifest_of_version_1_is_read_and_knows_no_raw_bytes_of_compressed_chunks() {
    for mut manifest in [disk(), tree()] {
        manifest.chunks[0].raw_hash = None;
        let section = encode(&manifest, Codec::None).unwrap();
        assert_eq!(section[4..6], [1, 0]);
        assert_eq!(Manifest::decode(&section).unwrap(), manifest);
    }
}

#[test]
fn the_version_is_the_lowest_that_says_it_all() {
    let plain = changed_disk(|manifest, _| manifest.chunks[0] = descriptor(3, 4, Codec::None));
    let mut section = encode(&plain, Codec::None).unwrap();
    assert_eq!(section[4..6], [1, 0]);
    section[4] = 2;
    assert!(Manifest::decode(&section).unwrap_err().to_string().contains("version"));
    for version in [0, 3] {
        section[4] = version;
        assert!(Manifest::decode(&section).unwrap_err().to_string().contains("reads 1 to 2"));
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [&b".."[..], b".", b"", b"a/b", b"/etc", b"a\0b", &[b'n'; 256]] {
        refusal(&changed(|entries| entries[2].name = name.to_vec()));
    }
}

#[test]
fn nothing_is_put_below_what_is_no_directory() {
    // Below a symbolic link, a file, itself, and a later directory.
    for (entry, parent) in [(9, 4), (9, 2), (1, 1)] {
        assert!(refusal(&changed(|entries| entries[entry].parent = parent)).contains("parent"));
    }
}

#[test]
fn a_name_cannot_be_a_link_and_a_directory() {
    let twice = changed(|entries| {
        entries[4].name = b"d\xff".to_vec();
    });
    assert!(refusal(&twice).contains("twice"));
}

#[test]
fn a_hard_link_names_an_earlier_file_only() {
    for original in [0, 1] {
        assert!(refusal(&changed(|entries| entries[3].kind = EntryKind::HardLink { original })).contains("hard link"));
    }
}

#[test]
fn paths_that_no_call_could_name_are_refused() {
    let deep = changed(|entries| {
        for depth in 0..20 {
            let parent = if depth == 0 { 0 } else { entries.len() as u32 - 1 };
            entries.push(entry(parent, &[b'n'; 250], EntryKind::Directory));
        }
    });
    assert!(refusal(&deep).contains("path is too long"));
}

#[test]
fn values_out_of_range_are_refused() {
    refusal(&changed(|entries| entries[2].mode = 0o10000));
    refusal(&changed(|entries| entries[2].uid = u32::MAX));
    refusal(&changed(|entries| entries[2].mtime_ns = 1_000_000_000));
    refusal(&changed(|entries| entries[4].kind = EntryKind::Symlink { target: vec![] }));
    refusal(&changed(|entries| entries[2].xattrs.reverse()));
    refusal(&changed(|entries| entries[0].name = b"root".to_vec()));
    refusal(&changed(|entries| entries[0].kind = EntryKind::Fifo));
    refusal(&changed(Vec::clear));
}

/// The disk with its extents changed.
fn changed_disk(change: impl FnOnce(&mut Manifest, &mut DiskBody)) -> Manifest {
    let mut manifest = disk();
    if let Body::Disk(mut body) = manifest.body.clone() {
        change(&mut manifest, &mut body);
        manifest.body = Body::Disk(body);
    }
    manifest
}

#[test]
fn extents_that_do_not_fit_are_refused() {
    // Beyond the disk, short of it, beyond the chunk, no such chunk, a chunk without use.
    assert!(refusal(&changed_disk(|_, disk| disk.size_bytes -= 1)).contains("length"));
    assert!(refusal(&changed_disk(|_, disk| disk.size_bytes += 1)).contains("cover"));
    assert!(refusal(&changed_disk(|_, disk| disk.extents[0].content = Content::Data { chunk: 0, page: 3 })).contains("beyond its chunk"));
    assert!(refusal(&changed_disk(|_, disk| disk.extents[0].content = Content::Data { chunk: 2, page: 0 })).contains("out of range"));
    assert!(refusal(&changed_disk(|_, disk| disk.extents[2].content = Content::Zero)).contains("does not use"));
    assert!(refusal(&changed_disk(|_, disk| disk.size_bytes = u64::MAX)).contains("out of range"));
}

#[test]
fn chunks_out_of_range_are_refused() {
    refusal(&changed_disk(|manifest, _| manifest.chunks[0].raw_bytes = 5 * 4096));
    refusal(&changed_disk(|manifest, _| manifest.chunks[0].stored_bytes = 0));
    refusal(&changed_disk(|manifest, _| manifest.chunks[0].stored_bytes = manifest.chunks[0].raw_bytes));
    refusal(&changed_disk(|manifest, _| manifest.chunks[1].codec = Codec::Zstd));
    refusal(&changed_disk(|manifest, _| manifest.chunk_pages = 1025));
    refusal(&changed_disk(|manifest, _| manifest.name = "../web".into()));
}

#[test]
fn a_section_cannot_expand_without_bound() {
    let mut bomb = encode(&disk(), Codec::None).unwrap();
    let zeros = zstd::bulk::compress(&vec![0; 1 << 24], 3).unwrap();
    bomb.truncate(16);
    bomb[6] = 2;
    bomb[8..16].copy_from_slice(&(1u64 << 24).to_le_bytes());
    bomb.extend_from_slice(&zeros);
    assert!(Manifest::decode(&bomb).unwrap_err().to_string().contains("impossible expansion"));
}

#[test]
fn what_compresses_too_well_is_stored_as_it_is() {
    let extents: Vec<Extent> = (0..100_000u64)
        .map(|page| {
            let content = if page % 2 == 0 { Content::Zero } else { Content::Hole };
            Extent { target_offset: page * 4096, length: 4096, content }
        })
        .collect();
    let body = Body::Disk(DiskBody { size_bytes: 100_000 * 4096, extents });
    let manifest = Manifest { name: "stripes".into(), chunk_pages: 64, chunks: vec![], body };
    assert_eq!(Manifest::decode(&encode(&manifest, Codec::Zstd).unwrap()).unwrap(), manifest);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_are_no_manifest(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::decode(&bytes).is_err());
    }

    /// There is one encoding only: what is accepted is exactly what the encoder would have written.
    #[test]
    fn a_changed_manifest_is_refused_or_means_what_it_says(
        is_tree: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        truncate: bool,
    ) {
        let mut bytes = encode(&if is_tree { tree() } else { disk() }, Codec::None).unwrap();
        // Behind the envelope, so that most changes reach the decoder proper.
        let length = bytes.len() - 16;
        for (at, value) in changes {
            bytes[16 + at.index(length)] = value;
        }
        if truncate {
            bytes.truncate(16 + cut.index(length));
            let raw_bytes = (bytes.len() - 16) as u64;
            bytes[8..16].copy_from_slice(&raw_bytes.to_le_bytes());
        }
        if let Ok(manifest) = Manifest::decode(&bytes) {
            prop_assert_eq!(encode(&manifest, Codec::None).unwrap(), bytes);
        }
    }
}
