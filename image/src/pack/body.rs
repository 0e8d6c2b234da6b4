//! Puts the body of one image together while it is scanned: runs become extents, as long as they can be.

use std::sync::Arc;

use crate::manifest::{Body, Content, DiskBody, Entry, EntryKind, Extent, TreeBody};
use crate::{ChunkId, ImageKind, PAGE_BYTES};

/// Bytes of an image by what they are.
#[derive(Clone, Copy, Default)]
pub(super) struct ByteCounts {
    pub(super) used: u64,
    pub(super) zero: u64,
    pub(super) hole: u64,
}

/// The body so far. Its extents name chunks by id; the manifest's own numbering comes when all chunks are known.
pub(super) struct BodyBuilder {
    kind: ImageKind,
    entries: Vec<Entry>,
    extents: Vec<Extent>,
    /// Where the extents of the present file begin: extents of different files do not merge.
    file_start: usize,
    pub(super) counts: ByteCounts,
}

impl BodyBuilder {
    pub(super) fn new(kind: ImageKind) -> Self {
        Self { kind, entries: Vec::new(), extents: Vec::new(), file_start: 0, counts: ByteCounts::default() }
    }

    pub(super) fn entry(&mut self, entry: Entry) {
        self.end_file();
        self.entries.push(entry);
        self.file_start = self.extents.len();
    }

    /// A page of data, or what of it belongs to the image.
    pub(super) fn data(&mut self, target_offset: u64, length: u64, chunk: ChunkId, page: u32) {
        self.counts.used += length;
        self.append(Extent { target_offset, length, content: Content::Data { chunk: chunk.0, page } });
    }

    pub(super) fn zero(&mut self, target_offset: u64, length: u64) {
        self.counts.zero += length;
        self.append(Extent { target_offset, length, content: Content::Zero });
    }

    pub(super) fn hole(&mut self, target_offset: u64, length: u64) {
        self.counts.hole += length;
        self.append(Extent { target_offset, length, content: Content::Hole });
    }

    pub(super) fn finish(mut self) -> Body {
        self.end_file();
        match self.kind {
            ImageKind::Disk => {
                let size_bytes = self.extents.last().map_or(0, Extent::end);
                Body::Disk(DiskBody { size_bytes, extents: self.extents })
            }
            ImageKind::Tree => Body::Tree(Arc::new(TreeBody { entries: self.entries, extents: self.extents })),
        }
    }

    fn append(&mut self, next: Extent) {
        let page_bytes = PAGE_BYTES as u64;
        if self.extents.len() > self.file_start
            && let Some(last) = self.extents.last_mut()
        {
            let continues = match (last.content, next.content) {
                (Content::Data { chunk, page }, Content::Data { chunk: next_chunk, page: next_page }) => {
                    // Only the last page of an extent may be a partial one.
                    let whole_pages = last.length % page_bytes == 0;
                    whole_pages && chunk == next_chunk && u64::from(page) + last.length / page_bytes == u64::from(next_page)
                }
                (Content::Zero, Content::Zero) | (Content::Hole, Content::Hole) => true,
                _ => false,
            };
            if continues && last.end() == next.target_offset {
                last.length += next.length;
                return;
            }
        }
        self.extents.push(next);
    }

    fn end_file(&mut self) {
        let end = self.extents.len();
        if let Some(Entry { kind: EntryKind::File { extents, .. }, .. }) = self.entries.last_mut() {
            *extents = self.file_start..end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_pages_of_a_chunk_are_one_extent() {
        let mut body = BodyBuilder::new(ImageKind::Disk);
        body.data(0, 4096, ChunkId(3), 5);
        body.data(4096, 4096, ChunkId(3), 6);
        body.data(8192, 4096, ChunkId(4), 0);
        body.zero(12288, 4096);
        body.zero(16384, 100);
        let Body::Disk(disk) = body.finish() else { panic!("a disk") };
        assert_eq!(disk.size_bytes, 16484);
        let lengths: Vec<_> = disk.extents.iter().map(|extent| extent.length).collect();
        assert_eq!(lengths, [8192, 4096, 4196]);
    }
}
