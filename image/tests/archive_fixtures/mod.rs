//! What the tests of archives share: archives made by hand, and the trees of packs in a form that can be compared.
#![allow(dead_code)]

use std::path::Path;
use std::process::Command;

use image::Pack;
use image::manifest::{Body, Content, EntryKind};

/// Runs a program that must succeed.
pub(crate) fn run(directory: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(directory).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; scripts/install-deps installs it"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Offset, length and pages of a part of a file; no pages where it is zero.
type Part = (u64, u64, Option<(u32, u32)>);

/// An entry of a tree as its manifest has it, with its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) path: String,
    pub(crate) mode: u16,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) kind: String,
    pub(crate) content: Vec<Part>,
}

impl Listed {
    pub(crate) fn without_what_gnu_lacks(self) -> Self {
        // A time before 1970 in whole seconds is rounded by tar itself.
        Self { mtime: (self.mtime.0, 0), xattrs: Vec::new(), ..self }
    }
}

/// The entries of an image, in order.
pub(crate) fn list(pack: &Pack, image: usize) -> Vec<Listed> {
    let manifest = pack.manifest(image).unwrap();
    let Body::Tree(tree) = &manifest.body else { panic!("no tree") };
    let mut paths: Vec<String> = Vec::new();
    let mut listed = Vec::new();
    for (index, entry) in tree.entries.iter().enumerate() {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let parent = paths.get(entry.parent as usize).filter(|_| index > 0).cloned().unwrap_or_default();
        let path = if parent.is_empty() { name } else { format!("{parent}/{name}") };
        paths.push(path.clone());
        let mut content: Vec<Part> = Vec::new();
        let kind = match &entry.kind {
            EntryKind::Directory => "directory".to_owned(),
            EntryKind::File { size_bytes, extents } => {
                for extent in &tree.extents[extents.clone()] {
                    let place = match extent.content {
                        Content::Data { chunk, page } => Some((manifest.chunks[chunk as usize].id.0, page)),
                        _ => None,
                    };
                    match content.last_mut() {
                        Some((_, length, None)) if place.is_none() => *length += extent.length,
                        _ => content.push((extent.target_offset, extent.length, place)),
                    }
                }
                format!("file of {size_bytes}")
            }
            EntryKind::Symlink { target } => format!("symlink to {}", String::from_utf8_lossy(target)),
            EntryKind::HardLink { original } => format!("hard link to {original}"),
            other => format!("{other:?}"),
        };
        let (owner, mtime) = ((entry.uid, entry.gid), (entry.mtime_s, entry.mtime_ns));
        listed.push(Listed { path, mode: entry.mode, owner, mtime, xattrs: entry.xattrs.clone(), kind, content });
    }
    listed
}

/// An archive that is put together member by member.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    fn add(&mut self, name: &str, mode: u32, kind: u8, link: &str, data: &[u8]) -> &mut Self {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let mut put = |at: usize, text: String| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(100, format!("{mode:07o}"));
        put(108, format!("{:07o}", 0));
        put(116, format!("{:07o}", 0));
        put(124, format!("{:011o}", data.len()));
        put(136, format!("{:011o}", 1_000_000_000));
        put(157, link.to_owned());
        put(257, "ustar\x0000".to_owned());
        header[156] = kind;
        set_checksum(&mut header);
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(&mut self, name: &str, data: &[u8]) -> &mut Self {
        self.add(name, 0o644, b'0', "", data)
    }

    pub(crate) fn directory(&mut self, name: &str, mode: u32) -> &mut Self {
        self.add(name, mode, b'5', "", b"")
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.add(name, 0o777, b'2', target, b"")
    }

    pub(crate) fn hard_link(&mut self, name: &str, target: &str) -> &mut Self {
        self.add(name, 0o644, b'1', target, b"")
    }

    pub(crate) fn member(&mut self, name: &str, kind: u8, data: &[u8]) -> &mut Self {
        self.add(name, 0o644, kind, "", data)
    }

    pub(crate) fn pax(&mut self, records: &str) -> &mut Self {
        self.add("pax", 0o644, b'x', "", records.as_bytes())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.0.as_slice(), &[0; 1024]].concat()
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}

fn set_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Gives every block that looks like a header the right checksum.
pub(crate) fn fix_checksums(archive: &mut [u8]) {
    archive.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar").for_each(set_checksum);
}
