//! Filesystems made by the real tools, with files that were deleted before packing.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::pack::{PackOptions, build};
use image::{Codec, Pack, Progress};

/// What deleted files consist of: nothing of it may be in a pack.
pub(crate) const MARKER: &[u8] = b"an earlier tenant's secret ";

/// Runs a program of the system, which must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = run_any(program, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Runs a program of the system.
pub(crate) fn run_any(program: &str, arguments: &[&str]) -> Output {
    // Not everybody's path has these.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let outcome = Command::new(program).args(arguments).env("PATH", path).output();
    outcome.unwrap_or_else(|error| panic!("{program}: {error}; scripts/install-deps installs it"))
}

/// A path as a program's argument.
pub(crate) fn argument(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An empty sparse file.
pub(crate) fn sparse(path: &Path, bytes: u64) {
    fs::File::create(path).unwrap().set_len(bytes).unwrap();
}

/// Bytes that do not compress and depend on the seed.
pub(crate) fn random(seed: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Bytes of a file that is to be deleted.
pub(crate) fn stale(length: usize) -> Vec<u8> {
    MARKER.iter().copied().cycle().take(length).collect()
}

/// Fills a directory: files of many sizes that stay, between files that are to be deleted, whose names are returned.
pub(crate) fn fill(directory: &Path, bytes: usize) -> Vec<String> {
    let mut doomed = Vec::new();
    let mut seed = 0;
    let mut done = 0;
    for folder in ["one", "two", "three"] {
        fs::create_dir_all(directory.join(folder)).unwrap();
        for length in [1, 700, 1500, 4096, 5000, 20_000, bytes / 8] {
            seed += 1;
            done += length;
            fs::write(directory.join(folder).join(format!("keep{seed}")), random(seed, length)).unwrap();
            let name = format!("{folder}/gone{seed}");
            fs::write(directory.join(&name), stale(length.max(600))).unwrap();
            doomed.push(name);
        }
    }
    assert!(done <= bytes);
    doomed
}

/// The files below a directory with the hash of each.
pub(crate) fn hashes(root: &Path) -> Vec<(PathBuf, blake3::Hash)> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for path in crate::common::list(&directory) {
            if path.is_dir() {
                directories.push(path);
            } else {
                found.push((path.strip_prefix(root).unwrap().to_owned(), blake3::hash(&fs::read(&path).unwrap())));
            }
        }
    }
    found.sort_by(|one: &(PathBuf, blake3::Hash), other| one.0.cmp(&other.0));
    found
}

/// Whether a file holds the marker anywhere.
pub(crate) fn has_marker(path: &Path) -> bool {
    // Reads sparse files of gigabytes faster than a loop here.
    let text = std::str::from_utf8(MARKER).unwrap();
    run_any("grep", &["-aqF", text, argument(path)]).status.success()
}

/// An image packed without compression and restored.
pub(crate) struct Packed {
    pub(crate) pack: Pack,
    pub(crate) pack_path: PathBuf,
    pub(crate) restored: PathBuf,
    /// What the source says of the image.
    pub(crate) notes: Vec<String>,
}

impl Packed {
    /// Bytes of data in the pack.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.pack.images()[0].used_bytes
    }

    /// Asserts that a line of the notes has all these words.
    pub(crate) fn assert_note(&self, words: &[&str]) {
        let found = self.notes.iter().any(|note| words.iter().all(|word| note.contains(word)));
        assert!(found, "no note with {words:?}: {:#?}", self.notes);
    }
}

/// Packs and restores `image` beside itself.
pub(crate) fn pack_and_restore(image: &Path) -> Packed {
    let (pack_path, restored) = (image.with_extension("pack"), image.with_extension("restored"));
    let options = PackOptions { codec: Codec::None, force: true, threads: 2, ..PackOptions::default() };
    let pack = build(&crate::common::specs(&[("disk", image)]), &pack_path, &options, &Progress::default()).unwrap();
    crate::common::restore_to(&pack, "disk", &restored, true).unwrap();
    let notes = image::source::open(image, options.source).unwrap().notes();
    Packed { pack, pack_path, restored, notes }
}
