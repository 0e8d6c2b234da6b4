//! A target that holds part of the image already: what is there is found and kept, the rest is written, and the result is exactly that of a
//! fresh restore, wherever an earlier run was interrupted.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/loop_device.rs"]
mod loop_device;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use common::{Page, assert_same_bytes, is_root, pack, page_bytes, write_image};
use image::pack::PackOptions;
use image::restore::{BufferPool, Present, RestoreReport, ScanProgress, Target, TargetOptions, Writer, restore};
use image::{Codec, Error, Manifest, Pack, Progress};
use loop_device::LoopDevice;

const RESUME: TargetOptions = TargetOptions { force: false, resume: true, keep: false };

/// A directory on a disk: where it is in memory, O_DIRECT may not exist.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

/// 900 pages: compressible and other data, pages that occur several times, zeros and holes; a short last page.
fn pages() -> Vec<Page> {
    let page = |number: u32| match number / 40 % 5 {
        0 => Page::Random(number),
        1 | 3 => Page::Text(number),
        2 if number.is_multiple_of(3) => Page::Random(7),
        2 => Page::Text(number % 11),
        _ if number.is_multiple_of(2) => Page::Hole,
        _ => Page::Zero,
    };
    (0..900).map(page).collect()
}

fn options() -> PackOptions {
    PackOptions { chunk_pages: 16, ..PackOptions::default() }
}

struct Case {
    directory: tempfile::TempDir,
    pack: Pack,
    manifest: Manifest,
}

impl Case {
    fn new(pages: &[Page], cut: u64, options: PackOptions) -> Self {
        let directory = directory();
        let source = directory.path().join("source");
        write_image(&source, pages, cut);
        let pack = pack(&[("disk", &source)], &directory.path().join("one.pack"), options).unwrap();
        let manifest = pack.manifest(0).unwrap();
        Self { directory, pack, manifest }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn source(&self) -> PathBuf {
        self.path("source")
    }

    fn present(&self, target: &Path) -> Present {
        let mut target = Target::open(target, &self.manifest, &RESUME).unwrap();
        target.find_present(&self.manifest, &ScanProgress::default(), &AtomicBool::new(false)).unwrap()
    }

    fn resume(&self, target: &Path) -> image::Result<RestoreReport> {
        restore(&self.pack, 0, target, &RESUME, &Progress::default())
    }

    /// Names in the directory beside the pack and its source.
    fn names(&self) -> Vec<String> {
        let names = common::list(self.directory.path()).into_iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
        names.filter(|name| !["one.pack", "source"].contains(&name.as_str())).collect()
    }
}

fn change(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn read_device(path: &Path, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    File::open(path).unwrap().read_exact_at(&mut content, 0).unwrap();
    content
}

#[test]
fn a_file_that_is_the_image_already_is_found_whole() {
    for codec in [Codec::Zstd, Codec::None] {
        let case = Case::new(&pages(), 1000, PackOptions { codec, ..options() });
        let target = case.path("target");
        fs::copy(case.source(), &target).unwrap();
        let present = case.present(&target);
        assert_eq!((present.chunks(), present.notes()), (case.manifest.chunks.len(), &[][..]));
        assert_eq!(present.missing(&case.manifest).count(), 0);
        assert_eq!(case.resume(&target).unwrap().stored_bytes, 0);
        assert_same_bytes(&case.source(), &target);
    }
}

#[test]
fn every_byte_that_differs_makes_its_chunk_wanted() {
    let case = Case::new(&pages(), 1000, options());
    let target = case.path("target");
    fs::copy(case.source(), &target).unwrap();
    let size = fs::metadata(&target).unwrap().len();
    let data = |page: u64| !matches!(pages()[page as usize], Page::Hole | Page::Zero);
    // Beginning and end, and pages that occur in several places.
    for offset in [0, 4095, 80 * 4096 + 1, 83 * 4096, size - 1] {
        assert!(data(offset / 4096));
        let mut byte = [0];
        File::open(&target).unwrap().read_exact_at(&mut byte, offset).unwrap();
        change(&target, offset, &[byte[0] ^ 1]);
        let present = case.present(&target);
        assert_eq!(present.missing(&case.manifest).count(), 1, "offset {offset}");
        case.resume(&target).unwrap();
        assert_same_bytes(&case.source(), &target);
    }
}

#[test]
fn what_the_image_leaves_zero_is_zeroed_and_is_a_hole() {
    let case = Case::new(&pages(), 0, options());
    let target = case.path("target");
    let size = fs::metadata(case.source()).unwrap().len();
    // As an earlier tenant left it, and longer than the image.
    fs::write(&target, vec![0xaa; size as usize + 100_000]).unwrap();
    case.resume(&target).unwrap();
    assert_same_bytes(&case.source(), &target);
    let fresh = case.path("fresh");
    common::restore_to(&case.pack, "disk", &fresh, false).unwrap();
    assert_eq!(fs::metadata(&target).unwrap().blocks(), fs::metadata(&fresh).unwrap().blocks());
}

#[test]
fn a_target_that_is_too_short_or_not_there_is_made_whole() {
    let case = Case::new(&pages(), 1, options());
    let target = case.path("target");
    case.resume(&target).unwrap();
    assert_same_bytes(&case.source(), &target);
    File::options().write(true).open(&target).unwrap().set_len(60 * 4096 + 1).unwrap();
    let present = case.present(&target);
    assert!((1..case.manifest.chunks.len()).contains(&present.chunks()), "{present:?}");
    case.resume(&target).unwrap();
    assert_same_bytes(&case.source(), &target);
    assert_eq!(case.names(), ["target"]);
}

/// Writes the chunks with these indices as a run does that ends before it has all.
fn write_some(case: &Case, target: Target, chunks: impl Iterator<Item = usize>) {
    let pool = BufferPool::new(4, case.manifest.chunk_bytes_max()).unwrap();
    let mut writer = Writer::new(target, &case.manifest, &[&pool], 4).unwrap();
    let mut done = Vec::new();
    let stored = File::open(case.pack.path()).unwrap();
    for index in chunks {
        let (chunk, record) = (&case.manifest.chunks[index], &case.pack.chunks()[case.manifest.chunks[index].id.index()]);
        let mut bytes = vec![0; record.stored_bytes as usize];
        stored.read_exact_at(&mut bytes, record.offset).unwrap();
        let mut buffer = pool.take_wait();
        image::restore::decode_chunk(chunk, &bytes, &mut buffer[..chunk.raw_bytes as usize]).unwrap();
        writer.write_chunk(chunk.id, buffer, 0).unwrap();
        writer.wait(&mut done).unwrap();
    }
}

#[test]
fn a_run_that_was_interrupted_is_gone_on_with() {
    let case = Case::new(&pages(), 1000, options());
    let (target, partial) = (case.path("target"), case.path("target.partial"));
    let chunks = case.manifest.chunks.len();
    write_some(&case, Target::open(&target, &case.manifest, &RESUME).unwrap(), 0..chunks / 3);
    assert_eq!(case.names(), ["target.partial"], "it does not look whole, and is not lost");
    // A second one that goes further and is interrupted too.
    let mut second = Target::open(&target, &case.manifest, &RESUME).unwrap();
    let present = second.find_present(&case.manifest, &ScanProgress::default(), &AtomicBool::new(false)).unwrap();
    assert_eq!(present.chunks(), chunks / 3);
    write_some(&case, second, chunks / 3..chunks / 2);
    assert!(partial.exists());
    let all: u64 = case.manifest.stored_bytes();
    let report = case.resume(&target).unwrap();
    assert!(report.stored_bytes > 0 && report.stored_bytes < all * 3 / 4, "{report:?}");
    assert_same_bytes(&case.source(), &target);
    assert_eq!(case.names(), ["target"]);
}

#[test]
fn what_is_kept_of_a_first_run_is_gone_on_with() {
    let case = Case::new(&pages(), 1000, options());
    let target = case.path("target");
    let chunks = case.manifest.chunks.len();
    for (keep, left) in [(false, &[][..]), (true, &["target.partial"])] {
        let options = TargetOptions { keep, ..TargetOptions::default() };
        write_some(&case, Target::open(&target, &case.manifest, &options).unwrap(), 0..chunks / 2);
        assert_eq!(case.names(), left);
    }
    let report = case.resume(&target).unwrap();
    assert!(report.stored_bytes > 0 && report.stored_bytes < case.manifest.stored_bytes() * 3 / 4, "{report:?}");
    assert_same_bytes(&case.source(), &target);
    assert_eq!(case.names(), ["target"]);
}

#[test]
fn a_scan_changes_nothing() {
    let case = Case::new(&pages(), 0, options());
    let target = case.path("target");
    fs::write(&target, vec![0x11; 200_000]).unwrap();
    case.present(&target);
    assert_eq!(case.names(), ["target"]);
    assert!(fs::read(&target).unwrap() == vec![0x11; 200_000]);
    // Interrupted by the operator.
    let mut opened = Target::open(&target, &case.manifest, &RESUME).unwrap();
    let stopped = opened.find_present(&case.manifest, &ScanProgress::default(), &AtomicBool::new(true));
    assert!(matches!(stopped, Err(Error::Stopped)));
    drop(opened);
    assert_eq!(case.names(), ["target"]);
}

#[test]
fn a_file_with_another_name_or_behind_a_link_is_not_changed() {
    let case = Case::new(&pages(), 0, options());
    let target = case.path("target");
    std::os::unix::fs::symlink(case.source(), &target).unwrap();
    assert!(matches!(case.resume(&target), Err(Error::TargetRefused { .. })));
    fs::remove_file(&target).unwrap();
    fs::write(&target, "mine").unwrap();
    fs::hard_link(&target, case.path("too")).unwrap();
    match case.resume(&target) {
        Err(error @ Error::TargetRefused { .. }) => assert!(error.to_string().contains("hard links")),
        // With reflinks the other name keeps its content.
        outcome => assert!(outcome.is_ok()),
    }
    assert_eq!(fs::read(case.path("too")).unwrap(), b"mine");
}

#[test]
fn a_pack_of_an_older_version_makes_everything_wanted_and_says_so() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/zstd.pack");
    let opened = Pack::open(&golden).unwrap();
    let directory = directory();
    let target = directory.path().join("target");
    common::restore_to(&opened, "web", &target, false).unwrap();
    let report = restore(&opened, 0, &target, &RESUME, &Progress::default()).unwrap();
    assert_eq!(report.stored_bytes, opened.manifest(0).unwrap().stored_bytes());
    assert!(report.notes.iter().any(|note| note.contains("pack again")), "{report:?}");
}

#[test]
fn a_device_is_resumed_and_reads_as_after_a_fresh_restore() {
    if !is_root("a_device_is_resumed_and_reads_as_after_a_fresh_restore") {
        return;
    }
    let case = Case::new(&pages(), 0, options());
    let source = fs::read(case.source()).unwrap();
    let device = LoopDevice::new(&case.path("backing"), 8 << 20);
    let chunks = case.manifest.chunks.len();
    // Old data everywhere.
    change(&device.path, 0, &vec![0xaa; 8 << 20]);
    assert_eq!(case.present(&device.path).chunks(), 0);
    write_some(&case, Target::open(&device.path, &case.manifest, &RESUME).unwrap(), 0..chunks / 2);
    assert!(read_device(&device.path, 128 << 10).iter().all(|&byte| byte == 0), "it does not look whole");
    let first = case.manifest.chunks.iter().take(chunks / 2).count();
    let present = case.present(&device.path);
    // What was to come last did not come: the chunks in the first 128 KiB, which are 32 pages.
    assert!((first - 4..first).contains(&present.chunks()), "{} of {first}", present.chunks());
    case.resume(&device.path).unwrap();
    assert!(read_device(&device.path, source.len()) == source);
    assert!(read_device(&device.path, 8 << 20)[source.len()..].iter().all(|&byte| byte == 0xaa), "what lies behind is kept");
    // Whole, with something in a hole that does not belong there.
    let hole = pages().iter().position(|page| matches!(page, Page::Hole)).unwrap() as u64;
    change(&device.path, hole * 4096, b"stale");
    assert_eq!(case.present(&device.path).chunks(), chunks, "holes are no chunks");
    assert_eq!(case.resume(&device.path).unwrap().stored_bytes, 0);
    assert!(read_device(&device.path, source.len()) == source);
}

#[test]
fn data_at_odd_offsets_is_recognised() {
    use image::manifest::{Body, ChunkDescriptor, Content, DiskBody, Extent};
    let raw: Vec<u8> = (0..4).flat_map(|number| page_bytes(Page::Random(number))).collect();
    let hash = *blake3::hash(&raw).as_bytes();
    let raw_bytes = raw.len() as u32;
    let chunk =
        ChunkDescriptor { id: image::ChunkId(3), stored_bytes: raw_bytes, raw_bytes, codec: Codec::None, hash, raw_hash: Some(hash) };
    let extents = vec![
        Extent { target_offset: 0, length: 63, content: Content::Zero },
        Extent { target_offset: 63, length: 16384, content: Content::Data { chunk: 0, page: 0 } },
        Extent { target_offset: 16447, length: 5000, content: Content::Data { chunk: 0, page: 1 } },
    ];
    let body = Body::Disk(DiskBody { size_bytes: 21447, extents });
    let manifest = Manifest { name: "odd".into(), chunk_pages: 16, chunks: vec![chunk], body };
    let directory = directory();
    let target = directory.path().join("target");
    let mut content = [&[0; 63], &raw[..], &raw[4096..9096]].concat();
    for (right, expected) in [(true, 1), (false, 0)] {
        if !right {
            content[21446] ^= 1;
        }
        fs::write(&target, &content).unwrap();
        let mut opened = Target::open(&target, &manifest, &RESUME).unwrap();
        let present = opened.find_present(&manifest, &ScanProgress::default(), &AtomicBool::new(false)).unwrap();
        assert_eq!(present.chunks(), expected);
    }
}
