//! NTFS: what `$Bitmap` marks as free is not stored, and what is restored is consistent, mounts and has every file.
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

use common::{Page, memory_directory, page_bytes};
use filesystems::{argument, run};
use loop_device::Mount;
use soiled_disk::{assert_whole, can_mount_fuse, files_of, fill, mount_as, pack_and_restore, plan_of, soiled_disk};

fn make(image: &Path, mebibytes: usize, options: &[&str]) {
    soiled_disk(image, mebibytes);
    // Quick: the disk is not cleaned.
    run("mkntfs", &[&["-q", "-Q", "-F"], options, &[argument(image)]].concat());
}

/// Mounts an image by ntfs-3g. The loop device makes umount wait until everything is written.
fn mount(image: &Path, options: &str) -> Mount {
    mount_as("ntfs-3g", image, options)
}

fn assert_clean(image: &Path) {
    // Compares the bitmap with the clusters of all files.
    run("ntfsresize", &["--info", "--force", "--no-progress-bar", argument(image)]);
    let printed = run("ntfsfix", &["--no-action", argument(image)]);
    assert!(printed.contains("successfully") && !printed.contains("FAILED"), "{printed}");
}

#[test]
fn variants_are_restored_clean() {
    if !can_mount_fuse("variants_are_restored_clean") {
        return;
    }
    let directory = memory_directory();
    let variants: &[(&[&str], &str)] = &[
        (&[], ""),
        (&["--cluster-size", "512", "--enable-compression"], "compression"),
        (&["--cluster-size", "65536"], ""),
        (&["--sector-size", "4096", "--cluster-size", "262144"], ""),
    ];
    for (number, (options, mount_options)) in variants.iter().enumerate() {
        let image = directory.path().join(format!("variant {number}"));
        make(&image, 100, options);
        {
            let mounted = mount(&image, mount_options);
            fill(&mounted.path);
        }
        assert_clean(&image);
        let restored = pack_and_restore(&image, "ntfs");
        assert_clean(&restored.image);
        let expected = files_of(&mount(&image, "ro"));
        assert!(expected.len() > 40);
        {
            let mounted = mount(&restored.image, "");
            assert_eq!(files_of(&mounted), expected);
            fs::write(mounted.path.join("one more"), "written after the restore").unwrap();
        }
        assert_clean(&restored.image);
        // The files have 7 MB, the log of NTFS 2; large clusters are not full.
        let limit = 14 << 20;
        assert!(restored.used_bytes < limit + number as u64 * (8 << 20), "{options:?}: {} used", restored.used_bytes);
        [&image, &restored.image].into_iter().for_each(|path| fs::remove_file(path).unwrap());
    }
}

#[test]
fn a_dirty_volume_is_packed_whole() {
    let directory = memory_directory();
    let image = directory.path().join("dirty");
    make(&image, 100, &[]);
    // It asks for chkdsk afterwards, and the volume ends before the disk does.
    run("ntfsresize", &["--force", "--force", "--no-progress-bar", "--size", "60000000", argument(&image)]);
    assert_whole(&image, "ntfs", "dirty");
    run("ntfsfix", &["--clear-dirty", argument(&image)]);
    let found = plan_of(&image);
    assert!(found.regions[0].used.is_some(), "{:?}", found.notes);
}

#[test]
fn a_hibernated_volume_is_packed_whole() {
    if !can_mount_fuse("a_hibernated_volume_is_packed_whole") {
        return;
    }
    let directory = memory_directory();
    let image = directory.path().join("hibernated");
    make(&image, 100, &[]);
    {
        let mounted = mount(&image, "");
        // So many names that the root directory needs blocks of its own.
        (0..300).for_each(|number| fs::write(mounted.path.join(format!("file {number}")), "content").unwrap());
        let mut bytes = page_bytes(Page::Text(1)).repeat(3);
        bytes[..4].copy_from_slice(b"HIBR");
        fs::write(mounted.path.join("hiberfil.sys"), bytes).unwrap();
    }
    assert_whole(&image, "ntfs", "hibernates");
    // Windows went on from it.
    let bytes = fs::read(&image).unwrap();
    let places = (0..bytes.len()).step_by(4096).filter(|at| &bytes[*at..*at + 4] == b"HIBR");
    let file = File::options().write(true).open(&image).unwrap();
    places.for_each(|at| file.write_all_at(b"wake", at as u64).unwrap());
    pack_and_restore(&image, "ntfs");
}

#[test]
fn a_log_in_use_is_noticed() {
    let directory = memory_directory();
    let image = directory.path().join("log");
    make(&image, 100, &[]);
    let printed = run("ntfscluster", &["--force", "--inode", "2", argument(&image)]);
    let cluster: u64 = printed.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
    let file = File::options().write(true).open(&image).unwrap();
    // Two restart pages as Windows writes them: the newer one counts.
    let page = |number: u64, sequence_number: u64, client: u16, flags: u16| {
        let mut bytes = [0; 64 + 16];
        bytes[..4].copy_from_slice(b"RSTR");
        bytes[24] = 64;
        bytes[64..72].copy_from_slice(&sequence_number.to_le_bytes());
        bytes[76..78].copy_from_slice(&client.to_le_bytes());
        bytes[78..80].copy_from_slice(&flags.to_le_bytes());
        file.write_all_at(&bytes, cluster * 4096 + number * 4096).unwrap();
    };
    page(0, 7, 0xffff, 0);
    page(1, 8, 0, 0);
    assert_whole(&image, "ntfs", "log is not clean");
    page(1, 8, 0, 2);
    pack_and_restore(&image, "ntfs");
    page(1, 6, 0, 0);
    pack_and_restore(&image, "ntfs");
}

#[test]
fn damage_is_noticed() {
    let directory = memory_directory();
    let image = directory.path().join("damaged");
    make(&image, 100, &[]);
    let bytes = fs::read(&image).unwrap();
    let file = File::options().write(true).open(&image).unwrap();
    let table = u64::from_le_bytes(bytes[48..56].try_into().unwrap()) * 4096;
    // A record that was not written whole; a table elsewhere; the bitmap's record gone.
    for (offset, wrong) in [(table + 510, 0xee), (48, 0x7f), (table + 6 * 1024 + 22, 0)] {
        file.write_all_at(&[wrong], offset).unwrap();
        assert_whole(&image, "ntfs", "damaged");
        file.write_all_at(&bytes[offset as usize..=offset as usize], offset).unwrap();
    }
    pack_and_restore(&image, "ntfs");
    file.set_len(60 << 20).unwrap();
    assert_whole(&image, "ntfs", "damaged");
}
