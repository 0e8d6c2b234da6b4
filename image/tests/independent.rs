//! docs/pack-format.md is enough to write another reader from: here is one, in Python, and it reads every codec, disks and trees.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{Page, assert_same_bytes, pack, write_image};
use image::Codec;
use image::pack::PackOptions;
use image::signature::SecretKey;

fn read(pack: &Path, image: &str, output: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/independent/read_pack.py");
    let done = Command::new("python3").arg(script).arg(pack).arg(image).arg(output).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_reader_written_from_the_specification_reads_every_pack() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { directory.path().join(name) };
    let text = |range: std::ops::Range<u32>| range.map(Page::Text).collect::<Vec<_>>();
    write_image(&at("web"), &[text(0..9), vec![Page::Hole, Page::Zero, Page::Random(1)], text(2..5)].concat(), 100);
    write_image(&at("db"), &[text(4..14), vec![Page::Random(1), Page::Random(2)]].concat(), 0);
    fs::create_dir_all(at("tree/sub")).unwrap();
    fs::copy(at("db"), at("tree/sub/file")).unwrap();
    fs::write(at("tree/empty"), b"").unwrap();
    fs::write(at("tree/short"), b"short").unwrap();
    fs::hard_link(at("tree/short"), at("tree/twice")).unwrap();
    std::os::unix::fs::symlink("short", at("tree/link")).unwrap();
    let images = ["web", "db", "tree"].map(|name| (name, at(name)));
    let named = images.each_ref().map(|(name, path)| (*name, path.as_path()));
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let key = Some(Arc::new(SecretKey::generate().unwrap()));
        pack(&named, &at("pack"), PackOptions { codec, key, chunk_pages: 3, ..PackOptions::default() }).unwrap();
        for disk in ["web", "db"] {
            read(&at("pack"), disk, &at("read"));
            assert_same_bytes(&at(disk), &at("read"));
        }
        let tree = at(&format!("tree-{}", codec.name()));
        read(&at("pack"), "tree", &tree);
        for file in ["sub/file", "empty", "short", "twice"] {
            assert_same_bytes(&at("tree").join(file), &tree.join(file));
        }
        assert_eq!(fs::read_link(tree.join("link")).unwrap(), Path::new("short"));
    }
}
