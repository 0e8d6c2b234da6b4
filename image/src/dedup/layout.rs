//! The layout: segments in order, the chunk ids of each, and the slot that every new page of a segment gets.

use super::SetId;
use crate::pack::Segment;
use crate::{ChunkId, Error, ImageSet, Result};

/// A page's place in the pack: chunk id × chunk pages + page in the chunk. Below 2^31: 8 TiB of unique data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageSlot(pub(crate) u32);

/// One past the last slot. The page index marks slots with bit 31 and keeps all ones for itself.
const SLOTS_MAX: u64 = (1 << 31) - 1;

/// Which segment each set of images has become, and how far each is filled.
pub(crate) struct Layout {
    chunk_pages: u32,
    segments: Vec<Segment>,
    /// By set id: the segment; `u32::MAX` for a set that no page has.
    segment_of_set: Vec<u32>,
    /// By segment: pages that have got their slot.
    filled_pages: Vec<u32>,
}

impl Layout {
    /// Orders the segments: those that most images want first, then in order of the images, so that a disk's extents stay long.
    pub(crate) fn new(sets: Vec<ImageSet>, pages_per_set: &[u64], chunk_pages: u32) -> Result<Self> {
        let mut order: Vec<usize> = (0..sets.len()).filter(|&set| pages_per_set[set] > 0).collect();
        order.sort_by_cached_key(|&set| {
            let images: Vec<usize> = sets[set].iter().collect();
            (usize::MAX - images.len(), images)
        });
        let mut segments = Vec::with_capacity(order.len());
        let mut segment_of_set = vec![u32::MAX; sets.len()];
        let mut next_chunk = 0u64;
        for set in order {
            let chunks = pages_per_set[set].div_ceil(u64::from(chunk_pages));
            if (next_chunk + chunks) * u64::from(chunk_pages) > SLOTS_MAX {
                return Err(Error::Limit("a pack holds at most 8 TiB of different data".into()));
            }
            segment_of_set[set] = segments.len() as u32;
            segments.push(Segment {
                first_chunk: ChunkId(next_chunk as u32),
                chunks: chunks as u32,
                pages: pages_per_set[set] as u32,
                images: sets[set].clone(),
            });
            next_chunk += chunks;
        }
        let filled_pages = vec![0; segments.len()];
        Ok(Self { chunk_pages, segments, segment_of_set, filled_pages })
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.segments.last().map_or(0, |last| last.first_chunk.0 + last.chunks)
    }

    /// The segment that the pages of a set go to.
    pub(crate) fn segment_of(&self, set: SetId) -> usize {
        self.segment_of_set[set.0 as usize] as usize
    }

    /// The slot for the next page of a segment; `None` when it is full, that is, when there are more pages than in the first pass.
    pub(crate) fn next_slot(&mut self, segment: usize) -> Option<PageSlot> {
        let (plan, filled) = (self.segments.get(segment)?, self.filled_pages.get_mut(segment)?);
        if *filled == plan.pages {
            return None;
        }
        let slot = plan.first_chunk.0 * self.chunk_pages + *filled;
        *filled += 1;
        Some(PageSlot(slot))
    }

    /// Pages of the chunk that a slot is in.
    pub(crate) fn pages_of_chunk(&self, segment: usize, chunk: ChunkId) -> u32 {
        let plan = &self.segments[segment];
        let before = (chunk.0 - plan.first_chunk.0) * self.chunk_pages;
        (plan.pages - before).min(self.chunk_pages)
    }

    /// Chunk and page of a slot.
    pub(crate) fn place(&self, slot: PageSlot) -> (ChunkId, u32) {
        (ChunkId(slot.0 / self.chunk_pages), slot.0 % self.chunk_pages)
    }

    /// Whether every page of the first pass has come again.
    pub(crate) fn is_full(&self) -> bool {
        self.segments.iter().zip(&self.filled_pages).all(|(segment, &filled)| segment.pages == filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(images: &[usize]) -> ImageSet {
        images.iter().copied().collect()
    }

    #[test]
    fn what_most_images_want_comes_first() {
        let sets = vec![set(&[1]), set(&[0]), set(&[0, 1]), set(&[7])];
        let mut layout = Layout::new(sets, &[5, 64, 65, 0], 64).unwrap();
        let chunks: Vec<_> = layout.segments().iter().map(|segment| (segment.first_chunk.0, segment.chunks)).collect();
        assert_eq!(chunks, [(0, 2), (2, 1), (3, 1)]);
        assert_eq!(layout.segment_of(SetId(2)), 0);
        assert_eq!(layout.pages_of_chunk(0, ChunkId(1)), 1);
        for expected in 0..65 {
            assert_eq!(layout.next_slot(0), Some(PageSlot(expected)));
        }
        assert_eq!(layout.next_slot(0), None);
        assert_eq!(layout.place(PageSlot(64)), (ChunkId(1), 0));
        assert!(!layout.is_full());
    }
}
