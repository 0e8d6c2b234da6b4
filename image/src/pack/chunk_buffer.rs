//! Buffers for chunks: aligned, so that they can be written with O_DIRECT, and used again, since memory that is touched for the first time costs more
//! than what is done in it.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use super::format::ALIGN_BYTES;
use crate::units::round_up;

/// The most buffers that wait: about as many as are in the queues of a machine with many cores.
const BUFFERS_MAX: usize = 64;

/// Bytes that begin at a multiple of 4096 in memory. Its capacity is fixed.
pub(super) struct ChunkBuffer {
    /// Never grows, so that its bytes stay where they are.
    memory: Vec<u8>,
    /// Where the first multiple of 4096 is.
    start: usize,
    length: usize,
}

impl ChunkBuffer {
    fn new(capacity: usize) -> Self {
        let capacity = round_up(capacity as u64, ALIGN_BYTES as u64) as usize;
        let memory = vec![0; capacity + ALIGN_BYTES];
        // Less than that; should it not be, writes are not aligned, which the writer copes with.
        let start = memory.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
        Self { memory, start, length: 0 }
    }

    fn capacity(&self) -> usize {
        self.memory.len() - ALIGN_BYTES
    }

    /// Appends bytes, as many as there is room for.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let length = bytes.len().min(self.capacity() - self.length);
        self.memory[self.start + self.length..][..length].copy_from_slice(&bytes[..length]);
        self.length += length;
    }

    /// Lets `fill` write over the whole capacity and return how many bytes there are then.
    pub(super) fn fill<E>(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        let capacity = self.capacity();
        self.length = fill(&mut self.memory[self.start..][..capacity])?.min(capacity);
        Ok(())
    }

    /// Appends zeros up to a multiple of 4096.
    pub(super) fn pad(&mut self) {
        let padded = round_up(self.length as u64, ALIGN_BYTES as u64) as usize;
        self.memory[self.start..][self.length..padded].fill(0);
        self.length = padded;
    }
}

impl Deref for ChunkBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..][..self.length]
    }
}

/// Buffers for full chunks that are done with.
pub(super) struct Spare {
    chunk_bytes: usize,
    buffers: Mutex<Vec<ChunkBuffer>>,
}

impl Spare {
    /// For chunks of at most `chunk_bytes`.
    pub(super) fn new(chunk_bytes: usize) -> Self {
        Self { chunk_bytes, buffers: Mutex::default() }
    }

    /// An empty buffer for `bytes`: for a full chunk one that was given back, if there is one. Those of less than a full chunk are as small as they
    /// can be, since there may be many small segments.
    pub(super) fn take(&self, bytes: usize) -> ChunkBuffer {
        let spare = if bytes < self.chunk_bytes { None } else { self.lock().pop() };
        spare.unwrap_or_else(|| ChunkBuffer::new(bytes))
    }

    /// Keeps a buffer, or drops it when it is small or there are enough.
    pub(super) fn give_back(&self, mut buffer: ChunkBuffer) {
        buffer.length = 0;
        let mut spare = self.lock();
        if buffer.capacity() >= self.chunk_bytes && spare.len() < BUFFERS_MAX {
            spare.push(buffer);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ChunkBuffer>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_aligned_and_padded_with_zeros() {
        let spare = Spare::new(8192);
        let mut buffer = spare.take(8192);
        buffer.append(&[1; 8192]);
        assert_eq!(buffer.as_ptr() as usize % ALIGN_BYTES, 0);
        assert_eq!(buffer.len(), 8192);
        spare.give_back(buffer);
        let mut again = spare.take(8192);
        assert!(again.is_empty());
        again.append(&[2; 100]);
        again.pad();
        assert_eq!((again.len(), &again[..100], &again[100..]), (4096, &[2; 100][..], &[0; 3996][..]));
    }

    #[test]
    fn there_is_no_more_in_a_buffer_than_it_holds() {
        let mut buffer = Spare::new(8192).take(4096);
        buffer.append(&[1; 5000]);
        assert_eq!(buffer.len(), 4096);
        buffer.fill(|room| Ok::<_, ()>(room.len() + 1)).unwrap();
        assert_eq!(buffer.len(), 4096);
    }
}
