//! Chunks of the pack in memory, least recently used first to go, so that repairs shortly after a chunk was sent need no second read.

use image::restore::{Buffer, BufferPool};
use lru::LruCache;
use std::sync::Arc;
use wire::{Checksums, ChunkId, Symbol, SymbolIndex};

/// The source symbols of one chunk.
pub(super) struct Chunk {
    buffer: Buffer,
    /// Of each source symbol: made when the chunk has just been read and looked at, used however often its symbols are sent.
    checksums: Vec<Checksums>,
    source_symbols: u16,
    symbol_bytes: usize,
}

impl Chunk {
    /// Takes a buffer with `stored_bytes` of the chunk at its start and pads its last symbol with zeros. None when the buffer cannot
    /// hold that many symbols.
    pub(super) fn new(
        mut buffer: Buffer,
        stored_bytes: usize,
        source_symbols: u16,
        symbol_bytes: usize,
        checksums: fn(&[u8]) -> Checksums,
    ) -> Option<Chunk> {
        let source_bytes = usize::from(source_symbols) * symbol_bytes;
        buffer.get_mut(stored_bytes..source_bytes)?.fill(0);
        let checksums = buffer[..source_bytes].chunks_exact(symbol_bytes).map(checksums).collect();
        Some(Chunk { buffer, checksums, source_symbols, symbol_bytes })
    }

    /// K.
    pub(super) fn source_symbols(&self) -> u16 {
        self.source_symbols
    }

    /// All source symbols.
    pub(super) fn sources(&self) -> &[u8] {
        &self.buffer[..usize::from(self.source_symbols) * self.symbol_bytes]
    }

    /// One source symbol; None when the chunk has none of that index.
    pub(super) fn source(&self, index: SymbolIndex) -> Option<Symbol<'_>> {
        let bytes = self.sources().chunks_exact(self.symbol_bytes).nth(index.0.into())?;
        Some(Symbol::with_checksums(bytes, *self.checksums.get(usize::from(index.0))?))
    }
}

/// A bounded set of chunks. The bound is the number of buffers in the pool: a buffer is taken from the chunk that has not been
/// asked for longest and that nobody is sending.
pub(super) struct Cache {
    pool: BufferPool,
    chunks: LruCache<ChunkId, Arc<Chunk>>,
}

impl Cache {
    /// An empty cache over `pool`.
    pub(super) fn new(pool: BufferPool) -> Cache {
        Cache { pool, chunks: LruCache::unbounded() }
    }

    /// The chunk, when it is there.
    pub(super) fn get(&mut self, id: ChunkId) -> Option<Arc<Chunk>> {
        self.chunks.get(&id).map(Arc::clone)
    }

    /// Keeps a chunk.
    pub(super) fn insert(&mut self, id: ChunkId, chunk: Arc<Chunk>) {
        self.chunks.put(id, chunk);
    }

    /// Forgets a chunk, so that it is read again.
    pub(super) fn remove(&mut self, id: ChunkId) {
        self.chunks.pop(&id);
    }

    /// A buffer to read another chunk into; None while all are in use.
    pub(super) fn buffer(&mut self) -> Option<Buffer> {
        if let Some(buffer) = self.pool.take() {
            return Some(buffer);
        }
        let oldest = self.chunks.iter().rev().find(|(_, chunk)| Arc::strong_count(chunk) == 1).map(|(&id, _)| id)?;
        self.chunks.pop(&oldest);
        self.pool.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(cache: &mut Cache, id: u32) -> Option<Arc<Chunk>> {
        let mut buffer = cache.buffer()?;
        buffer.fill(id as u8);
        let chunk = Arc::new(Chunk::new(buffer, 100, 2, 64, Checksums::for_ipv4).unwrap());
        cache.insert(ChunkId(id), Arc::clone(&chunk));
        Some(chunk)
    }

    #[test]
    fn the_last_symbol_is_padded_with_zeros() {
        let mut cache = Cache::new(BufferPool::new(1, 4096).unwrap());
        let chunk = load(&mut cache, 7).unwrap();
        assert_eq!(chunk.source(SymbolIndex(0)), Some(Symbol::new(&[7; 64])));
        assert_eq!(chunk.source(SymbolIndex(1)), Some(Symbol::new(&[&[7; 36][..], &[0; 28]].concat())));
        assert_eq!(chunk.source(SymbolIndex(2)), None);
    }

    #[test]
    fn more_symbols_than_the_buffer_holds_are_refused() {
        let pool = BufferPool::new(1, 4096).unwrap();
        assert!(Chunk::new(pool.take().unwrap(), 4096, 65, 64, Checksums::for_ipv4).is_none());
        assert!(Chunk::new(pool.take().unwrap(), 4097, 2, 64, Checksums::for_ipv4).is_none());
    }

    #[test]
    fn the_least_recently_used_chunk_goes_first() {
        let mut cache = Cache::new(BufferPool::new(2, 4096).unwrap());
        load(&mut cache, 1);
        load(&mut cache, 2);
        assert!(cache.get(ChunkId(1)).is_some());
        load(&mut cache, 3);
        assert!(cache.get(ChunkId(2)).is_none());
        assert!(cache.get(ChunkId(1)).is_some() && cache.get(ChunkId(3)).is_some());
    }

    #[test]
    fn a_chunk_that_is_being_sent_stays() {
        let mut cache = Cache::new(BufferPool::new(1, 4096).unwrap());
        let sending = load(&mut cache, 1).unwrap();
        assert!(load(&mut cache, 2).is_none());
        drop(sending);
        assert!(load(&mut cache, 2).is_some());
    }
}
