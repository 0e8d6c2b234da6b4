//! btrfs: what is in no extent is not stored, and what is restored checks clean, mounts and has every file, subvolume and snapshot.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/filesystems.rs"]
mod filesystems;
#[path = "common/loop_device.rs"]
mod loop_device;
#[path = "common/soiled_disk.rs"]
mod soiled_disk;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{Page, is_root, memory_directory, page_bytes};
use filesystems::{argument, run};
use soiled_disk::{Restored, assert_whole, files_of, fill, mount, pack_and_restore, plan_of, soiled_disk};

fn make(image: &Path, mebibytes: usize, options: &[&str]) {
    soiled_disk(image, mebibytes);
    // -K: mkfs does not discard, which would clean the disk.
    run("mkfs.btrfs", &[&["-q", "-K", "-f"], options, &[argument(image)]].concat());
}

/// The restored image is clean, down to the checksums of all data, has all files, and can be used on.
fn assert_restored(source: &Path, restored: &Restored) {
    // btrfs knows filesystems by their UUID: the two must not be mounted at once.
    let expected = files_of(&mount(source, "ro"));
    run("btrfs", &["check", "--check-data-csum", argument(&restored.image)]);
    {
        let mounted = mount(&restored.image, "");
        assert_eq!(files_of(&mounted), expected);
        fs::write(mounted.path.join("one more"), "written after the restore").unwrap();
        run("btrfs", &["scrub", "start", "-B", argument(&mounted.path)]);
    }
    run("btrfs", &["check", argument(&restored.image)]);
}

#[test]
fn variants_are_restored_clean() {
    if !is_root("variants_are_restored_clean") {
        return;
    }
    let directory = memory_directory();
    let variants: &[(&[&str], &str)] = &[
        (&[], ""),
        (&["-m", "single", "-n", "4096"], "compress-force=zstd"),
        (&["-m", "dup", "-d", "dup", "-n", "65536", "-O", "^no-holes"], "compress-force=lzo"),
        (&["--mixed", "-R", "free-space-tree", "-O", "^skinny-metadata"], "nodatacow"),
        (&["-R", "^free-space-tree"], "space_cache=v1"),
    ];
    for (number, (options, mount_options)) in variants.iter().enumerate() {
        let image = directory.path().join(format!("variant {number}"));
        make(&image, 300, options);
        {
            let mounted = mount(&image, mount_options);
            let subvolume = mounted.path.join("subvolume");
            run("btrfs", &["subvolume", "create", argument(&subvolume)]);
            fill(&subvolume);
            run("btrfs", &["subvolume", "snapshot", argument(&subvolume), mounted.path.join("snapshot").to_str().unwrap()]);
            fs::write(subvolume.join("text"), "not as in the snapshot").unwrap();
            fs::remove_file(subvolume.join("large")).unwrap();
        }
        let restored = pack_and_restore(&image, "btrfs");
        assert_restored(&image, &restored);
        // The files have 7 MB, twice with two copies; what is more is metadata.
        assert!(restored.used_bytes < 20 << 20, "{options:?}: {} used", restored.used_bytes);
        // Copies are the same pages.
        assert!(restored.pack_bytes < 10 << 20, "{options:?}: {} stored", restored.pack_bytes);
        [&image, &restored.image].into_iter().for_each(|path| fs::remove_file(path).unwrap());
    }
}

#[test]
fn a_deep_extent_tree_is_followed() {
    if !is_root("a_deep_extent_tree_is_followed") {
        return;
    }
    let directory = memory_directory();
    let image = directory.path().join("deep");
    make(&image, 300, &["-n", "4096"]);
    {
        let mounted = mount(&image, "max_inline=0");
        let name = |number: u32| mounted.path.join(format!("file {number}"));
        (0..4000).for_each(|number| fs::write(name(number), page_bytes(Page::Random(number))).unwrap());
        rustix::fs::sync();
        (0..4000).step_by(2).for_each(|number| fs::remove_file(name(number)).unwrap());
    }
    let tree = run("btrfs", &["inspect-internal", "dump-tree", "-t", "extent", argument(&image)]);
    assert!(tree.contains("level 2"), "the tree is not deep");
    assert!(plan_of(&image).regions[0].used.as_ref().unwrap().iter().count() > 1000);
    assert_restored(&image, &pack_and_restore(&image, "btrfs"));
}

#[test]
fn a_filesystem_in_use_is_whole_only_when_it_has_a_log_to_replay() {
    if !is_root("a_filesystem_in_use_is_whole_only_when_it_has_a_log_to_replay") {
        return;
    }
    let directory = memory_directory();
    let image = directory.path().join("in use");
    let (quiet, logged) = (directory.path().join("quiet"), directory.path().join("logged"));
    make(&image, 300, &[]);
    {
        let mounted = mount(&image, "commit=300");
        fs::write(mounted.path.join("file"), page_bytes(Page::Random(1))).unwrap();
        rustix::fs::sync();
        fs::copy(&image, &quiet).unwrap();
        let file = File::create(mounted.path.join("another")).unwrap();
        file.write_all_at(&page_bytes(Page::Random(2)), 0).unwrap();
        file.sync_all().unwrap();
        fs::copy(&image, &logged).unwrap();
    }
    assert_restored(&quiet, &pack_and_restore(&quiet, "btrfs"));
    assert_whole(&logged, "btrfs", "fsync log");
}

#[test]
fn what_is_not_understood_is_packed_whole() {
    let directory = memory_directory();
    let image = directory.path().join("odd");
    make(&image, 300, &["--csum", "sha256"]);
    assert_whole(&image, "btrfs", "checksums");

    let second = directory.path().join("second");
    soiled_disk(&second, 300);
    make(&image, 300, &["-m", "raid1", "-d", "raid0", argument(&second)]);
    assert_whole(&image, "btrfs", "2 devices");
}

#[test]
fn damage_is_noticed() {
    let directory = memory_directory();
    let image = directory.path().join("damaged");
    make(&image, 300, &["-m", "single"]);
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let superblock = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, (64 << 10) + at).unwrap();
        u64::from_le_bytes(bytes)
    };
    let found = run("btrfs-map-logical", &["-l", &superblock(80).to_string(), argument(&image)]);
    let root: u64 = found.split("physical ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    // The superblock, and the root of the tree of roots.
    for offset in [(64 << 10) + 100, root + 200] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
        assert_whole(&image, "btrfs", "damaged");
        file.write_all_at(&byte, offset).unwrap();
    }
    plan_of(&image).regions[0].used.as_ref().unwrap();
    file.set_len(200 << 20).unwrap();
    assert_whole(&image, "btrfs", "damaged");
}
