//! What is packed comes back: any set of images with any sharing, byte for byte.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::{Page, assert_same_bytes, pack, restore_to, write_image};
use image::pack::PackOptions;
use image::{Codec, Error, Progress};
use proptest::prelude::*;

fn page() -> impl Strategy<Value = Page> {
    prop_oneof![
        1 => Just(Page::Hole),
        1 => Just(Page::Zero),
        4 => (0u32..40).prop_map(Page::Random),
        2 => (0u32..10).prop_map(Page::Text),
    ]
}

/// Runs, so that extents and holes have some length.
fn pages() -> impl Strategy<Value = Vec<Page>> {
    let run = (page(), 1usize..6, any::<bool>()).prop_map(|(page, length, ascending)| {
        let step = move |page: Page, by: u32| match page {
            Page::Random(number) if ascending => Page::Random(number + by),
            page => page,
        };
        (0..length as u32).map(|by| step(page, by)).collect::<Vec<_>>()
    });
    prop::collection::vec(run, 0..20).prop_map(|runs| runs.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_image_of_a_pack_comes_back(
        images in prop::collection::vec((pages(), 0u64..4096), 1..5),
        chunk_pages in prop_oneof![Just(1u32), Just(4), Just(64)],
        compressed: bool,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut sources = Vec::new();
        for (number, (pages, cut)) in images.iter().enumerate() {
            let path = directory.path().join(format!("{number}.raw"));
            write_image(&path, pages, if pages.is_empty() { 0 } else { *cut });
            sources.push((format!("image{number}"), path));
        }
        let named: Vec<_> = sources.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
        let codec = if compressed { Codec::Zstd } else { Codec::None };
        let output = directory.path().join("fleet.pack");
        let made = pack(&named, &output, PackOptions { chunk_pages, codec, ..PackOptions::default() }).unwrap();
        made.verify(&Progress::default()).unwrap();
        for (name, path) in &named {
            let target = directory.path().join(format!("{name}.restored"));
            restore_to(&made, name, &target, false).unwrap();
            assert_same_bytes(path, &target);
        }
        // A page that several images want is stored once.
        let mut different: Vec<Vec<u8>> = images.iter().flat_map(|(pages, cut)| {
            let last = pages.len().saturating_sub(1);
            pages.iter().enumerate().map(move |(number, page)| {
                let mut bytes = common::page_bytes(*page);
                if number == last {
                    let kept = 4096 - *cut as usize;
                    bytes[kept..].fill(0);
                }
                bytes
            })
        }).filter(|bytes| bytes.iter().any(|&byte| byte != 0)).collect();
        different.sort();
        different.dedup();
        let stored: u32 = made.segments().iter().map(|segment| segment.pages).sum();
        prop_assert_eq!(stored as usize, different.len());
    }
}

/// Three images of `common` shared pages and `own` of their own.
fn three_images(directory: &std::path::Path, common: u32, own: u32) -> Vec<(&'static str, std::path::PathBuf)> {
    ["web", "db", "build"]
        .into_iter()
        .enumerate()
        .map(|(number, name)| {
            let path = directory.join(name);
            let first = 1_000_000 * (number as u32 + 1);
            let pages: Vec<_> = (0..common).chain(first..first + own).map(Page::Random).collect();
            write_image(&path, &pages, 0);
            (name, path)
        })
        .collect()
}

#[test]
fn what_all_images_share_is_the_first_segment() {
    let directory = tempfile::tempdir().unwrap();
    let images = three_images(directory.path(), 700, 300);
    let named: Vec<_> = images.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let made = pack(&named, &directory.path().join("p"), PackOptions::default()).unwrap();
    let segments: Vec<_> = made.segments().iter().map(|segment| (segment.pages, segment.images.to_string())).collect();
    assert_eq!(segments, [(700, "0,1,2".into()), (300, "0".into()), (300, "1".into()), (300, "2".into())]);
    // Incompressible, so stored as it is; sent alone, each image would cost 1000 pages.
    let stored: u64 = made.chunks().iter().map(|chunk| u64::from(chunk.stored_bytes)).sum();
    assert_eq!(stored, 1600 * 4096);
    assert!(made.images().iter().all(|image| image.stored_bytes == 1000 * 4096 && image.used_bytes == 1000 * 4096));
    for chunk in 0..made.chunks().len() as u32 {
        let wanted = made.images_of_chunk(image::ChunkId(chunk));
        for number in 0..3 {
            let named = made.manifest(number).unwrap().chunk_index(image::ChunkId(chunk)).is_some();
            assert_eq!(named, wanted.contains(number));
        }
    }
}

#[test]
fn equal_sources_make_equal_packs() {
    let directory = tempfile::tempdir().unwrap();
    let images = three_images(directory.path(), 300, 100);
    let named: Vec<_> = images.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let roots: Vec<_> =
        ["one", "two"].map(|output| pack(&named, &directory.path().join(output), PackOptions::default()).unwrap().root()).into();
    assert_eq!(roots[0], roots[1]);
    assert_same_bytes(&directory.path().join("one"), &directory.path().join("two"));
}

#[test]
fn a_file_in_a_tree_shares_its_pages_with_a_disk() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    write_image(&disk, &(0..100).map(Page::Random).collect::<Vec<_>>(), 0);
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    write_image(&tree.join("file"), &(20..80).map(Page::Random).collect::<Vec<_>>(), 0);
    let made = pack(&[("disk", &disk), ("tree", &tree)], &directory.path().join("p"), PackOptions::default()).unwrap();
    let pages: Vec<_> = made.segments().iter().map(|segment| (segment.pages, segment.images.len())).collect();
    assert_eq!(pages, [(60, 2), (40, 1)]);
}

#[test]
fn holes_and_zeros_take_no_space() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    let pages = [vec![Page::Random(1)], vec![Page::Zero; 500], vec![Page::Hole; 500], vec![Page::Random(2)]].concat();
    write_image(&source, &pages, 0);
    let made = pack(&[("a", &source)], &directory.path().join("p"), PackOptions::default()).unwrap();
    let info = &made.images()[0];
    assert_eq!((info.used_bytes, info.zero_bytes + info.hole_bytes), (2 * 4096, 1000 * 4096));
    assert!(info.zero_bytes >= 500 * 4096);
    let target = directory.path().join("target");
    restore_to(&made, "a", &target, false).unwrap();
    assert_same_bytes(&source, &target);
    let allocated = fs::metadata(&target).unwrap().blocks() * 512;
    assert!(allocated <= 16 * 4096, "{allocated} bytes allocated for two pages");
}

#[test]
fn an_empty_image_is_an_image() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    write_image(&source, &[], 0);
    let made = pack(&[("empty", &source)], &directory.path().join("p"), PackOptions::default()).unwrap();
    assert_eq!(made.chunks().len(), 0);
    made.verify(&Progress::default()).unwrap();
    let target = directory.path().join("target");
    restore_to(&made, "empty", &target, false).unwrap();
    assert_eq!(fs::metadata(&target).unwrap().len(), 0);
}

#[test]
fn a_name_that_is_not_there_is_answered_with_those_that_are() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    write_image(&source, &[Page::Random(1)], 0);
    let made = pack(&[("web", &source), ("db", &source)], &directory.path().join("p"), PackOptions::default()).unwrap();
    let error = made.image_index("mail").unwrap_err();
    assert!(matches!(error, Error::NoSuchImage { .. }));
    assert_eq!(error.to_string(), "no image mail in the pack; it has: web, db");
}

#[test]
fn bad_parameters_are_refused_before_anything_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    write_image(&source, &[Page::Random(1)], 0);
    let output = directory.path().join("p");
    let refused = |images: &[(&str, &std::path::Path)], options| {
        assert!(matches!(pack(images, &output, options), Err(Error::Parameter(_))));
        assert!(!output.exists());
    };
    refused(&[], PackOptions::default());
    refused(&[("a", &source), ("a", &source)], PackOptions::default());
    refused(&[("a b", &source)], PackOptions::default());
    refused(&[("../a", &source)], PackOptions::default());
    refused(&[("a", &source)], PackOptions { chunk_pages: 0, ..PackOptions::default() });
    refused(&[("a", &source)], PackOptions { level: 99, ..PackOptions::default() });
}

#[test]
fn a_pack_that_exists_is_replaced_only_when_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    write_image(&source, &[Page::Random(1)], 0);
    let output = directory.path().join("p");
    fs::write(&output, "precious").unwrap();
    let build = |force| {
        let options = PackOptions { force, ..PackOptions::default() };
        image::pack::build(&common::specs(&[("a", &source)]), &output, &options, &Progress::default())
    };
    assert!(matches!(build(false), Err(Error::TargetRefused { .. })));
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    build(true).unwrap();
    assert!(!directory.path().join("p.partial").exists());
}
