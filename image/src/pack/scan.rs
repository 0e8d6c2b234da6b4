//! One pass over one source: a thread reads it into batches, others hash their pages, the caller gets the batches in order.
//!
//! Memory is a fixed number of batches of 512 KiB: a batch that the caller is done with goes back to the reader, which waits
//! when there is none. The batch that is next in order is always on its way, so that nobody waits for ever.

use std::collections::BTreeMap;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::dedup::{PageHasher, PageKey};
use crate::manifest::Entry;
use crate::source::{PageSink, ReadRun, Source};
use crate::units::pages_of;
use crate::{Error, PAGE_BYTES, Progress, Result, Step};

/// Pages of a batch.
const BATCH_PAGES: usize = 128;
/// Entries and runs of a batch: small files and holes bring many with few pages.
const BATCH_ITEMS: usize = 1024;

/// Something found by the scan, in order.
pub(super) enum Item {
    /// An entry of a tree; what follows belongs to it.
    Entry(Box<Entry>),
    /// A run of data, its pages in the batch from `first_page` on.
    Data { target_offset: u64, length: u64, first_page: usize },
    /// A run that is not stored.
    Hole { target_offset: u64, length: u64 },
}

/// Consecutive items with their pages.
pub(super) struct Batch {
    /// Its position among the batches of this pass.
    number: u64,
    pub(super) items: Vec<Item>,
    /// Number of the first page among the data pages of this pass.
    pub(super) first_page_number: u64,
    buffer: Vec<u8>,
    /// Per page: its key, `None` for a page of zeros. Filled by the hashing threads.
    pub(super) keys: Vec<Option<PageKey>>,
    pages: usize,
}

impl Batch {
    fn new() -> Self {
        let buffer = vec![0; BATCH_PAGES * PAGE_BYTES];
        Self { number: 0, items: Vec::new(), first_page_number: 0, buffer, keys: Vec::new(), pages: 0 }
    }

    pub(super) fn page(&self, page: usize) -> &[u8] {
        &self.buffer[page * PAGE_BYTES..][..PAGE_BYTES]
    }

    fn hash(&mut self, hasher: &PageHasher) {
        let pages = self.buffer.chunks_exact(PAGE_BYTES).take(self.pages);
        self.keys.clear();
        self.keys.extend(pages.map(|page| (!is_zero(page)).then(|| hasher.key_of(page))));
    }
}

/// Compares in pieces that the compiler turns into vector instructions, and ends at the first that is not zero.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(64).all(|piece| piece.iter().fold(0, |seen, byte| seen | byte) == 0)
}

/// Work that hashing threads do for a batch besides hashing.
pub(super) type PerBatch<'a> = dyn FnMut(&Batch) -> Result<()> + Send + 'a;

/// Scans `source` once. Each of the hashing threads runs its own `workers` closure for the batches it hashed, in any order; `ordered` is
/// called in this thread for every batch, in order.
pub(super) fn scan(
    source: &mut dyn Source,
    hasher: &PageHasher,
    workers: Vec<Box<PerBatch<'_>>>,
    progress: &Progress,
    mut ordered: impl FnMut(&mut Batch) -> Result<()>,
) -> Result<()> {
    // Two per hashing thread, and some for the reader and for those that wait for their turn.
    let batches = workers.len() * 2 + 4;
    let (free_sender, free) = bounded(batches);
    for _ in 0..batches {
        let _ = free_sender.send(Batch::new());
    }
    let (read_sender, read) = bounded::<Batch>(batches);
    let (hashed_sender, hashed) = bounded::<Batch>(batches);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut sink = BatchSink::new(free, read_sender, progress);
            source.scan(&mut sink)?;
            sink.flush()
        });
        let hashers: Vec<_> = workers
            .into_iter()
            .map(|mut work| {
                let (read, hashed_sender) = (read.clone(), hashed_sender.clone());
                scope.spawn(move || {
                    for mut batch in &read {
                        progress.took(Step::Hash, read.len() > 1);
                        batch.hash(hasher);
                        work(&batch)?;
                        if hashed_sender.send(batch).is_err() {
                            break;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        drop((read, hashed_sender));

        let in_order = in_order(hashed, &free_sender, progress, &mut ordered);
        drop(free_sender);
        // The one that failed knows why; the others have only noticed that somebody is gone.
        let mut outcome = in_order;
        for thread in hashers.into_iter().chain([reader]) {
            let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if matches!(outcome, Ok(()) | Err(Error::Stopped)) && result.is_err() {
                outcome = result;
            }
        }
        outcome
    })
}

/// Hands batches on in order, and back to the reader.
fn in_order(
    hashed: Receiver<Batch>,
    free: &Sender<Batch>,
    progress: &Progress,
    ordered: &mut dyn FnMut(&mut Batch) -> Result<()>,
) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for batch in &hashed {
        progress.took(Step::Fill, hashed.len() > 1);
        early.insert(batch.number, batch);
        while let Some(mut batch) = early.remove(&next) {
            ordered(&mut batch)?;
            next += 1;
            // The reader may be done, and gone.
            let _ = free.send(batch);
        }
    }
    Ok(())
}

/// Cuts what a source hands over into pages and batches.
struct BatchSink<'a> {
    free: Receiver<Batch>,
    full: Sender<Batch>,
    progress: &'a Progress,
    current: Option<Batch>,
    batches: u64,
    pages: u64,
}

impl<'a> BatchSink<'a> {
    fn new(free: Receiver<Batch>, full: Sender<Batch>, progress: &'a Progress) -> Self {
        Self { free, full, progress, current: None, batches: 0, pages: 0 }
    }

    /// The batch to add to, with room for an item and a page.
    fn batch(&mut self) -> Result<&mut Batch> {
        if self.current.as_ref().is_some_and(|batch| batch.items.len() >= BATCH_ITEMS || batch.pages == BATCH_PAGES) {
            self.flush()?;
        }
        if self.current.is_none() {
            let mut batch = self.free.recv().map_err(|_| Error::Stopped)?;
            batch.number = self.batches;
            batch.first_page_number = self.pages;
            batch.items.clear();
            batch.pages = 0;
            self.batches += 1;
            self.current = Some(batch);
        }
        self.current.as_mut().ok_or(Error::Stopped)
    }

    fn flush(&mut self) -> Result<()> {
        match self.current.take() {
            Some(batch) => self.full.send(batch).map_err(|_| Error::Stopped),
            None => Ok(()),
        }
    }
}

impl PageSink for BatchSink<'_> {
    fn entry(&mut self, entry: Entry) -> Result<()> {
        self.batch()?.items.push(Item::Entry(Box::new(entry)));
        Ok(())
    }

    fn data(&mut self, target_offset: u64, length: u64, read: &mut ReadRun<'_>) -> Result<()> {
        let mut done = 0;
        while done < length {
            let batch = self.batch()?;
            let room = (BATCH_PAGES - batch.pages) * PAGE_BYTES;
            let piece = (length - done).min(room as u64);
            let (first_page, pages) = (batch.pages, pages_of(piece) as usize);
            let (filled, padding) = batch.buffer[first_page * PAGE_BYTES..][..pages * PAGE_BYTES].split_at_mut(piece as usize);
            read(filled)?;
            padding.fill(0);
            batch.items.push(Item::Data { target_offset: target_offset + done, length: piece, first_page });
            batch.pages += pages;
            self.pages += pages as u64;
            done += piece;
            self.progress.add(piece);
        }
        Ok(())
    }

    fn hole(&mut self, target_offset: u64, length: u64) -> Result<()> {
        self.batch()?.items.push(Item::Hole { target_offset, length });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_zero_only_when_all_its_bytes_are() {
        let mut page = [0; PAGE_BYTES];
        assert!(is_zero(&page));
        for at in [0, 63, 64, PAGE_BYTES - 1] {
            page[at] = 1;
            assert!(!is_zero(&page));
            page[at] = 0;
        }
    }
}
