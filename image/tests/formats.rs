//! Disk images in other formats than raw give the same disk: compared with what the formats' own tools say.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/loop_device.rs"]
mod loop_device;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Page, assert_same_bytes, is_root, pack, restore_to, write_image};
use image::Error;
use image::pack::PackOptions;
use image::source::{Format, SourceOptions, open};
use loop_device::{LoopDevice, Mount};
use proptest::prelude::*;

/// Runs a program that must succeed.
fn run(directory: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(directory).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/install-deps installs it"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Something of everything: data, text, zeros, holes.
fn raw_image(path: &Path) {
    let runs: [(Page, u32); 9] = [
        (Page::Random(0), 100),
        (Page::Hole, 300),
        (Page::Text(1), 60),
        (Page::Zero, 90),
        (Page::Random(500), 200),
        (Page::Hole, 400),
        (Page::Text(7), 3),
        (Page::Hole, 1),
        (Page::Random(900), 2),
    ];
    let page = |page: Page, number: u32| match page {
        Page::Random(first) => Page::Random(first + number),
        other => other,
    };
    let pages: Vec<_> = runs.iter().flat_map(|&(kind, count)| (0..count).map(move |number| page(kind, number))).collect();
    // No whole page at the end, and no whole cluster.
    write_image(path, &pages, 512);
}

/// Packs and restores `image`, and compares it with `expected`.
fn assert_gives(directory: &Path, image: &Path, expected: &Path, options: SourceOptions) {
    let made = pack(&[("a", image)], &directory.join("a.pack"), PackOptions { source: options, ..PackOptions::default() }).unwrap();
    let target = directory.join("restored");
    restore_to(&made, "a", &target, true).unwrap();
    assert_same_bytes(expected, &target);
}

fn error_of(path: &Path, options: SourceOptions) -> String {
    match open(path, options) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => {
            assert!(matches!(error, Error::Source { .. }), "{error}");
            error.to_string()
        }
    }
}

#[test]
fn qcow2_images_of_every_kind_give_the_raw_disk() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("raw");
    raw_image(&raw);
    let kinds: [&[&str]; 10] = [
        &["-o", "compat=0.10"],
        &["-o", "compat=0.10", "-c"],
        &["-o", "compat=1.1"],
        &["-o", "compat=1.1,cluster_size=512"],
        &["-o", "compat=1.1,cluster_size=2M"],
        &["-o", "compression_type=zlib", "-c"],
        &["-o", "compression_type=zstd", "-c"],
        &["-o", "compression_type=zstd,cluster_size=2M", "-c"],
        &["-o", "compression_type=zlib,cluster_size=512", "-c"],
        &["-o", "extended_l2=on,cluster_size=64k"],
    ];
    for (number, kind) in kinds.iter().enumerate() {
        // Named as something else: only the content counts.
        let name = format!("{number}.raw");
        run(directory.path(), "qemu-img", &[&["convert", "-f", "raw", "-O", "qcow2"], *kind, &["raw", &name]].concat());
        assert_gives(directory.path(), &directory.path().join(&name), &raw, SourceOptions::default());
    }
    // Made of the same pages whatever the format.
    let image = directory.path().join("6.raw");
    let made = pack(&[("raw", &raw), ("qcow2", &image)], &directory.path().join("both"), PackOptions::default()).unwrap();
    assert_eq!(made.segments().len(), 1);
}

#[test]
fn what_qcow2_does_not_store_is_a_hole() {
    let directory = tempfile::tempdir().unwrap();
    run(directory.path(), "qemu-img", &["create", "-f", "qcow2", "sparse", "100G"]);
    run(directory.path(), "qemu-io", &["-c", "write -P 7 90G 64k", "-c", "write -z 1G 64M", "sparse"]);
    let made = pack(&[("a", &directory.path().join("sparse"))], &directory.path().join("p"), PackOptions::default()).unwrap();
    let info = &made.images()[0];
    assert_eq!((info.used_bytes, info.zero_bytes), (64 << 10, 0));
    assert_eq!(info.hole_bytes, (100 << 30) - (64 << 10));
}

#[test]
fn a_backing_chain_gives_what_qemu_reads() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    raw_image(&path("base.raw"));
    let extended = "extended_l2=on,cluster_size=128k";
    run(directory.path(), "qemu-img", &["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o", extended, "mid.qcow2"]);
    run(directory.path(), "qemu-io", &["-c", "write -P 1 4k 4k", "-c", "write -P 2 100k 200k", "-c", "write -z 2M 64k", "mid.qcow2"]);
    // Larger than what lies below it.
    run(
        directory.path(),
        "qemu-img",
        &["create", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "-o", "cluster_size=4k", "top.qcow2", "9M"],
    );
    run(directory.path(), "qemu-io", &["-c", "write -P 3 0 1k", "-c", "write -P 4 8M 5k", "-c", "write -z 104k 8k", "top.qcow2"]);
    run(directory.path(), "qemu-img", &["convert", "-O", "raw", "top.qcow2", "expected"]);
    assert_gives(directory.path(), &path("top.qcow2"), &path("expected"), SourceOptions::default());
    // The absolute name of a file beside it is as good.
    let absolute = path("mid.qcow2").into_os_string().into_string().unwrap();
    run(directory.path(), "qemu-img", &["rebase", "-u", "-b", &absolute, "-F", "qcow2", "top.qcow2"]);
    assert_gives(directory.path(), &path("top.qcow2"), &path("expected"), SourceOptions::default());
}

#[test]
fn a_backing_file_elsewhere_is_read_only_when_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("images")).unwrap();
    raw_image(&path("secret"));
    run(directory.path(), "qemu-img", &["create", "-f", "qcow2", "-b", "../secret", "-F", "raw", "images/top"]);
    let image = path("images/top");
    let error = error_of(&image, SourceOptions::default());
    assert!(error.contains("\"../secret\"") && error.contains("not in the directory") && error.contains("qemu-img convert"), "{error}");
    assert_gives(directory.path(), &image, &path("secret"), SourceOptions { backing_anywhere: true, ..SourceOptions::default() });
    // A link beside the image leads elsewhere too.
    std::os::unix::fs::symlink("../secret", path("images/link")).unwrap();
    run(&path("images"), "qemu-img", &["rebase", "-u", "-b", "link", "-F", "raw", "top"]);
    assert!(error_of(&image, SourceOptions::default()).contains("not in the directory"));
    run(&path("images"), "qemu-img", &["rebase", "-u", "-b", "nbd://localhost/x", "-F", "raw", "top"]);
    assert!(error_of(&image, SourceOptions { backing_anywhere: true, ..SourceOptions::default() }).contains("is no plain file"));
    run(&path("images"), "qemu-img", &["rebase", "-u", "-b", "top", "-F", "qcow2", "top"]);
    assert!(error_of(&image, SourceOptions::default()).contains("leads back"));
}

#[test]
fn filesystems_in_qcow2_are_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("files")).unwrap();
    write_image(&path("files/kept"), &(0..200).map(Page::Random).collect::<Vec<_>>(), 0);
    write_image(&path("files/gone"), &(1000..1500).map(Page::Random).collect::<Vec<_>>(), 0);
    run(directory.path(), "mkfs.ext4", &["-q", "-d", "files", "raw", "32M"]);
    run(directory.path(), "debugfs", &["-w", "-R", "rm gone", "raw"]);
    run(directory.path(), "qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-c", "raw", "image.qcow2"]);
    run(directory.path(), "sh", &["-c", "zstd -q < raw > image.zst"]);
    let used = |name: &str| pack(&[("a", &path(name))], &path("p"), PackOptions::default()).unwrap().images()[0].used_bytes;
    let (raw, qcow2, streamed) = (used("raw"), used("image.qcow2"), used("image.zst"));
    assert_eq!(raw, qcow2);
    assert!(streamed >= raw + 500 * 4096, "{streamed} without random access, {raw} with");
}

#[test]
fn what_qcow2_asks_for_beyond_that_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let check = |what: &str| {
        let error = error_of(&image, SourceOptions::default());
        assert!(error.contains(what), "{error}");
        assert!(error.contains("qemu-img"), "{error} says no way out");
    };
    // docs/interop/qcow2.rst: the way of encryption is a big-endian number at byte 32, 2 is LUKS. Made by hand, as qemu-img tries how fast the machine
    // is before it encrypts, and gives up on some.
    run(directory.path(), "qemu-img", &["create", "-f", "qcow2", "image", "1M"]);
    File::options().write(true).open(&image).unwrap().write_all_at(&2u32.to_be_bytes(), 32).unwrap();
    check("encrypted");
    run(directory.path(), "qemu-img", &["create", "-f", "qcow2", "-o", "data_file=data", "image", "1M"]);
    check("another file");
    // docs/interop/qcow2.rst: the incompatible features are a big-endian number at byte 72.
    for (bit, what) in [(1u8, "not closed cleanly"), (2, "corrupt"), (1 << 6, "not known")] {
        run(directory.path(), "qemu-img", &["create", "-f", "qcow2", "image", "1M"]);
        File::options().write(true).open(&image).unwrap().write_all_at(&[bit], 79).unwrap();
        check(what);
    }
    for format in ["vmdk", "vhdx", "vpc", "vdi"] {
        run(directory.path(), "qemu-img", &["create", "-f", format, "image", "1M"]);
        check("not read here");
    }
    run(directory.path(), "qemu-img", &["create", "-f", "vpc", "-o", "subformat=fixed", "image", "1M"]);
    check("a VHD image");
}

#[test]
fn a_format_that_is_forced_is_not_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    run(directory.path(), "qemu-img", &["create", "-f", "qcow2", "image", "10M"]);
    let raw = SourceOptions { format: Some(Format::Raw), ..SourceOptions::default() };
    assert_gives(directory.path(), &image, &image, raw);
    let source = |format| open(&image, SourceOptions { format: Some(format), ..SourceOptions::default() });
    assert!(source(Format::Archive).is_err() && source(Format::CompressedRaw).is_err());
    // An empty image has nothing to read; as a raw disk it has its own tables.
    assert_eq!(source(Format::Qcow2).unwrap().estimated_bytes(), 0);
    assert!(source(Format::Raw).unwrap().estimated_bytes() > 0);
}

/// The compressed forms of `raw`, of several frames or members each.
fn compressed(directory: &Path) -> Vec<PathBuf> {
    run(directory, "split", &["-n", "3", "raw", "part-"]);
    let each = |tool: &str| format!("for part in part-a?; do {tool} < $part; done > {0}.img", tool.split(' ').next().unwrap());
    ["gzip -1", "zstd -3", "xz -0"]
        .into_iter()
        .map(|tool| {
            run(directory, "sh", &["-c", &each(tool)]);
            directory.join(format!("{}.img", tool.split(' ').next().unwrap()))
        })
        .collect()
}

#[test]
fn compressed_raw_images_give_the_raw_disk() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("raw");
    raw_image(&raw);
    for image in compressed(directory.path()) {
        assert_gives(directory.path(), &image, &raw, SourceOptions::default());
        let source = open(&image, SourceOptions::default()).unwrap();
        assert!(source.notes()[0].contains("compressed as a whole"));
    }
}

#[test]
fn damaged_compressed_images_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    raw_image(&directory.path().join("raw"));
    let refused = |image: &Path, what: &str| {
        let error = pack(&[("a", image)], &directory.path().join("p"), PackOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Source { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(!directory.path().join("p").exists());
    };
    for image in compressed(directory.path()) {
        let whole = fs::read(&image).unwrap();
        fs::write(&image, &whole[..whole.len() - 3]).unwrap();
        refused(&image, "cannot be decompressed");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        fs::write(&image, flipped).unwrap();
        refused(&image, "cannot be decompressed");
    }
    run(directory.path(), "sh", &["-c", "head -c 300M /dev/zero | zstd -1 --long=29 > wide"]);
    refused(&directory.path().join("wide"), "128 MiB");
    run(directory.path(), "sh", &["-c", "qemu-img create -q -f qcow2 q 1M && gzip q"]);
    refused(&directory.path().join("q.gz"), "unpack it first");
}

#[test]
fn a_device_that_is_mounted_writable_is_refused() {
    if !is_root("a_device_that_is_mounted_writable_is_refused") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let device = LoopDevice::new(&directory.path().join("image"), 8 << 20);
    let path = device.path.to_str().unwrap();
    run(directory.path(), "mkfs.ext4", &["-q", path]);
    let mounted = Mount::new(&["-o", "rw", path], &directory.path().join("mnt"));
    let error = error_of(&device.path, SourceOptions::default());
    assert!(error.contains("it is mounted at") && error.contains("--force-source"), "{error}");
    assert!(open(&device.path, SourceOptions { force: true, ..SourceOptions::default() }).is_ok());
    drop(mounted);
    let _mounted = Mount::new(&["-o", "ro", path], &directory.path().join("mnt"));
    assert!(open(&device.path, SourceOptions::default()).is_ok());
}

/// A small image with data, zeros and compressed clusters.
fn small_qcow2(directory: &Path, options: &str) -> Vec<u8> {
    write_image(&directory.join("small"), &(0..40).map(Page::Random).collect::<Vec<_>>(), 0);
    let kind = ["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options, "small", "small.qcow2"];
    run(directory, "qemu-img", &kind);
    run(directory, "qemu-io", &["-c", "write -P 9 64k 20k", "-c", "write -z 32k 16k", "small.qcow2"]);
    fs::read(directory.join("small.qcow2")).unwrap()
}

#[test]
fn broken_qcow2_images_are_answered() {
    let directory = common::memory_directory();
    let images =
        ["cluster_size=512,compression_type=zstd", "cluster_size=16k,extended_l2=on"].map(|options| small_qcow2(directory.path(), options));
    let changes = prop::collection::vec((any::<prop::sample::Index>(), 0usize..8, any::<u8>()), 1..6);
    proptest!(ProptestConfig::with_cases(200), |(changes in changes, image in 0usize..2, cut in prop::option::of(any::<prop::sample::Index>()))| {
        let mut bytes = images[image].clone();
        // Words of 8 bytes: where there is metadata, one number.
        let words: Vec<usize> = bytes.chunks_exact(8).enumerate().filter(|(_, word)| word.iter().any(|&byte| byte != 0)).map(|(at, _)| at * 8).collect();
        for (word, byte, value) in changes {
            // Half of them in the header, which is small.
            let at = if byte % 2 == 0 { words[word.index(words.len())] + byte } else { word.index(112) };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        image::fuzz::qcow2(&bytes);
    });
}
