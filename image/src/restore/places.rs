//! Where each chunk goes: the manifest's data extents, grouped by chunk.

use crate::PAGE_BYTES;
use crate::manifest::{Body, Content, EntryKind, Extent, Manifest};

/// A run of bytes of a raw chunk and its place at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The tree entry of the file; 0 for a disk.
    pub(super) file: u32,
    pub(super) target_offset: u64,
    /// A multiple of the page size.
    pub(super) raw_offset: u32,
    pub(super) length: u32,
}

/// All places, 24 bytes per data extent.
pub(super) struct Places {
    /// By chunk index: its first place; one more at the end.
    starts: Vec<u32>,
    places: Vec<Place>,
}

impl Places {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let mut starts = vec![0u32; manifest.chunks.len() + 1];
        for extent in manifest.extents() {
            if let Content::Data { chunk, .. } = extent.content {
                starts[chunk as usize + 1] += 1;
            }
        }
        for chunk in 1..starts.len() {
            starts[chunk] += starts[chunk - 1];
        }
        let nowhere = Place { file: 0, target_offset: 0, raw_offset: 0, length: 0 };
        let mut places = vec![nowhere; starts.last().map_or(0, |&count| count as usize)];
        let mut next = starts.clone();
        let mut add = |file: u32, extents: &[Extent]| {
            for extent in extents {
                if let Content::Data { chunk, page } = extent.content {
                    let at = &mut next[chunk as usize];
                    // The decoder has checked that an extent lies within its chunk, so the length fits.
                    let (raw_offset, length) = (page * PAGE_BYTES as u32, extent.length as u32);
                    places[*at as usize] = Place { file, target_offset: extent.target_offset, raw_offset, length };
                    *at += 1;
                }
            }
        };
        match &manifest.body {
            Body::Disk(disk) => add(0, &disk.extents),
            Body::Tree(tree) => {
                for (index, entry) in tree.entries.iter().enumerate() {
                    if let EntryKind::File { extents, .. } = &entry.kind {
                        add(index as u32, &tree.extents[extents.clone()]);
                    }
                }
            }
        }
        Self { starts, places }
    }

    /// The places of one chunk, ascending by file and offset.
    pub(super) fn of_chunk(&self, chunk: usize) -> &[Place] {
        &self.places[self.starts[chunk] as usize..self.starts[chunk + 1] as usize]
    }
}
