//! The second pass's inner loop: each page goes, where it appears first, to the open chunk of its segment.

use std::path::PathBuf;

use crossbeam_channel::Sender;

use super::body::BodyBuilder;
use super::chunk_buffer::{ChunkBuffer, Spare};
use super::compress::RawChunk;
use super::scan::{Batch, Item};
use crate::dedup::{Layout, PageIndex, PageState};
use crate::units::pages_of;
use crate::{ChunkId, Error, PAGE_BYTES, Result};

/// Puts pages into the chunks of their segments.
pub(super) struct ChunkFiller<'a> {
    index: &'a PageIndex,
    layout: &'a mut Layout,
    /// The source that is being scanned, for messages.
    pub(super) source: PathBuf,
    /// By segment: the chunk that is being filled.
    open: Vec<Option<ChunkBuffer>>,
    full: Sender<RawChunk>,
    spare: &'a Spare,
    /// Chunks that were sent to be compressed.
    sent: u64,
}

impl<'a> ChunkFiller<'a> {
    /// Full chunks are sent to `full`.
    pub(super) fn new(index: &'a PageIndex, layout: &'a mut Layout, full: Sender<RawChunk>, spare: &'a Spare) -> Self {
        let open = layout.segments().iter().map(|_| None).collect();
        Self { index, layout, source: PathBuf::new(), open, full, spare, sent: 0 }
    }

    /// Whether every page of the first pass has come again.
    pub(super) fn is_full(&self) -> bool {
        self.layout.is_full()
    }

    /// Takes the pages of a batch of the current source, and notes in `body` where they are.
    pub(super) fn take(&mut self, batch: &mut Batch, body: &mut BodyBuilder) -> Result<()> {
        let items = std::mem::take(&mut batch.items);
        for item in items {
            match item {
                Item::Entry(entry) => body.entry(*entry),
                Item::Hole { target_offset, length } => body.hole(target_offset, length),
                Item::Data { target_offset, length, first_page } => {
                    for page in 0..pages_of(length) {
                        let done = page * PAGE_BYTES as u64;
                        let in_page = (length - done).min(PAGE_BYTES as u64);
                        self.page(batch, first_page + page as usize, target_offset + done, in_page, body)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn page(&mut self, batch: &Batch, page: usize, offset: u64, length: u64, body: &mut BodyBuilder) -> Result<()> {
        let Some(key) = batch.keys[page] else {
            body.zero(offset, length);
            return Ok(());
        };
        let state = self.index.state(key).ok_or_else(|| Error::SourceChanged { path: self.source.clone() })?;
        let slot = match state {
            PageState::Stored(slot) => slot,
            PageState::Wanted(set) => {
                let segment = self.layout.segment_of(set);
                let slot = self.layout.next_slot(segment);
                let slot = slot.ok_or_else(|| Error::SourceChanged { path: self.source.clone() })?;
                self.index.store(key, slot);
                self.append(segment, self.layout.place(slot).0, batch.page(page))?;
                slot
            }
        };
        let (chunk, page) = self.layout.place(slot);
        body.data(offset, length, chunk, page);
        Ok(())
    }

    /// Adds a page to a segment's open chunk, and sends the chunk off when it is full.
    fn append(&mut self, segment: usize, id: ChunkId, page: &[u8]) -> Result<()> {
        let full_bytes = self.layout.pages_of_chunk(segment, id) as usize * PAGE_BYTES;
        let open = self.open[segment].get_or_insert_with(|| self.spare.take(full_bytes));
        open.append(page);
        if open.len() == full_bytes
            && let Some(raw) = self.open[segment].take()
        {
            let chunk = RawChunk { number: self.sent, id, segment: segment as u32, raw };
            self.sent += 1;
            self.full.send(chunk).map_err(|_| Error::Stopped)?;
        }
        Ok(())
    }
}
