//! Images are added to a pack and removed from it; what did not change is not compressed again, and the old pack stays until the new one is whole.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Page, assert_same_bytes, pack, restore_to, specs, write_image};
use image::pack::{PackOptions, PreparedImage, edit};
use image::signature::SecretKey;
use image::source::SourceOptions;
use image::{Codec, Error, Pack, Progress};

fn prepared(images: &[(&str, &Path)]) -> Vec<PreparedImage> {
    specs(images).iter().map(|spec| PreparedImage::open(spec, SourceOptions::default()).unwrap()).collect()
}

fn edited(path: &Path, add: &[(&str, &Path)], remove: &[&str], options: &PackOptions) -> image::Result<Pack> {
    let remove: Vec<String> = remove.iter().map(|name| (*name).to_owned()).collect();
    edit(Arc::new(Pack::open(path)?), prepared(add), &remove, options, &Progress::default())
}

struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { directory: common::memory_directory() };
        let text = |range: std::ops::Range<u32>| range.map(Page::Text).collect::<Vec<_>>();
        let odd = [vec![Page::Hole, Page::Zero, Page::Zero], text(5..30), vec![Page::Random(1)], text(0..6)].concat();
        write_image(&world.at("web"), &[text(0..40), vec![Page::Hole], text(3..4)].concat(), 0);
        write_image(&world.at("db"), &odd, 100);
        write_image(&world.at("new"), &[text(20..60), vec![Page::Random(1)]].concat(), 0);
        let tree = world.at("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::copy(world.at("web"), tree.join("sub/file")).unwrap();
        fs::write(tree.join("short"), b"short").unwrap();
        fs::hard_link(tree.join("short"), tree.join("twice")).unwrap();
        std::os::unix::fs::symlink("short", tree.join("link")).unwrap();
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn pack(&self, name: &str, images: &[&str], options: &PackOptions) -> Pack {
        let paths: Vec<_> = images.iter().map(|image| (*image, self.at(image))).collect();
        let named: Vec<_> = paths.iter().map(|(name, path)| (*name, path.as_path())).collect();
        pack(&named, &self.at(name), options.clone()).unwrap()
    }
}

fn plain() -> PackOptions {
    PackOptions { chunk_pages: 4, codec: Codec::None, ..PackOptions::default() }
}

#[test]
fn an_edited_pack_is_the_one_that_would_have_been_made_at_once() {
    let world = World::new();
    let (path, at_once) = (world.at("edited.pack"), world.at("at-once.pack"));
    world.pack("edited.pack", &["web", "db", "tree"], &plain());
    edited(&path, &[("new", &world.at("new"))], &[], &plain()).unwrap();
    world.pack("at-once.pack", &["web", "db", "tree", "new"], &plain());
    assert_same_bytes(&at_once, &path);
    edited(&path, &[], &["web", "tree"], &plain()).unwrap();
    world.pack("at-once.pack", &["db", "new"], &plain());
    assert_same_bytes(&at_once, &path);
}

#[test]
fn every_image_is_restored_from_an_edited_pack() {
    let world = World::new();
    for codec in [Codec::Lz4, Codec::Zstd] {
        let options = PackOptions { codec, ..plain() };
        world.pack("edited.pack", &["web", "db", "tree"], &options);
        let opened = edited(&world.at("edited.pack"), &[("new", &world.at("new"))], &["web"], &options).unwrap();
        opened.verify(&Progress::default()).unwrap();
        for name in ["db", "new"] {
            restore_to(&opened, name, &world.at("target"), true).unwrap();
            assert_same_bytes(&world.at(name), &world.at("target"));
        }
        let tree = world.at(&format!("restored-{}", codec.name()));
        restore_to(&opened, "tree", &tree, false).unwrap();
        assert_same_bytes(&world.at("tree/sub/file"), &tree.join("sub/file"));
        assert_eq!(fs::metadata(tree.join("twice")).unwrap().ino(), fs::metadata(tree.join("short")).unwrap().ino());
        assert_eq!(fs::read_link(tree.join("link")).unwrap(), Path::new("short"));
    }
}

#[test]
fn chunks_that_stay_the_same_are_copied_as_they_are_stored() {
    let world = World::new();
    let stored = |pack: &Pack| pack.chunks().iter().map(|chunk| (chunk.hash, chunk.codec)).collect::<HashSet<_>>();
    let before = stored(&world.pack("edited.pack", &["web"], &PackOptions { codec: Codec::Zstd, ..plain() }));
    // Shares nothing with it.
    write_image(&world.at("other"), &(100..140).map(Page::Text).collect::<Vec<_>>(), 0);
    let lz4 = PackOptions { codec: Codec::Lz4, ..plain() };
    let after = stored(&edited(&world.at("edited.pack"), &[("other", &world.at("other"))], &[], &lz4).unwrap());
    assert!(before.iter().all(|(_, codec)| *codec == Codec::Zstd) && before.is_subset(&after));
    assert!(after.difference(&before).all(|(_, codec)| *codec == Codec::Lz4));
    assert_eq!(after.len(), before.len() + 10);
}

#[test]
fn what_cannot_be_done_leaves_the_pack_as_it_was() {
    let world = World::new();
    world.pack("edited.pack", &["web"], &plain());
    let path = world.at("edited.pack");
    let before = fs::read(&path).unwrap();
    let web = world.at("web");
    assert!(matches!(edited(&path, &[], &["db"], &plain()), Err(Error::NoSuchImage { .. })));
    assert!(matches!(edited(&path, &[("web", &web)], &[], &plain()), Err(Error::Parameter(_))));
    assert!(matches!(edited(&path, &[], &["web"], &plain()), Err(Error::Parameter(_))));
    assert_eq!(fs::read(&path).unwrap(), before);
    // An image is replaced by removing and adding it.
    let replaced = edited(&path, &[("web", &world.at("db"))], &["web"], &plain()).unwrap();
    restore_to(&replaced, "web", &world.at("target"), true).unwrap();
    assert_same_bytes(&world.at("db"), &world.at("target"));

    let mut damaged = fs::read(&path).unwrap();
    damaged[4096 + 17] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert!(matches!(edited(&path, &[("new", &world.at("new"))], &[], &plain()), Err(Error::Pack { .. })));
    assert_eq!(fs::read(&path).unwrap(), damaged);
    assert!(!world.at("edited.pack.partial").exists());
}

#[test]
fn an_edited_pack_is_signed_only_with_a_key() {
    let world = World::new();
    let key = Arc::new(SecretKey::generate().unwrap());
    let signing = PackOptions { key: Some(Arc::clone(&key)), ..plain() };
    world.pack("edited.pack", &["web"], &signing);
    let path = world.at("edited.pack");
    let signed = edited(&path, &[("db", &world.at("db"))], &[], &signing).unwrap();
    signed.proof().check_signature(&key.public_key()).unwrap();
    let unsigned = edited(&path, &[], &["db"], &plain()).unwrap();
    assert!(unsigned.proof().signed_by().is_none());
}

#[test]
fn a_symbolic_link_to_a_pack_stays_one() {
    let world = World::new();
    world.pack("edited.pack", &["web"], &plain());
    let link = world.at("link.pack");
    std::os::unix::fs::symlink("edited.pack", &link).unwrap();
    edited(&link, &[("db", &world.at("db"))], &[], &plain()).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(Pack::open(&world.at("edited.pack")).unwrap().images().len(), 2);
}
