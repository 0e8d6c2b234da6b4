//! Trees that mean harm lead nowhere, and trees share what they have in common with disk images.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{Page, pack, write_image};
use image::manifest::{Body, Entry, EntryKind, Extent, Manifest, TreeBody};
use image::pack::PackOptions;
use image::restore::{BufferPool, Target, TargetOptions, Writer};
use image::{Error, Progress};

fn entry(parent: u32, name: &[u8], kind: EntryKind) -> Entry {
    Entry { parent, name: name.to_vec(), mode: 0o644, uid: 0, gid: 0, mtime_s: 0, mtime_ns: 0, xattrs: Vec::new(), kind }
}

fn file() -> EntryKind {
    EntryKind::File { size_bytes: 0, extents: 0..0 }
}

fn link(target: &Path) -> EntryKind {
    EntryKind::Symlink { target: target.as_os_str().as_encoded_bytes().to_vec() }
}

/// Restores a tree of these entries below the root, as if the decoder had let it through.
fn restore(target: &Path, entries: Vec<Entry>) -> image::Result<Vec<String>> {
    let root = entry(0, b"", EntryKind::Directory);
    let entries = std::iter::once(Entry { mode: 0o755, ..root }).chain(entries).collect();
    let body = Body::Tree(Arc::new(TreeBody { entries, extents: Vec::<Extent>::new() }));
    let manifest = Manifest { name: "hostile".into(), chunk_pages: 64, chunks: Vec::new(), body };
    let target = Target::open(target, &manifest, &TargetOptions { force: true, ..TargetOptions::default() })?;
    Writer::new(target, &manifest, &[&BufferPool::new(1, 4096).unwrap()], 4)?.finish()
}

#[test]
fn a_tree_never_reaches_outside_of_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let absolute = outside.join("made").into_os_string().into_encoded_bytes();
    let hostile: Vec<(&str, Vec<Entry>)> = vec![
        ("the directory above", vec![entry(0, b"..", EntryKind::Directory), entry(1, b"outside", EntryKind::Directory)]),
        ("a path upwards", vec![entry(0, b"../outside/made", file())]),
        ("a path upwards to a directory", vec![entry(0, b"../outside/made", EntryKind::Directory)]),
        ("an absolute path", vec![entry(0, &absolute, file())]),
        ("a file below a link", vec![entry(0, b"l", link(&outside)), entry(1, b"made", file())]),
        ("a directory below a link", vec![entry(0, b"l", link(&outside)), entry(1, b"made", EntryKind::Directory)]),
        ("a link upwards", vec![entry(0, b"../outside/made", link(Path::new("x")))]),
        ("a device upwards", vec![entry(0, b"../outside/made", EntryKind::Fifo)]),
        (
            "a hard link to a file outside",
            vec![entry(0, b"../outside/secret", EntryKind::Fifo), entry(0, b"mine", EntryKind::HardLink { original: 1 })],
        ),
        ("a hard link to what comes later", vec![entry(0, b"mine", EntryKind::HardLink { original: 7 })]),
        ("an entry below a file", vec![entry(0, b"f", file()), entry(1, b"g", file())]),
        ("an entry below one that is not there", vec![entry(9, b"f", file())]),
    ];
    for (what, entries) in hostile {
        let target = directory.path().join("target");
        match restore(&target, entries) {
            Err(Error::Manifest(why)) => assert!(why.contains("leads out"), "{what}: {why}"),
            other => panic!("{what}: {other:?}"),
        }
        assert!(!target.exists(), "{what}");
        let names: Vec<_> = common::list(&outside).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["secret"], "{what}");
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret", "{what}");
    }
}

#[test]
fn a_link_that_leads_outside_is_restored_and_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (outside, target) = (directory.path().join("outside"), directory.path().join("target"));
    fs::create_dir(&outside).unwrap();
    // The directory stands where an earlier tenant has left a link.
    fs::create_dir(&target).unwrap();
    std::os::unix::fs::symlink(&outside, target.join("d")).unwrap();
    let entries = vec![entry(0, b"d", EntryKind::Directory), entry(1, b"f", file()), entry(0, b"l", link(&outside))];
    restore(&target, entries).unwrap();
    assert!(target.join("d").symlink_metadata().unwrap().is_dir() && target.join("d/f").exists());
    assert_eq!(fs::read_link(target.join("l")).unwrap(), outside);
    assert_eq!(common::list(&outside).len(), 0);
}

#[test]
fn files_of_a_tree_and_of_a_filesystem_share_their_pages() {
    let directory = tempfile::tempdir().unwrap();
    let (tree, disk) = (directory.path().join("tree"), directory.path().join("disk"));
    fs::create_dir_all(tree.join("models")).unwrap();
    let mut pages = 0;
    for number in 0..20 {
        // The last page is a partial one: the filesystem pads it with zeros, and so does the packer.
        let count = 3 + number * 7;
        let content: Vec<Page> = (0..count).map(|page| Page::Random(1000 * number + page)).collect();
        write_image(&tree.join(format!("models/{number}")), &content, 100);
        pages += count;
    }
    fs::File::create(&disk).unwrap().set_len(32 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-d"]).args([&tree, &disk]).status().unwrap();
    assert!(made.success());
    let output = directory.path().join("both.pack");
    let made = pack(&[("files", &tree), ("disk", &disk)], &output, PackOptions::default()).unwrap();
    made.verify(&Progress::default()).unwrap();
    let common: u32 = made.segments().iter().filter(|segment| segment.images.len() == 2).map(|segment| segment.pages).sum();
    let of_files_only: u32 =
        made.segments().iter().filter(|segment| segment.images.len() == 1 && segment.images.contains(0)).map(|segment| segment.pages).sum();
    assert_eq!((common, of_files_only), (pages, 0), "every page of the files is stored once, for both");
}
