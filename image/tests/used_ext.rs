//! Filesystems of the real tools, packed by their used space: what is restored checks clean and holds every file, and nothing of deleted files
//! is in the pack. ext2, ext3, ext4, FAT, swap, LVM and partition tables.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/filesystems.rs"]
mod filesystems;
#[path = "common/loop_device.rs"]
mod loop_device;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::is_root;
use filesystems::{argument, fill, has_marker, hashes, pack_and_restore, run, sparse, stale};
use loop_device::Mount;

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

#[test]
fn a_filesystem_that_was_not_cleanly_unmounted_is_packed_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (image, _) = ext(directory.path(), &["-t", "ext4"], 64 * MIB);
    for (field, value, reason) in [("state", "0", "not cleanly"), ("state", "3", "has errors"), ("feature", "+needs_recovery", "replayed")]
    {
        let damaged = directory.path().join("damaged.img");
        fs::copy(&image, &damaged).unwrap();
        let command = if field == "feature" { format!("feature {value}") } else { format!("ssv {field} {value}") };
        run("debugfs", &["-w", "-R", &command, argument(&damaged)]);
        let packed = pack_and_restore(&damaged);
        packed.assert_note(&["disk (ext4): packed whole", reason]);
        common::assert_same_bytes(&damaged, &packed.restored);
        assert!(has_marker(&packed.pack_path));
    }
}

#[test]
fn a_bitmap_that_is_wrong_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    // With checksums, and with the count of free blocks alone.
    for kind in ["ext4", "ext2"] {
        let (image, _) = ext(directory.path(), &["-t", kind, "-b", "4096"], 64 * MIB);
        let text = run("dumpe2fs", &[argument(&image)]);
        let bitmap = text.split("Block bitmap at ").nth(1).and_then(|rest| rest.split([' ', '\n']).next()).unwrap();
        let file = fs::OpenOptions::new().read(true).write(true).open(&image).unwrap();
        // The block in the middle of the files becomes free.
        file.write_all_at(&[0], bitmap.parse::<u64>().unwrap() * 4096 + 20).unwrap();
        pack_and_restore(&image).assert_note(&["packed whole", "block bitmap of group 0"]);
        fs::remove_dir_all(directory.path().join("tree")).unwrap();
    }
}

#[test]
fn a_journal_that_was_used_is_left_out() {
    if !is_root("a_journal_that_was_used_is_left_out") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (image, _) = ext(directory.path(), &["-t", "ext4"], 128 * MIB);
    // Data goes through the journal too, so that it holds old data.
    let files = {
        let mount = Mount::new(&["-o", "loop,data=journal", argument(&image)], &directory.path().join("mnt"));
        fs::write(mount.path.join("gone"), stale(2 << 20)).unwrap();
        run("sync", &["-f", argument(&mount.path)]);
        fs::remove_file(mount.path.join("gone")).unwrap();
        fs::write(mount.path.join("kept"), filesystems::random(99, 1 << 20)).unwrap();
        let _ = fs::remove_dir(mount.path.join("lost+found"));
        hashes(&mount.path)
    };
    let packed = pack_and_restore(&image);
    packed.assert_note(&["disk (ext4): ", " used"]);
    assert!(!has_marker(&packed.pack_path));
    assert!(packed.used_bytes() <= 6 * MIB, "{}", packed.used_bytes());
    run("e2fsck", &["-fn", argument(&packed.restored)]);
    let mount = Mount::new(&["-o", "loop", argument(&packed.restored)], &directory.path().join("mnt"));
    assert_eq!(hashes(&mount.path), files);
}

/// A FAT filesystem filled by mtools, from which files were deleted.
fn fat(directory: &Path, kind: &str, options: &[&str], bytes: u64) {
    let (image, tree) = (directory.join("disk.img"), directory.join("tree"));
    sparse(&image, bytes);
    let mut arguments = vec!["-F", kind];
    arguments.extend(options);
    arguments.push(argument(&image));
    run("mkfs.vfat", &arguments);
    let doomed = fill(&tree, if kind == "12" { 512 << 10 } else { 4 << 20 });
    let folders = common::list(&tree);
    let mut arguments = vec!["-s", "-Q", "-i", argument(&image)];
    arguments.extend(folders.iter().map(|path| argument(path)));
    arguments.push("::/");
    run("mcopy", &arguments);
    assert!(has_marker(&image));
    for name in doomed {
        run("mdel", &["-i", argument(&image), &format!("::/{name}")]);
        fs::remove_file(tree.join(name)).unwrap();
    }
    let packed = pack_and_restore(&image);
    let what = format!("FAT{kind} {options:?}");
    packed.assert_note(&[&format!("disk (FAT{kind}): "), " used"]);
    run("fsck.vfat", &["-n", argument(&packed.restored)]);
    let dumped = directory.join("dumped");
    fs::create_dir(&dumped).unwrap();
    run("mcopy", &["-s", "-Q", "-n", "-i", argument(&packed.restored), "::/one", "::/two", "::/three", argument(&dumped)]);
    assert_eq!(hashes(&dumped), hashes(&tree), "{what}");
    assert!(!has_marker(&packed.pack_path), "{what}: deleted data is in the pack");
    let content: u64 = hashes(&tree).iter().map(|(path, _)| fs::metadata(tree.join(path)).unwrap().len()).sum();
    assert!(packed.used_bytes() <= content + MIB, "{what}: {} bytes stored, {content} of content", packed.used_bytes());
}

#[test]
fn fat_comes_back() {
    for (kind, options, mebibytes) in [
        ("12", &["-s", "1"][..], 2),
        ("12", &["-s", "8"], 8),
        ("16", &["-s", "1"], 16),
        ("16", &["-s", "8", "-f", "1"], 100),
        ("32", &["-s", "1"], 64),
        ("32", &["-s", "8"], 300),
        ("32", &["-S", "4096", "-s", "1"], 300),
    ] {
        fat(tempfile::tempdir().unwrap().path(), kind, options, mebibytes * MIB);
    }
}

#[test]
fn a_fat_that_is_dirty_or_damaged_is_packed_whole() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    // State byte; flags in the second entry; the second table; an entry that leads nowhere; the root directory free.
    let table = 32 * 512;
    for (offset, bytes, reason) in [
        (65, &[1u8][..], "not cleanly"),
        (table + 7, &[0x07], "differ"),
        (table + 8, &[0; 4], "differ"),
        (40, &[0x80], "copies of each other"),
        (44, &[1, 0, 0, 0], "root directory"),
    ] {
        sparse(&image, 64 * MIB);
        run("mkfs.vfat", &["-F", "32", argument(&image)]);
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        let packed = pack_and_restore(&image);
        packed.assert_note(&["disk (FAT32): packed whole", reason]);
        common::assert_same_bytes(&image, &packed.restored);
    }
}

#[test]
fn of_swap_space_the_header_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    fs::write(&image, stale(1 << 20)).unwrap();
    run("mkswap", &["-L", "swap", argument(&image)]);
    let packed = pack_and_restore(&image);
    packed.assert_note(&["disk (swap): 4.0 KiB of 1.0 MiB used"]);
    assert_eq!(packed.used_bytes(), 4096);
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(b"S1SUSPEND\0", 4086).unwrap();
    let packed = pack_and_restore(&image);
    packed.assert_note(&["disk (swap): packed whole", "hibernated"]);
    common::assert_same_bytes(&image, &packed.restored);
}

#[test]
fn hostile_filesystems_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.img");
    let made = |program: &str, options: &[&str], kibibytes: u64| {
        sparse(&image, kibibytes << 10);
        run(program, &[options, &[argument(&image)]].concat());
        fs::read(&image).unwrap()
    };
    // Without checksums, so that what was changed is looked at.
    let ext = |options: &[&str], kibibytes| made("mke2fs", &[&["-q", "-F"], options].concat(), kibibytes);
    type Parser = fn(&[u8]);
    let seeds: Vec<(Parser, Vec<u8>)> = vec![
        (image::fuzz::ext4, ext(&["-t", "ext2", "-b", "1024", "-g", "256"], 700)),
        (image::fuzz::ext4, ext(&["-t", "ext3", "-b", "1024"], 3000)),
        (image::fuzz::ext4, ext(&["-t", "ext4", "-O", "^metadata_csum,^uninit_bg,meta_bg,^resize_inode", "-b", "1024", "-g", "256"], 3000)),
        (image::fuzz::ext4, ext(&["-t", "ext4", "-O", "bigalloc,^metadata_csum,^uninit_bg", "-b", "1024", "-C", "4096"], 3000)),
        (image::fuzz::fat, made("mkfs.vfat", &["-F", "12", "-s", "1"], 300)),
        (image::fuzz::fat, made("mkfs.vfat", &["-F", "32", "-s", "1"], 600)),
        (image::fuzz::partitions, made("mkfs.vfat", &["-F", "16", "-s", "1"], 3000)),
    ];
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (parser, mut bytes) in seeds {
        // Where there are structures.
        let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[at / 64 * 64..][..64].iter().any(|&byte| byte != 0)).collect();
        parser(&bytes);
        for _ in 0..1500 {
            let changed: Vec<(usize, u8)> = (0..1 + random(3)).map(|_| places[random(places.len())]).map(|at| (at, bytes[at])).collect();
            for (at, byte) in &changed {
                bytes[*at] = [0, 0xff, 0x7f, 0x80, 1, byte ^ 1 << random(8), random(256) as u8][random(7)];
            }
            parser(&bytes);
            changed.iter().rev().for_each(|(at, byte)| bytes[*at] = *byte);
        }
        (0..8).for_each(|shift| parser(&bytes[..bytes.len() >> shift]));
    }
}
