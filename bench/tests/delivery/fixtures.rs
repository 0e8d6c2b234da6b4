//! The images and packs that the tests deliver, made once and shared.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use bench::lab::Programs;
use bench::lab::content::{Part, first_difference, write_image};
use tempfile::TempDir;

use crate::world::scratch;

const MIB: u64 = 1 << 20;
/// What all images of the fleet share, and what each has of its own: 70 % common.
const COMMON_BYTES: u64 = 70 * MIB;
const OWN_BYTES: u64 = 30 * MIB;
/// Size of the one image of the solo pack.
pub(crate) const SOLO_BYTES: u64 = 96 * MIB;

/// Everything that the tests deliver, in a directory of its own.
pub(crate) struct Fixtures {
    directory: TempDir,
    fleet: OnceLock<Pack>,
    solo: OnceLock<Pack>,
    filesystem: OnceLock<Pack>,
}

/// A pack and the images that it was made from.
#[derive(Clone, Debug)]
pub(crate) struct Pack {
    pub(crate) path: PathBuf,
    images: Vec<(String, PathBuf)>,
}

impl Fixtures {
    pub(crate) fn new() -> Result<Fixtures> {
        Ok(Fixtures { directory: scratch()?, fleet: OnceLock::new(), solo: OnceLock::new(), filesystem: OnceLock::new() })
    }

    /// Three images, 70 % of each common to all: `web` and `db`, disk images of different sizes, and `files`, a tree.
    pub(crate) fn fleet(&self) -> Result<Pack> {
        made_once(&self.fleet, || {
            let common = Part::Noise { seed: 1, bytes: COMMON_BYTES };
            let (web, db, files) = (self.path("web.raw"), self.path("db.raw"), self.path("files"));
            let own = |seed| Part::Noise { seed, bytes: OWN_BYTES };
            write_image(&web, &[own(2), Part::Hole(16 * MIB), common, Part::Zeros(4 * MIB)])?;
            // Not a whole number of pages, and a tail that is no hole.
            write_image(&db, &[common, Part::Zeros(8 * MIB), own(3), Part::Hole(24 * MIB), Part::Noise { seed: 4, bytes: 5 * 512 }])?;
            write_tree(&files, &[common], &[own(5)])?;
            self.pack("fleet", &[("web", &web), ("db", &db), ("files", &files)])
        })
    }

    /// One incompressible image, `solo`.
    pub(crate) fn solo(&self) -> Result<Pack> {
        made_once(&self.solo, || {
            let solo = self.path("solo.raw");
            write_image(&solo, &[Part::Noise { seed: 6, bytes: SOLO_BYTES }])?;
            self.pack("solo", &[("solo", &solo)])
        })
    }

    /// One ext4 filesystem made of this machine's files, `root`.
    pub(crate) fn filesystem(&self) -> Result<Pack> {
        made_once(&self.filesystem, || {
            let (tree, image) = (self.path("root"), self.path("root.raw"));
            copy_machine_files(&tree, 40 * MIB)?;
            File::create(&image)?.set_len(96 * MIB)?;
            run(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&tree).arg(&image))?;
            self.pack("root", &[("root", &image)])
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn pack(&self, name: &str, images: &[(&str, &Path)]) -> Result<Pack> {
        let path = self.path(&format!("{name}.pack"));
        let mut command = Command::new(Programs::built()?.discus);
        command.args(["pack", "--output"]).arg(&path);
        command.args(images.iter().map(|(image, source)| format!("{image}={}", source.display())));
        run(&mut command)?;
        Ok(Pack { path, images: images.iter().map(|&(image, source)| (image.to_owned(), source.to_owned())).collect() })
    }
}

impl Pack {
    /// Where the image's original is.
    pub(crate) fn original(&self, image: &str) -> Result<&Path> {
        let found = self.images.iter().find(|(name, _)| name == image);
        Ok(&found.with_context(|| format!("no image {image}"))?.1)
    }

    /// Asserts that `target` holds the image: every byte of a disk image; names, content, modes and links of a tree.
    pub(crate) fn assert_delivered(&self, image: &str, target: &Path) -> Result<()> {
        let original = self.original(image)?;
        if original.is_dir() {
            return assert_same_tree(original, target);
        }
        let bytes = fs::metadata(original)?.len();
        let target_metadata = fs::metadata(target).with_context(|| format!("{image} was not written to {}", target.display()))?;
        // A device may be larger than the image.
        ensure!(!target_metadata.is_file() || target_metadata.len() == bytes, "{image}: size {} is not {bytes}", target_metadata.len());
        match first_difference(original, target, bytes)? {
            None => Ok(()),
            Some(offset) => bail!("{image}: {} differs at byte {offset}", target.display()),
        }
    }

    /// Chunks of `image` as (chunk id, stored bytes).
    pub(crate) fn chunks_of(&self, image: &str) -> Result<Vec<(u32, u32)>> {
        let pack = image::Pack::open(&self.path)?;
        Ok(pack.manifest(pack.image_index(image)?)?.chunks.iter().map(|chunk| (chunk.id.0, chunk.stored_bytes)).collect())
    }

    /// Stored bytes of all chunks: each common page counts once.
    pub(crate) fn stored_bytes(&self) -> Result<u64> {
        Ok(image::Pack::open(&self.path)?.chunks().iter().map(|chunk| u64::from(chunk.stored_bytes)).sum())
    }
}

fn made_once(cell: &OnceLock<Pack>, make: impl FnOnce() -> Result<Pack>) -> Result<Pack> {
    // The tests run one after another, so nobody makes it at the same time.
    match cell.get() {
        Some(pack) => Ok(pack.clone()),
        None => make().map(|pack| cell.get_or_init(|| pack).clone()),
    }
}

/// Runs a command that has to succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A tree with a bit of everything: large files, small ones, an empty one, directories, modes, a symbolic and a hard link.
fn write_tree(root: &Path, large: &[Part], own: &[Part]) -> Result<()> {
    fs::create_dir_all(root.join("models/empty directory"))?;
    write_image(&root.join("models/weights.bin"), large)?;
    write_image(&root.join("models/adapter.bin"), own)?;
    for index in 0..200 {
        let name = root.join(format!("models/part-{index}.txt"));
        fs::write(&name, format!("part {index}\n").repeat(index * 7))?;
        fs::set_permissions(&name, fs::Permissions::from_mode(0o600 + (index as u32 % 8)))?;
    }
    symlink("weights.bin", root.join("models/current"))?;
    fs::hard_link(root.join("models/part-9.txt"), root.join("same as part 9"))?;
    Ok(())
}

fn assert_same_tree(original: &Path, target: &Path) -> Result<()> {
    let names = |directory: &Path| -> Result<Vec<_>> {
        let entries = fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let here = names(original)?;
    ensure!(here == names(target)?, "{} does not hold the names of {}", target.display(), original.display());
    for name in here {
        let (from, to) = (original.join(&name), target.join(&name));
        let (want, got) = (from.symlink_metadata()?, to.symlink_metadata()?);
        ensure!(want.mode() == got.mode(), "{}: mode {:o} is not {:o}", to.display(), got.mode(), want.mode());
        if want.is_dir() {
            assert_same_tree(&from, &to)?;
        } else if want.is_symlink() {
            ensure!(fs::read_link(&from)? == fs::read_link(&to)?, "{}: another link", to.display());
        } else {
            ensure!(want.len() == got.len() && want.nlink() == got.nlink(), "{}: size or links differ", to.display());
            ensure!(first_difference(&from, &to, want.len())?.is_none(), "{}: other content", to.display());
        }
    }
    Ok(())
}

/// Copies some of the machine's programs and libraries, `bytes` at most, into `tree`.
fn copy_machine_files(tree: &Path, bytes: u64) -> Result<()> {
    let mut left = bytes;
    for directory in ["/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/share/locale", "/usr/include"] {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        let copy = tree.join(directory.trim_start_matches('/'));
        fs::create_dir_all(&copy)?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            let metadata = path.symlink_metadata()?;
            if metadata.is_file() && metadata.len() <= left.min(8 * MIB) {
                fs::copy(&path, copy.join(path.file_name().context("a path of a directory has a name")?))?;
                left -= metadata.len();
            }
        }
    }
    Ok(())
}
