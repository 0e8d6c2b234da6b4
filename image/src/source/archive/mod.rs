//! tar archives, and the images of containers that consist of them, as trees of files. An archive lists its members in any order; it is read once for
//! where everything lies, and handed over in the order of names, like a directory.

mod data;
mod file_tree;
mod oci;
mod pax;
mod sparse;
mod tar;

use std::path::{Path, PathBuf};

use self::data::{DataFile, ReadAt, spool};
use self::file_tree::FileTree;
use self::tar::{Malformed, Member, MemberKind};
use super::compression::Compression;
use super::{PageSink, Source};
use crate::{Error, ImageKind, Result};

pub(super) use tar::is_tar_header;

/// The files of an archive or of a container image.
#[derive(Debug)]
pub(super) struct ArchiveSource {
    path: PathBuf,
    tree: FileTree,
    /// What the [`data::Data`] of the tree's files points into.
    files: Vec<DataFile>,
    notes: Vec<String>,
}

impl ArchiveSource {
    /// The tar archive at `path`. One that holds an OCI image layout, or what `docker save` writes, is taken for the image in it.
    pub(super) fn open(path: PathBuf, compression: Option<Compression>) -> Result<Self> {
        let file = match compression {
            None => DataFile::open(&path)?,
            Some(compression) => spool(&mut *compression.open(&path)?, compression, &path)?,
        };
        let mut tree = FileTree::new();
        let mut found = Findings::default();
        read_tar(&file, 0, &path, &mut |member| found.put(&mut tree, member))?;
        if let Some(image) = oci::Store::of_archive(&tree, &file) {
            return oci::open(path, &image);
        }
        let notes = found.notes(&path, &tree);
        Ok(Self { path, tree, files: vec![file], notes })
    }

    /// The container image whose OCI image layout is in the directory `path`.
    pub(super) fn open_oci_layout(path: PathBuf) -> Result<Self> {
        let store = oci::Store::of_directory(path.clone());
        oci::open(path, &store)
    }
}

impl Source for ArchiveSource {
    fn kind(&self) -> ImageKind {
        ImageKind::Tree
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn scan(&mut self, sink: &mut dyn PageSink) -> Result<()> {
        self.tree.scan(&self.files, sink)
    }

    fn estimated_bytes(&self) -> u64 {
        self.tree.data_bytes()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// Reads the headers of `archive`, whose errors are told of `path`.
fn read_tar(archive: &dyn ReadAt, file: usize, path: &Path, take: &mut dyn FnMut(Member) -> Result<(), Malformed>) -> Result<()> {
    tar::read(archive, file, take).map_err(|error| match error {
        Malformed::Io(error) => Error::io("reading", path)(error),
        Malformed::Archive(why) => Error::Source { path: path.to_owned(), why },
    })
}

/// What the operator should know of an archive's members.
#[derive(Debug, Default)]
struct Findings {
    absolute_names: u64,
    acls_left_out: u64,
}

impl Findings {
    fn put(&mut self, tree: &mut FileTree, member: Member) -> Result<(), Malformed> {
        let Member { path, metadata, kind, acl_left_out } = member;
        self.absolute_names += u64::from(path.starts_with(b"/"));
        self.acls_left_out += u64::from(acl_left_out);
        let put = match kind {
            MemberKind::Directory => tree.put_directory(&path, metadata),
            MemberKind::HardLink(target) => tree.put_hard_link(&path, &target),
            MemberKind::Other(content) => tree.put(&path, metadata, content),
        };
        put.map_err(|why| Malformed::Archive(format!("{}: {why}", String::from_utf8_lossy(&path))))
    }

    fn notes(&self, path: &Path, tree: &FileTree) -> Vec<String> {
        let path = path.display();
        let mut notes = Vec::new();
        if self.absolute_names > 0 {
            notes.push(format!("{path}: {} names begin with /, which was removed", self.absolute_names));
        }
        if tree.made_up() > 0 {
            let made_up = tree.made_up();
            notes.push(format!("{path}: {made_up} directories are not in the archive: they get mode 0755, owner root and the time 0"));
        }
        if self.acls_left_out > 0 {
            let advice = "write the archive with --numeric-owner to keep them";
            notes.push(format!("{path}: the ACLs of {} files name users or groups and were left out: {advice}", self.acls_left_out));
        }
        notes
    }
}

/// Reads an archive in memory, for fuzzing.
pub(crate) fn fuzz_tar(bytes: &[u8]) {
    let mut tree = FileTree::new();
    let mut found = Findings::default();
    let _ = tar::read(&bytes, 0, &mut |member| found.put(&mut tree, member));
    let _ = found.notes(Path::new("archive"), &tree);
}

/// Reads the JSON of an image layout from memory, for fuzzing.
pub(crate) fn fuzz_oci(bytes: &[u8]) {
    oci::fuzz(bytes);
}
