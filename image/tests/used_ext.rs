//! Filesystems of the real tools, packed by their used space: what is restored checks clean and holds every file, and nothing of deleted files
//! is in the pack. ext2, ext3, ext4, FAT, swap, LVM and partition tables.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/filesystems.rs"]
mod filesystems;

use std::fs;
use std::path::{Path, PathBuf};

use filesystems::{argument, fill, has_marker, hashes, pack_and_restore, run, sparse};

const MIB: u64 = 1 << 20;

/// A filesystem made by mke2fs and filled, from which files were deleted. Returns the image and a directory with what is left in it.
fn ext(directory: &Path, options: &[&str], bytes: u64) -> (PathBuf, PathBuf) {
    let (image, tree) = (directory.join("disk.img"), directory.join("tree"));
    sparse(&image, bytes);
    let doomed = fill(&tree, 6 << 20);
    let mut arguments = vec!["-q", "-F", "-d", argument(&tree)];
    arguments.extend(options);
    arguments.push(argument(&image));
    run("mke2fs", &arguments);
    assert!(has_marker(&image));
    let commands = directory.join("commands");
    fs::write(&commands, doomed.iter().map(|name| format!("rm /{name}\n")).collect::<String>()).unwrap();
    run("debugfs", &["-w", "-f", argument(&commands), argument(&image)]);
    doomed.iter().for_each(|name| fs::remove_file(tree.join(name)).unwrap());
    run("e2fsck", &["-fn", argument(&image)]);
    (image, tree)
}

/// Bytes in use by the filesystem's own count.
fn ext_used_bytes(image: &Path) -> u64 {
    let text = run("dumpe2fs", &["-h", argument(image)]);
    let field = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().parse().unwrap()
    };
    (field("Block count") - field("Free blocks")) * field("Block size")
}

/// The files of an ext filesystem.
fn ext_files(image: &Path, directory: &Path) -> Vec<(PathBuf, blake3::Hash)> {
    let dumped = directory.join("dumped");
    let _ = fs::remove_dir_all(&dumped);
    fs::create_dir(&dumped).unwrap();
    run("debugfs", &["-R", &format!("rdump / {}", dumped.display()), argument(image)]);
    let _ = fs::remove_dir(dumped.join("lost+found"));
    hashes(&dumped)
}

fn ext_comes_back(name: &str, options: &[&str], bytes: u64) {
    let directory = tempfile::tempdir().unwrap();
    let (image, tree) = ext(directory.path(), options, bytes);
    let files = ext_files(&image, directory.path());
    // debugfs 1.47 itself does not get inline files of a byte right.
    assert!(options.iter().any(|option| option.contains("inline_data")) || files == hashes(&tree), "{name} {options:?}");
    let packed = pack_and_restore(&image);
    let what = format!("{name} {options:?}");
    packed.assert_note(&[&format!("disk ({name}): "), " used"]);
    run("e2fsck", &["-fn", argument(&packed.restored)]);
    assert_eq!(ext_files(&packed.restored, directory.path()), files, "{what}");
    assert!(!has_marker(&packed.pack_path), "{what}: deleted data is in the pack");
    let (stored, used) = (packed.used_bytes(), ext_used_bytes(&image));
    // A page may be packed for one small block.
    assert!(stored <= used + MIB, "{what}: {stored} bytes stored, {used} used");
}

#[test]
fn ext2_comes_back() {
    ext_comes_back("ext2", &["-t", "ext2", "-b", "1024"], 40 * MIB);
    ext_comes_back("ext2", &["-t", "ext2", "-b", "2048", "-r", "0"], 40 * MIB);
    ext_comes_back("ext2", &["-t", "ext2", "-b", "4096", "-O", "^sparse_super,^resize_inode", "-g", "1024"], 40 * MIB);
    ext_comes_back("ext2", &["-t", "ext2", "-b", "1024", "-O", "meta_bg,^resize_inode"], 300 * MIB);
}

#[test]
fn ext3_comes_back() {
    ext_comes_back("ext3", &["-t", "ext3", "-b", "1024"], 60 * MIB);
    ext_comes_back("ext3", &["-t", "ext3", "-b", "4096", "-J", "size=40"], 300 * MIB);
}

#[test]
fn ext4_comes_back() {
    ext_comes_back("ext4", &["-t", "ext4", "-b", "4096"], 600 * MIB);
    ext_comes_back("ext4", &["-t", "ext4", "-b", "1024"], 100 * MIB);
    ext_comes_back("ext4", &["-t", "ext4", "-b", "2048", "-O", "^64bit"], 100 * MIB);
    ext_comes_back("ext4", &["-t", "ext4", "-O", "^metadata_csum,uninit_bg"], 600 * MIB);
    ext_comes_back("ext4", &["-t", "ext4", "-O", "^metadata_csum,^uninit_bg"], 300 * MIB);
    ext_comes_back("ext4", &["-t", "ext4", "-O", "^has_journal,^flex_bg"], 600 * MIB);
}

#[test]
fn ext4_with_rarer_features_comes_back() {
    ext_comes_back("ext4", &["-t", "ext4", "-O", "bigalloc", "-C", "65536"], 600 * MIB);
    ext_comes_back("ext4", &["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384"], 100 * MIB);
    ext_comes_back("ext4", &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"], 600 * MIB);
    ext_comes_back("ext4", &["-t", "ext4", "-O", "sparse_super2,^resize_inode", "-b", "1024"], 100 * MIB);
    ext_comes_back("ext4", &["-t", "ext4", "-O", "inline_data,metadata_csum_seed,mmp,large_dir", "-E", "lazy_itable_init=0"], 300 * MIB);
}
