//! Trees come back exactly: every kind of entry, all metadata, and never outside the target.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::{Page, is_root, pack, page_bytes, restore_to, write_image};
use image::pack::PackOptions;
use image::restore::{Target, TargetOptions};
use image::{Error, Pack};
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, chownat, lgetxattr, llistxattr, lsetxattr, makedev, mknodat, utimensat,
};

/// Everything about an entry that must come back.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    size: u64,
    links: u64,
    device: u64,
    /// The first path with the same inode.
    same_as: PathBuf,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Vec<u8>,
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = Vec::with_capacity(4096);
    llistxattr(path, spare_capacity(&mut names)).unwrap();
    let value = |name: &[u8]| {
        let mut value = Vec::with_capacity(65536);
        lgetxattr(path, name, spare_capacity(&mut value)).unwrap();
        value
    };
    names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(|name| (name.to_vec(), value(name))).collect()
}

/// The tree below `root` by relative path.
fn describe(root: &Path) -> BTreeMap<PathBuf, Described> {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let (is_directory, is_file) = (metadata.is_dir(), metadata.is_file());
        if is_directory {
            let mut children = common::list(&path);
            children.reverse();
            paths.extend(children);
        }
        let content = match metadata.file_type() {
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            kind if kind.is_file() => fs::read(&path).unwrap(),
            _ => Vec::new(),
        };
        let described = Described {
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            // A directory's depends on its history.
            size: if is_file { metadata.len() } else { 0 },
            links: if is_directory { 0 } else { metadata.nlink() },
            device: metadata.rdev(),
            same_as: inodes.entry(metadata.ino()).or_insert_with(|| relative.clone()).clone(),
            xattrs: xattrs(&path),
            content,
        };
        found.insert(relative, described);
    }
    found
}

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree with something of everything that the user may make.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("deep/er/est")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("hello"), "hello\n").unwrap();
    fs::write(root.join("nothing"), "").unwrap();
    fs::write(root.join("deep/er/est/page"), page_bytes(Page::Random(1))).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not\xffutf-8\nand a newline")), "odd").unwrap();
    fs::hard_link(root.join("hello"), root.join("deep/hello again")).unwrap();
    symlink("../hello", root.join("deep/link")).unwrap();
    symlink("/nowhere at all", root.join("dangling")).unwrap();
    fs::hard_link(root.join("dangling"), root.join("dangling too")).unwrap();
    write_image(&root.join("large"), &(0..300).map(|page| Page::Random(page % 200)).collect::<Vec<_>>(), 777);
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_all_at(b"island", 20 << 20).unwrap();
    for kind in [FileType::Fifo, FileType::Socket] {
        mknodat(CWD, root.join(format!("{kind:?}")), kind, Mode::from_raw_mode(0o640), 0).unwrap();
    }
    lsetxattr(root.join("hello"), "user.colour", b"blue\0green", XattrFlags::empty()).unwrap();
    lsetxattr(root.join("empty"), "user.empty", b"", XattrFlags::empty()).unwrap();
    fs::set_permissions(root.join("nothing"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("large"), fs::Permissions::from_mode(0o400)).unwrap();
    for (number, path) in ["hello", "dangling", "deep/er/est", "deep/er", "Fifo", "large"].into_iter().enumerate() {
        set_mtime(&root.join(path), 1_000_000_000 + number as i64, 123_456_789);
    }
    set_mtime(&root.join("nothing"), -1_000_000, 5);
    fs::set_permissions(root.join("deep"), fs::Permissions::from_mode(0o2555)).unwrap();
    set_mtime(&root.join("deep"), 77, 7);
    set_mtime(root, 88, 8);
}

fn pack_tree(directory: &Path, tree: &Path) -> Pack {
    pack(&[("tree", tree)], &directory.join("tree.pack"), PackOptions::default()).unwrap()
}

fn assert_same_tree(one: &Path, other: &Path) {
    let (one, other) = (describe(one), describe(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (path, described) in &one {
        assert!(*described == other[path], "{}: {described:?}\n{:?}", path.display(), other[path]);
    }
}

#[test]
fn a_tree_comes_back_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    make_tree(&tree);
    let made = pack_tree(directory.path(), &tree);
    made.verify(&image::Progress::default()).unwrap();
    // A new directory, and one that exists and is empty.
    for name in ["new", "empty"] {
        let target = directory.path().join(name);
        if name == "empty" {
            fs::create_dir(&target).unwrap();
        }
        restore_to(&made, "tree", &target, false).unwrap();
        assert_same_tree(&tree, &target);
        let sparse = fs::metadata(target.join("sparse")).unwrap();
        assert!(sparse.blocks() * 512 <= 64 << 10, "{} blocks", sparse.blocks());
    }
}

/// rwx for the owner, r for user 4321, r-x for group and mask, nothing for others (linux/posix_acl_xattr.h: version 2, then tag, permissions, id).
fn acl() -> Vec<u8> {
    let entries = [(1u16, 7u16, u32::MAX), (2, 4, 4321), (4, 5, u32::MAX), (16, 5, u32::MAX), (32, 0, u32::MAX)];
    let bytes = |(tag, permissions, id): (u16, u16, u32)| {
        let mut bytes = tag.to_le_bytes().to_vec();
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes
    };
    [2u32.to_le_bytes().to_vec()].into_iter().chain(entries.into_iter().map(bytes)).flatten().collect()
}

/// rsync is the judge: everything that it would do to make `other` like `one`.
fn rsync_finds_no_difference(one: &Path, other: &Path) {
    let slash = |path: &Path| format!("{}/", path.display());
    let output = std::process::Command::new("rsync")
        .args(["-aHAXS", "--checksum", "--modify-window=-1", "--dry-run", "--itemize-changes", "--delete"])
        .args([slash(one), slash(other)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn what_only_root_can_make_comes_back_too() {
    if !is_root("what_only_root_can_make_comes_back_too") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    make_tree(&tree);
    mknodat(CWD, tree.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
    mknodat(CWD, tree.join("disk"), FileType::BlockDevice, Mode::from_raw_mode(0o660), makedev(250, 1_000_000)).unwrap();
    fs::hard_link(tree.join("null"), tree.join("null too")).unwrap();
    for path in ["hello", "dangling", "null", "empty"] {
        let (uid, gid) = (rustix::fs::Uid::from_raw(12345), rustix::fs::Gid::from_raw(54321));
        chownat(CWD, tree.join(path), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    // cap_net_raw+ep, and an attribute of a symbolic link.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    lsetxattr(tree.join("large"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    lsetxattr(tree.join("dangling"), "trusted.note", b"a link", XattrFlags::empty()).unwrap();
    fs::set_permissions(tree.join("hello"), fs::Permissions::from_mode(0o6755)).unwrap();
    lsetxattr(tree.join("hello"), "security.selinux", b"system_u:object_r:etc_t:s0\0", XattrFlags::empty()).unwrap();
    lsetxattr(tree.join("empty"), "system.posix_acl_access", &acl(), XattrFlags::empty()).unwrap();
    lsetxattr(tree.join("empty"), "system.posix_acl_default", &acl(), XattrFlags::empty()).unwrap();
    set_mtime(&tree, 99, 9);
    let made = pack_tree(directory.path(), &tree);
    let target = directory.path().join("target");
    let report = restore_to(&made, "tree", &target, false).unwrap();
    assert_eq!(report.notes, Vec::<String>::new());
    assert_same_tree(&tree, &target);
    rsync_finds_no_difference(&tree, &target);
    rsync_finds_no_difference(&target, &tree);
    let null = fs::metadata(target.join("null")).unwrap();
    assert!(null.file_type().is_char_device());
}

#[test]
fn a_directory_that_is_not_empty_is_kept_unless_forced() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    make_tree(&tree);
    let made = pack_tree(directory.path(), &tree);
    let target = directory.path().join("target");
    fs::create_dir_all(target.join("deep/er")).unwrap();
    fs::write(target.join("mine"), "kept").unwrap();
    fs::write(target.join("hello"), "replaced").unwrap();
    fs::write(target.join("deep/er/mine"), "kept").unwrap();
    let before = describe(&target);
    match restore_to(&made, "tree", &target, false) {
        Err(error @ Error::TargetRefused { .. }) => assert!(error.to_string().contains("not empty")),
        other => panic!("{other:?}"),
    }
    assert!(describe(&target) == before);
    restore_to(&made, "tree", &target, true).unwrap();
    assert_eq!(fs::read(target.join("mine")).unwrap(), b"kept");
    assert_eq!(fs::read(target.join("deep/er/mine")).unwrap(), b"kept");
    fs::remove_file(target.join("mine")).unwrap();
    fs::remove_file(target.join("deep/er/mine")).unwrap();
    set_mtime(&target.join("deep/er"), 1_000_000_003, 123_456_789);
    set_mtime(&target, 88, 8);
    assert_same_tree(&tree, &target);
}

#[test]
fn a_new_filesystem_counts_as_empty() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    make_tree(&tree);
    let made = pack_tree(directory.path(), &tree);
    let target = directory.path().join("target");
    fs::create_dir_all(target.join("lost+found")).unwrap();
    restore_to(&made, "tree", &target, false).unwrap();
    assert!(target.join("hello").exists());
}

#[test]
fn links_in_the_target_lead_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    make_tree(&tree);
    let made = pack_tree(directory.path(), &tree);
    let outside = directory.path().join("outside");
    fs::create_dir_all(outside.join("er/est")).unwrap();
    let before = describe(&outside);
    let target = directory.path().join("target");
    fs::create_dir(&target).unwrap();
    symlink(&outside, target.join("deep")).unwrap();
    symlink(outside.join("file"), target.join("hello")).unwrap();
    restore_to(&made, "tree", &target, true).unwrap();
    assert!(describe(&outside) == before);
    assert_same_tree(&tree, &target);
}

#[test]
fn a_directory_in_the_place_of_a_file_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    make_tree(&tree);
    let made = pack_tree(directory.path(), &tree);
    let target = directory.path().join("target");
    fs::create_dir_all(target.join("hello/precious")).unwrap();
    match restore_to(&made, "tree", &target, true) {
        Err(Error::TargetRefused { path, .. }) => assert_eq!(path, target.join("hello")),
        other => panic!("{other:?}"),
    }
    assert!(target.join("hello/precious").exists());
}

#[test]
fn an_interrupted_restore_leaves_the_directory_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    make_tree(&tree);
    let made = pack_tree(directory.path(), &tree);
    let manifest = made.manifest(0).unwrap();
    for exists in [false, true] {
        let target = directory.path().join("target");
        if exists {
            fs::create_dir(&target).unwrap();
        }
        let opened = Target::open(&target, &manifest, &TargetOptions::default()).unwrap();
        assert!(target.join(".discus.partial/deep/er/est").exists());
        drop(opened);
        assert_eq!(target.exists(), exists);
        assert!(!exists || common::list(&target).is_empty());
    }
}

#[test]
fn a_tree_of_many_large_files_needs_few_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    // More files than may be open at a time, each of two pages in different chunks.
    for number in 0..400 {
        write_image(&tree.join(format!("{number}")), &[Page::Random(number), Page::Random(7), Page::Random(1000 + number)], 5);
    }
    let options = PackOptions { chunk_pages: 1, ..PackOptions::default() };
    let made = pack(&[("tree", &tree)], &directory.path().join("p"), options).unwrap();
    let target = directory.path().join("target");
    restore_to(&made, "tree", &target, false).unwrap();
    assert_same_tree(&tree, &target);
}
