//! Helpers of the tests: synthetic images whose pages are shared on purpose, and packs of them.
#![allow(dead_code)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use image::pack::{ImageSpec, PackOptions, build};
use image::restore::{TargetOptions, restore};
use image::{Pack, Progress};

/// A temporary directory in memory where there is one: for tests that write the same file a hundred thousand times.
pub(crate) fn memory_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// What a page of a synthetic image holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Page {
    /// Not written: a hole.
    Hole,
    /// Written zeros.
    Zero,
    /// Incompressible bytes that depend on the number only: equal numbers, equal pages.
    Random(u32),
    /// Compressible bytes that depend on the number only.
    Text(u32),
}

/// The bytes of a page.
pub(crate) fn page_bytes(page: Page) -> Vec<u8> {
    match page {
        Page::Hole | Page::Zero => vec![0; 4096],
        Page::Random(number) => {
            let mut bytes = vec![0; 4096];
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
            bytes
        }
        Page::Text(number) => format!("line {number} of a file\n").into_bytes().into_iter().cycle().take(4096).collect(),
    }
}

/// Writes a sparse image of these pages, the last one `cut` bytes shorter.
pub(crate) fn write_image(path: &Path, pages: &[Page], cut: u64) {
    let file = File::create(path).unwrap();
    file.set_len((pages.len() as u64 * 4096).saturating_sub(cut)).unwrap();
    for (number, page) in pages.iter().enumerate() {
        if !matches!(page, Page::Hole) {
            let room = (pages.len() - number) * 4096 - cut as usize;
            let bytes = page_bytes(*page);
            file.write_all_at(&bytes[..room.min(4096)], number as u64 * 4096).unwrap();
        }
    }
}

/// `(name, path)` pairs as the packer wants them.
pub(crate) fn specs(images: &[(&str, &Path)]) -> Vec<ImageSpec> {
    images.iter().map(|(name, path)| ImageSpec { name: (*name).to_owned(), path: path.to_path_buf() }).collect()
}

/// Packs with the given options and replaces an older pack.
pub(crate) fn pack(images: &[(&str, &Path)], output: &Path, options: PackOptions) -> image::Result<Pack> {
    build(&specs(images), output, &PackOptions { force: true, threads: 2, ..options }, &Progress::default())
}

/// Restores an image by name.
pub(crate) fn restore_to(pack: &Pack, name: &str, path: &Path, force: bool) -> image::Result<image::restore::RestoreReport> {
    let image = pack.image_index(name).unwrap();
    restore(pack, image, path, &TargetOptions { force, ..TargetOptions::default() }, &Progress::default())
}

/// Asserts that two files hold the same bytes, without printing them.
pub(crate) fn assert_same_bytes(one: &Path, other: &Path) {
    let (left, right) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    assert_eq!(left.len(), right.len(), "lengths of {} and {}", one.display(), other.display());
    if let Some(at) = left.iter().zip(&right).position(|(left, right)| left != right) {
        panic!("{} and {} differ at byte {at}", one.display(), other.display());
    }
}

/// The paths below a directory, sorted.
pub(crate) fn list(path: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// Whether the test may use loop devices and the like; says so when not.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("{test}: SKIPPED, it needs root");
    }
    root
}
