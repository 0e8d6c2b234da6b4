//! Targets are protected, end up right whatever they held before, and look whole only when they are.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/loop_device.rs"]
mod loop_device;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{Page, assert_same_bytes, is_root, pack, page_bytes, restore_to, write_image};
use image::manifest::{Body, ChunkDescriptor, Content, DiskBody, Extent, Manifest};
use image::pack::PackOptions;
use image::restore::{BufferPool, Target, TargetOptions, Writer};
use image::{ChunkId, Codec, Error, Pack};
use loop_device::{LoopDevice, Mount};

/// A pack of one disk image of these pages.
fn pack_of(directory: &Path, pages: &[Page], cut: u64) -> Pack {
    let source = directory.join("source");
    write_image(&source, pages, cut);
    pack(&[("disk", &source)], &directory.join("one.pack"), PackOptions::default()).unwrap()
}

/// Data, zeros and holes in turn; the first page holds data.
fn mixed(pages: u32) -> Vec<Page> {
    let page = |number: u32| match number / 7 % 4 {
        0 | 2 => Page::Random(number),
        1 => Page::Zero,
        _ => Page::Hole,
    };
    (0..pages).map(page).collect()
}

fn refusal(outcome: image::Result<image::restore::RestoreReport>) -> String {
    match outcome {
        Err(error @ Error::TargetRefused { .. }) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_file_that_exists_is_kept_unless_forced() {
    let directory = tempfile::tempdir().unwrap();
    let made = pack_of(directory.path(), &mixed(50), 0);
    let target = directory.path().join("target");
    fs::write(&target, "precious").unwrap();
    assert!(refusal(restore_to(&made, "disk", &target, false)).contains("--force"));
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    restore_to(&made, "disk", &target, true).unwrap();
    assert_same_bytes(&directory.path().join("source"), &target);
}

#[test]
fn a_disk_does_not_go_where_files_go() {
    let directory = tempfile::tempdir().unwrap();
    let made = pack_of(directory.path(), &mixed(5), 0);
    assert!(refusal(restore_to(&made, "disk", directory.path(), true)).contains("directory"));
    assert!(refusal(restore_to(&made, "disk", Path::new("/dev/null"), true)).contains("neither"));
}

#[test]
fn a_file_that_is_being_written_is_not_written_twice() {
    let directory = tempfile::tempdir().unwrap();
    let made = pack_of(directory.path(), &mixed(50), 0);
    let path = directory.path().join("target");
    let manifest = made.manifest(0).unwrap();
    let first = Target::open(&path, &manifest, &TargetOptions::default()).unwrap();
    assert!(refusal(restore_to(&made, "disk", &path, false)).contains("another process"));
    drop(first);
    restore_to(&made, "disk", &path, false).unwrap();
}

#[test]
fn an_interrupted_restore_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let made = pack_of(directory.path(), &mixed(200), 0);
    let path = directory.path().join("target");
    let manifest = made.manifest(0).unwrap();
    let pool = BufferPool::new(2, manifest.chunk_bytes_max()).unwrap();
    let target = Target::open(&path, &manifest, &TargetOptions::default()).unwrap();
    let mut writer = Writer::new(target, &manifest, &[&pool], 4).unwrap();
    writer.write_chunk(manifest.chunks[0].id, pool.take().unwrap(), 0).unwrap();
    match writer.finish() {
        Err(Error::Incomplete { missing: 1, total: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(pool.available(), 2);
    let names: Vec<_> = common::list(directory.path()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["one.pack", "source"]);
}

#[test]
fn a_leftover_of_a_dead_process_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let made = pack_of(directory.path(), &mixed(50), 100);
    let target = directory.path().join("target");
    fs::write(directory.path().join("target.partial"), "left behind").unwrap();
    restore_to(&made, "disk", &target, false).unwrap();
    assert_same_bytes(&directory.path().join("source"), &target);
}

#[test]
fn a_full_filesystem_is_said_with_the_place_and_leaves_nothing() {
    if !is_root("a_full_filesystem_is_said_with_the_place_and_leaves_nothing") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let made = pack_of(directory.path(), &(0..1000).map(Page::Random).collect::<Vec<_>>(), 0);
    let small = Mount::new(&["-t", "tmpfs", "-o", "size=1M", "tmpfs"], &directory.path().join("small"));
    match restore_to(&made, "disk", &small.path.join("target"), false) {
        Err(Error::WriteTarget { path, error, .. }) => {
            assert_eq!(path, small.path.join("target.partial"));
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(common::list(&small.path), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_device_that_fails_is_named_with_the_offset() {
    if !is_root("a_device_that_fails_is_named_with_the_offset") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let made = pack_of(directory.path(), &(0..1000).map(Page::Random).collect::<Vec<_>>(), 0);
    // The device promises 8 MiB, what is below it has 2.
    let small = Mount::new(&["-t", "tmpfs", "-o", "size=2M", "tmpfs"], &directory.path().join("small"));
    let device = LoopDevice::new(&small.path.join("backing"), 8 << 20);
    match restore_to(&made, "disk", &device.path, false) {
        Err(Error::WriteTarget { path, offset, length_bytes, error }) => {
            assert_eq!(path, device.path);
            assert!(offset < 1000 * 4096 && length_bytes > 0);
            assert!(error.raw_os_error().is_some(), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// Fills a device with bytes of an earlier tenant.
fn soil(device: &Path, bytes: u64) {
    let mut file = File::options().write(true).open(device).unwrap();
    file.write_all(&vec![0xaa; bytes as usize]).unwrap();
    file.sync_all().unwrap();
}

fn read_device(device: &Path, bytes: u64) -> Vec<u8> {
    let mut content = vec![0; bytes as usize];
    File::open(device).unwrap().read_exact_at(&mut content, 0).unwrap();
    content
}

#[test]
fn nothing_of_an_earlier_tenant_is_left_within_the_image() {
    if !is_root("nothing_of_an_earlier_tenant_is_left_within_the_image") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (number, cut) in [0, 1000].into_iter().enumerate() {
        // Long enough to reach beyond the beginning that is written last.
        let made = pack_of(directory.path(), &mixed(500), cut);
        let device_bytes = 4 << 20;
        let device = LoopDevice::new(&directory.path().join(format!("backing{number}")), device_bytes);
        soil(&device.path, device_bytes);
        let report = restore_to(&made, "disk", &device.path, false).unwrap();
        assert_eq!(report.notes, Vec::<String>::new());
        let source = fs::read(directory.path().join("source")).unwrap();
        let content = read_device(&device.path, device_bytes);
        assert!(content[..source.len()] == source[..], "cut {cut}");
        // Behind the image the device is as it was, but for the rest of the last sector.
        assert!(content[source.len().next_multiple_of(512)..].iter().all(|&byte| byte == 0xaa));
    }
}

#[test]
fn an_interrupted_device_does_not_look_installed() {
    if !is_root("an_interrupted_device_does_not_look_installed") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let made = pack_of(directory.path(), &(0..500).map(Page::Random).collect::<Vec<_>>(), 0);
    let device = LoopDevice::new(&directory.path().join("backing"), 4 << 20);
    soil(&device.path, 4 << 20);
    let manifest = made.manifest(0).unwrap();
    let pool = BufferPool::new(16, manifest.chunk_bytes_max()).unwrap();
    let target = Target::open(&device.path, &manifest, &TargetOptions::default()).unwrap();
    let mut writer = Writer::new(target, &manifest, &[&pool], 4).unwrap();
    // All chunks but the last, the first among them.
    let mut done = Vec::new();
    for chunk in &manifest.chunks[..manifest.chunks.len() - 1] {
        let mut buffer = pool.take_wait();
        buffer.fill(0x55);
        writer.write_chunk(chunk.id, buffer, 0).unwrap();
    }
    while writer.pending() > 0 {
        writer.wait(&mut done).unwrap();
    }
    assert_eq!(done.len(), manifest.chunks.len() - 1);
    drop(writer);
    let content = read_device(&device.path, 2 << 20);
    assert!(content[..128 << 10].iter().all(|&byte| byte == 0), "the beginning is empty");
    assert!(content[128 << 10..256 << 10].iter().all(|&byte| byte == 0x55), "what follows it was written");
}

#[test]
fn a_device_that_is_mounted_is_refused_even_when_forced() {
    if !is_root("a_device_that_is_mounted_is_refused_even_when_forced") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let made = pack_of(directory.path(), &mixed(50), 0);
    let device = LoopDevice::new(&directory.path().join("backing"), 8 << 20);
    let made_filesystem = std::process::Command::new("mkfs.ext4").arg("-q").arg(&device.path).status().unwrap();
    assert!(made_filesystem.success());
    let before = read_device(&device.path, 64 << 10);
    {
        let mount = Mount::new(&[device.path.to_str().unwrap()], &directory.path().join("mounted here"));
        let why = refusal(restore_to(&made, "disk", &device.path, true));
        assert!(why.contains(&format!("mounted at {}", mount.path.display())), "{why}");
    }
    assert!(read_device(&device.path, 1024) == before[..1024]);
    restore_to(&made, "disk", &device.path, false).unwrap();
}

#[test]
fn a_device_that_is_too_small_is_refused_with_both_sizes() {
    if !is_root("a_device_that_is_too_small_is_refused_with_both_sizes") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let made = pack_of(directory.path(), &mixed(50), 0);
    let device = LoopDevice::new(&directory.path().join("backing"), 64 << 10);
    soil(&device.path, 64 << 10);
    match restore_to(&made, "disk", &device.path, true) {
        Err(error @ Error::TargetTooSmall { target_bytes: 65536, image_bytes: 204_800, .. }) => {
            assert!(error.to_string().contains("65536") && error.to_string().contains("204800"));
        }
        other => panic!("{other:?}"),
    }
    assert!(read_device(&device.path, 64 << 10).iter().all(|&byte| byte == 0xaa));
}

/// A disk whose data begins at odd places, as partitions that are not aligned make them: extents of three pages at multiples of `unit`, with
/// zeros between.
fn unaligned(unit: u64) -> (Manifest, Vec<u8>, Vec<u8>) {
    let raw: Vec<u8> = (0..16).flat_map(|number| page_bytes(Page::Random(number))).collect();
    let mut expected = Vec::new();
    let mut extents = Vec::new();
    for number in 0..40u64 {
        let gap = unit * (number % 5 + 1);
        extents.push(Extent { target_offset: expected.len() as u64, length: gap, content: Content::Zero });
        expected.resize(expected.len() + gap as usize, 0);
        let (page, length) = (number as u32 % 13, 2 * 4096 + unit.min(4096));
        extents.push(Extent { target_offset: expected.len() as u64, length, content: Content::Data { chunk: 0, page } });
        expected.extend_from_slice(&raw[page as usize * 4096..][..length as usize]);
    }
    let chunk = ChunkDescriptor {
        id: ChunkId(5),
        stored_bytes: raw.len() as u32,
        raw_bytes: raw.len() as u32,
        codec: Codec::None,
        hash: *blake3::hash(&raw).as_bytes(),
        raw_hash: Some(*blake3::hash(&raw).as_bytes()),
    };
    let body = Body::Disk(DiskBody { size_bytes: expected.len() as u64, extents });
    (Manifest { name: "odd".into(), chunk_pages: 16, chunks: vec![chunk], body }, raw, expected)
}

fn write_by_hand(manifest: &Manifest, raw: &[u8], path: &Path) -> Vec<String> {
    let pool = BufferPool::new(1, 2 * raw.len()).unwrap();
    let target = Target::open(path, manifest, &TargetOptions::default()).unwrap();
    let mut writer = Writer::new(target, manifest, &[&pool], 8).unwrap();
    let mut buffer = pool.take().unwrap();
    buffer[4096..4096 + raw.len()].copy_from_slice(raw);
    writer.write_chunk(ChunkId(5), buffer, 4096).unwrap();
    let mut done = Vec::new();
    writer.wait(&mut done).unwrap();
    assert_eq!(done, [ChunkId(5)]);
    assert_eq!((writer.missing(), writer.pending(), pool.available()), (0, 0, 1));
    writer.finish().unwrap()
}

#[test]
fn data_at_any_offset_is_written_exactly() {
    let directory = tempfile::tempdir().unwrap();
    for unit in [4096, 512, 1, 63] {
        let (manifest, raw, expected) = unaligned(unit);
        let path = directory.path().join(format!("file{unit}"));
        write_by_hand(&manifest, &raw, &path);
        assert!(fs::read(&path).unwrap() == expected, "file, unit {unit}");
    }
}

#[test]
fn data_at_any_offset_of_a_device_is_written_exactly() {
    if !is_root("data_at_any_offset_of_a_device_is_written_exactly") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for unit in [4096, 512, 1, 63] {
        let (manifest, raw, expected) = unaligned(unit);
        let device = LoopDevice::new(&directory.path().join(format!("backing{unit}")), 4 << 20);
        soil(&device.path, 4 << 20);
        let notes = write_by_hand(&manifest, &raw, &device.path);
        assert_eq!(notes.len(), usize::from(unit % 512 != 0), "{notes:?}");
        let content = read_device(&device.path, 4 << 20);
        assert!(content[..expected.len()] == expected, "device, unit {unit}");
        assert!(content[expected.len().next_multiple_of(512)..].iter().all(|&byte| byte == 0xaa), "behind the image, unit {unit}");
    }
}

#[test]
fn a_chunk_that_the_image_does_not_need_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let (manifest, raw, _) = unaligned(4096);
    let pool = BufferPool::new(2, raw.len()).unwrap();
    let target = Target::open(&directory.path().join("target"), &manifest, &TargetOptions::default()).unwrap();
    let mut writer = Writer::new(target, &manifest, &[&pool], 8).unwrap();
    assert!(matches!(writer.write_chunk(ChunkId(4), pool.take().unwrap(), 0), Err(Error::Chunk { .. })));
    let short = BufferPool::new(1, 4096).unwrap();
    assert!(matches!(writer.write_chunk(ChunkId(5), short.take().unwrap(), 0), Err(Error::Chunk { .. })));
    assert_eq!(pool.available(), 2);
}
