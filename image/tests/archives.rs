//! Archives and container images give the tree that their own tools would unpack.
#![allow(clippy::unwrap_used)]

mod archive_fixtures;
mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use archive_fixtures::{Listed, Tar, list, run};
use common::{Page, is_root, pack, page_bytes, write_image};
use image::pack::PackOptions;
use image::source::{SourceOptions, open};
use image::{Error, Pack};
use proptest::prelude::*;

/// A tree with something of everything that an archive can hold.
fn make_tree(directory: &Path, root: bool) {
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    fs::create_dir(tree.join("empty")).unwrap();
    fs::write(tree.join("hello"), "hello\n").unwrap();
    fs::write(tree.join("nothing"), "").unwrap();
    write_image(&tree.join("large"), &(0..100).map(Page::Random).collect::<Vec<_>>(), 777);
    fs::hard_link(tree.join("hello"), tree.join("deep/hello again")).unwrap();
    symlink("../hello", tree.join("deep/link")).unwrap();
    let long = "a name as long as they come/".repeat(12);
    fs::create_dir_all(tree.join(&long)).unwrap();
    fs::write(tree.join(&long).join("x".repeat(255)), "far down").unwrap();
    symlink(format!("/{long}"), tree.join("far")).unwrap();
    run(&tree, "mkfifo", &["-m", "640", "fifo"]);
    run(&tree, "setfattr", &["-n", "user.colour", "-v", "blue", "hello"]);
    run(&tree, "setfacl", &["-m", "u:1234:r,g:77:rw", "hello"]);
    run(&tree, "setfacl", &["-d", "-m", "u:1234:r", "empty"]);
    if root {
        run(&tree, "mknod", &["null", "c", "1", "3"]);
        run(&tree, "mknod", &["disk", "b", "259", "70000"]);
        run(&tree, "chown", &["1234:4321", "large"]);
        run(&tree, "chown", &["-h", "3000000:3000001", "deep/link"]);
        run(&tree, "setcap", &["cap_net_raw+ep", "large"]);
    }
    run(&tree, "chmod", &["4751", "nothing"]);
    run(
        &tree,
        "sh",
        &["-c", "touch -h -d '2001-02-03 04:05:06.123456789' hello deep/link empty; touch -d '1969-12-31 23:59:58.5Z' nothing"],
    );
}

/// Packs the directory and the archive together.
fn both(directory: &Path, archive: &str) -> Pack {
    let (tree, archive) = (directory.join("tree"), directory.join(archive));
    pack(&[("tree", &tree), ("archive", &archive)], &directory.join("both"), PackOptions::default()).unwrap()
}

fn listed(directory: &Path, archive: &str) -> Vec<Listed> {
    list(&pack(&[("a", &directory.join(archive))], &directory.join("a.pack"), PackOptions::default()).unwrap(), 0)
}

fn assert_same_trees(made: &Pack) {
    let (tree, archive) = (list(made, 0), list(made, 1));
    for (one, other) in tree.iter().zip(&archive) {
        assert_eq!(one, other);
    }
    assert_eq!(tree.len(), archive.len());
    assert_eq!(made.segments().len(), 1, "the same pages");
}

fn error_of(archive: &Path) -> String {
    match open(archive, SourceOptions::default()) {
        Ok(_) => panic!("{} was opened", archive.display()),
        Err(error) => {
            assert!(matches!(error, Error::Source { .. }), "{error}");
            error.to_string()
        }
    }
}

#[test]
fn an_archive_gives_the_tree_it_was_made_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    make_tree(path, is_root("device nodes, owners and capabilities in archives"));
    let all = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--sort=none"];
    run(path, "tar", &[&all[..], &["--format=pax", "-cf", "pax.tar", "-C", "tree", "."]].concat());
    assert_same_trees(&both(path, "pax.tar"));
    for (tool, name) in [("gzip -1", "pax.tgz"), ("zstd -q", "pax.tzst"), ("xz -0", "pax.txz")] {
        run(path, "sh", &["-c", &format!("{tool} < pax.tar > {name}")]);
        assert_same_trees(&both(path, name));
    }
    // The others keep neither nanoseconds nor extended attributes; the names and the rest they do.
    for format in ["gnu", "oldgnu"] {
        run(path, "tar", &["--numeric-owner", &format!("--format={format}"), "-cf", "gnu.tar", "-C", "tree", "."]);
        let made = both(path, "gnu.tar");
        let without = |number| list(&made, number).into_iter().map(Listed::without_what_gnu_lacks).collect::<Vec<_>>();
        assert_eq!(without(0), without(1));
    }
}

#[test]
fn sparse_files_stay_sparse() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::create_dir(path.join("tree")).unwrap();
    let file = File::create(path.join("tree/sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    // More segments than one extension block of the old format holds.
    for number in 0..60u32 {
        file.write_all_at(&page_bytes(Page::Random(number)), u64::from(number) << 20).unwrap();
    }
    file.write_all_at(b"no whole page", 63 << 20).unwrap();
    file.sync_all().unwrap();
    File::create(path.join("tree/void")).unwrap().set_len(5 << 20).unwrap();
    fs::write(path.join("tree/z after it"), "found").unwrap();
    let kinds: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for kind in kinds {
        run(path, "tar", &[kind, &["--sparse", "--hole-detection=seek", "-cf", "sparse.tar", "-C", "tree", "."]].concat());
        assert!(fs::metadata(path.join("sparse.tar")).unwrap().len() < 1 << 20);
        let made = both(path, "sparse.tar");
        let content = |number| list(&made, number).into_iter().map(|entry| (entry.path, entry.content)).collect::<Vec<_>>();
        assert_eq!(content(0), content(1), "{kind:?}");
        assert!(made.images()[1].hole_bytes > 60 << 20, "{kind:?}");
        assert_eq!(made.segments().len(), 1);
    }
}

#[test]
fn members_come_in_any_order_and_the_last_wins() {
    let directory = tempfile::tempdir().unwrap();
    let mut tar = Tar::default();
    tar.file("./b/later", b"1").file("/abs/olute", b"2").file("b/twice", b"old").symlink("lib", "usr/lib").file("lib/x.so", b"so");
    tar.hard_link("b/again", "./b/later").file("b/twice", b"new").directory("b", 0o700).file("b//./c", b"3");
    tar.write(&directory.path().join("odd.tar"));
    let found = listed(directory.path(), "odd.tar");
    let shown: Vec<_> = found.iter().map(|entry| format!("{} {:o} {}", entry.path, entry.mode, entry.kind)).collect();
    let expected = [
        " 755 directory",
        "abs 755 directory",
        "abs/olute 644 file of 1",
        "b 700 directory",
        "b/again 644 file of 1",
        "b/c 644 file of 1",
        "b/later 0 hard link to 4",
        "b/twice 644 file of 3",
        "lib 777 symlink to usr/lib",
        "usr 755 directory",
        "usr/lib 755 directory",
        "usr/lib/x.so 644 file of 2",
    ];
    assert_eq!(shown, expected);
    let notes = open(&directory.path().join("odd.tar"), SourceOptions::default()).unwrap().notes();
    assert!(notes.iter().any(|note| note.contains("1 names begin with /")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("3 directories are not in the archive")), "{notes:?}");
}

#[test]
fn what_escapes_or_does_not_fit_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.tar");
    let refused = |tar: &mut Tar, what: &str| {
        tar.write(&path);
        let error = error_of(&path);
        assert!(error.contains(what), "{error}");
    };
    refused(Tar::default().file("../up", b"x"), "has .. in it");
    refused(Tar::default().file("a/../../up", b"x"), "has .. in it");
    refused(Tar::default().file("f", b"x").hard_link("link", "../f"), "has .. in it");
    refused(Tar::default().hard_link("link", "nowhere"), "does not come before it");
    refused(Tar::default().directory("d", 0o755).hard_link("link", "d"), "hard link to a directory");
    refused(Tar::default().file("f", b"x").file("f/below", b"x"), "below something that is no directory");
    refused(Tar::default().symlink("one", "two").symlink("two", "one").file("one/x", b"x"), "too many symbolic links");
    refused(Tar::default().member("volume", b'M', b""), "several volumes");
    refused(Tar::default().member("what", b'?', b""), "not understood");
    // A link that leads out of the archive stays in it.
    let mut tar = Tar::default();
    tar.symlink("out", "../../etc").file("out/passwd", b"x").write(&path);
    assert!(listed(directory.path(), "bad.tar").iter().any(|entry| entry.path == "etc/passwd"));
}

#[test]
fn damaged_archives_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    let mut tar = Tar::default();
    tar.file("one", &[1; 5000]).file("two", &[2; 5000]).write(&path);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..9000]).unwrap();
    assert!(error_of(&path).contains("cut off"));
    let mut flipped = whole.clone();
    flipped[512 + 5120 + 3] ^= 1;
    fs::write(&path, flipped).unwrap();
    assert!(error_of(&path).contains("checksum"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever is changed in headers: an answer, in bounded time and memory.
    #[test]
    fn broken_headers_are_answered(changes in prop::collection::vec((0usize..8192, any::<u8>()), 1..12), fix: bool) {
        let mut tar = Tar::default();
        tar.pax("24 GNU.sparse.major=1\x0a24 GNU.sparse.minor=0\x0a30 SCHILY.xattr.user.a=12345678\x0a").file("a", b"1\n0\n512\n");
        tar.member("s", b'S', &[7; 600]).hard_link("l", "a").symlink("y", "a").file("y/z", b"z");
        let mut bytes = tar.bytes();
        for (at, value) in changes {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        if fix {
            archive_fixtures::fix_checksums(&mut bytes);
        }
        image::fuzz::tar(&bytes);
        image::fuzz::oci(&bytes);
    }
}
