//! One packet after the other into the buffers of chunks in assembly, and whole chunks on to the finisher.

use std::sync::atomic::Ordering;

use bpf::WantSet;
use crossbeam_channel::Sender;
use image::restore::{Buffer, BufferPool, RunningHash};
use wire::packet::{Header, Kind};
use wire::session::SessionParameters;
use wire::{ChunkId, SessionId, StreamId, SymbolIndex};

use super::Progress;
use super::finish::{Assembled, Verdict};
use super::tally::Tally;
use crate::assemble::{Assembler, EntryIndex, Placement};
use crate::intake::PacketFilter;

/// What became of a chunk that was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Supply {
    /// The finisher has it.
    Taken,
    /// It is here already.
    NotWanted,
    /// It is not what the manifest promises.
    WrongLength,
    /// There is no buffer now.
    NoRoom,
}

/// The hash of a chunk in assembly, as far as its source symbols came in order.
#[derive(Default)]
struct Ahead {
    hash: RunningHash,
    /// The source symbol that comes next. Once one is lost it does not come, and the rest is hashed when the chunk is whole.
    next: u16,
}

/// The assembler with the memory that it decides over.
pub(super) struct Collector {
    pub(super) assembler: Assembler,
    /// By entry: the buffer of the chunk in assembly.
    buffers: Vec<Option<Buffer>>,
    /// By entry; empty when chunks are hashed by others.
    ahead: Vec<Ahead>,
    in_assembly: usize,
    buffer_count: usize,
    pool: BufferPool,
    wants: WantSet,
    symbol_bytes: usize,
    assembled: Sender<Assembled>,
    session: SessionId,
    tally: Tally,
    /// Packets with a wrong CRC.
    damaged: u64,
    given_up: u64,
    /// Whether a symbol was stored yet.
    has_data: bool,
}

impl Collector {
    /// `hashes`: chunks are hashed here, while they come.
    pub(super) fn new(
        assembler: Assembler,
        buffer_count: usize,
        hashes: bool,
        pool: BufferPool,
        wants: WantSet,
        parameters: &SessionParameters,
        assembled: Sender<Assembled>,
    ) -> Collector {
        Collector {
            assembler,
            buffers: (0..buffer_count).map(|_| None).collect(),
            ahead: (0..if hashes { buffer_count } else { 0 }).map(|_| Ahead::default()).collect(),
            in_assembly: 0,
            buffer_count,
            pool,
            wants,
            symbol_bytes: parameters.symbol_bytes.into(),
            session: parameters.session,
            assembled,
            tally: Tally::new(),
            damaged: 0,
            given_up: 0,
            has_data: false,
        }
    }

    /// Takes one UDP payload that got through the filter, which knows what did not.
    #[inline]
    pub(super) fn packet(&mut self, payload: &[u8], filter: &PacketFilter) {
        let Ok((header, symbol)) = Header::parse(payload) else {
            self.damaged += 1;
            return;
        };
        let is_ours = header.session == self.session;
        match header.kind {
            Kind::Symbol => {
                if is_ours {
                    self.tally.packet(header.stream);
                }
                self.symbol(&header, symbol);
            }
            Kind::Sync => {
                if is_ours {
                    self.tally.sync(header.stream, header.sequence, filter.mark(header.stream));
                }
                self.assembler.on_sync(&header);
            }
        }
    }

    fn symbol(&mut self, header: &Header, symbol: &[u8]) {
        let placement = self.assembler.on_symbol(header, symbol.len());
        self.store(placement, symbol);
    }

    /// Takes one symbol to where it is to go.
    #[inline]
    fn store(&mut self, placement: Placement, symbol: &[u8]) {
        let Placement::Store { entry, cell, opens, evicted, completes } = placement else { return };
        self.given_up += u64::from(evicted.is_some());
        if opens && !self.open(entry) {
            return;
        }
        let at = usize::from(cell) * self.symbol_bytes;
        let slot = &mut self.buffers[entry.0];
        if let Some(cell) = slot.as_mut().and_then(|buffer| buffer.get_mut(at..at + self.symbol_bytes)) {
            // `admits` has compared the lengths.
            cell.copy_from_slice(symbol);
        }
        self.has_data = true;
        if let Some(ahead) = self.ahead.get_mut(entry.0) {
            if opens || evicted.is_some() {
                ahead.hash.reset();
                ahead.next = 0;
            }
            if cell == ahead.next {
                ahead.next += 1;
                // The last source symbol is padded: what it belongs to is hashed when the chunk is whole.
                if let (false, Some(buffer)) = (completes, slot.as_ref()) {
                    ahead.hash.extend(&buffer[..at + self.symbol_bytes]);
                }
            }
        }
        if completes {
            let (completed, buffer) = (self.assembler.complete(entry), self.buffers[entry.0].take());
            let hash = self.ahead.get(entry.0).map_or_else(RunningHash::new, |ahead| ahead.hash.clone());
            if let (Some(completed), Some(buffer)) = (completed, buffer) {
                // From here on its packets end in the filter.
                self.wants.clear(completed.chunk.0);
                self.in_assembly -= 1;
                // Fails only when the finisher has failed, which `Collector`'s owner learns from the verdicts' channel. There is
                // room for as many chunks as there are buffers, so it never waits.
                let _ = self.assembled.send(Assembled { completed, buffer, hash });
            }
        }
    }

    /// Takes symbols of a chunk in assembly that were fetched. Whether that made it whole, so that the finisher has it.
    pub(super) fn supply_symbols(&mut self, chunk: ChunkId, symbols: &[SymbolIndex], bytes: &[u8]) -> bool {
        if bytes.len() != symbols.len() * self.symbol_bytes || !self.assembler.is_open(chunk) {
            return false;
        }
        for (&symbol, bytes) in symbols.iter().zip(bytes.chunks_exact(self.symbol_bytes)) {
            let placement = self.assembler.on_fetched_symbol(chunk, symbol);
            self.store(placement, bytes);
        }
        self.assembler.wants(chunk).is_none()
    }

    /// Takes a whole chunk that was fetched.
    pub(super) fn supply(&mut self, chunk: ChunkId, stored: &[u8]) -> Supply {
        let Some(stored_bytes) = self.assembler.wants(chunk) else { return Supply::NotWanted };
        if stored.len() != stored_bytes as usize {
            return Supply::WrongLength;
        }
        if !self.assembler.is_open(chunk) && self.pool.available() == 0 && !self.make_room() {
            return Supply::NoRoom;
        }
        let Some((completed, entry)) = self.assembler.supply(chunk) else { return Supply::NotWanted };
        let in_assembly = entry.and_then(|entry| self.buffers[entry.0].take());
        self.in_assembly -= usize::from(in_assembly.is_some());
        // This thread alone takes from the pool, and there was one.
        let Some(mut buffer) = in_assembly.or_else(|| self.pool.take()) else { return Supply::NoRoom };
        match buffer.get_mut(..stored.len()) {
            Some(room) => room.copy_from_slice(stored),
            None => return Supply::WrongLength,
        }
        self.wants.clear(chunk.0);
        self.has_data = true;
        // See `symbol`.
        let _ = self.assembled.send(Assembled { completed, buffer, hash: RunningHash::new() });
        Supply::Taken
    }

    /// Gives up a chunk in assembly for the sake of one that is here whole. Not when it is the disk that has the buffers: they come back.
    fn make_room(&mut self) -> bool {
        if self.waiting() > self.buffer_count / 2 {
            return false;
        }
        let Some(entry) = self.assembler.make_room() else { return false };
        self.in_assembly -= usize::from(self.buffers[entry.0].take().is_some());
        self.given_up += 1;
        true
    }

    /// Gives a new entry a buffer. When all are with the finisher, the chunk is given up for now; it stays wanted.
    fn open(&mut self, entry: EntryIndex) -> bool {
        match self.pool.take() {
            Some(buffer) => {
                self.buffers[entry.0] = Some(buffer);
                self.in_assembly += 1;
                true
            }
            None => {
                self.assembler.refuse(entry);
                self.given_up += 1;
                false
            }
        }
    }

    /// Passes the finisher's verdict on.
    pub(super) fn judge(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Verified(chunk) => self.assembler.verified(chunk),
            Verdict::Corrupt(chunk) => {
                self.assembler.corrupt(chunk);
                self.wants.set(chunk.0);
            }
        }
    }

    /// Lets packets of `chunks` through, and syncs.
    pub(super) fn want(&self, chunks: impl Iterator<Item = ChunkId>, chunk_count: u32) {
        for chunk in chunks {
            self.wants.set(chunk.0);
        }
        self.wants.set(chunk_count);
    }

    /// Chunks that the finisher has, as a share of all buffers, in thousandths.
    pub(super) fn backlog_permille(&self) -> u16 {
        let waiting = self.waiting();
        u16::try_from(waiting * 1000 / self.buffer_count.max(1)).unwrap_or(1000)
    }

    /// Buffers that the finisher has.
    pub(super) fn waiting(&self) -> usize {
        self.buffer_count.saturating_sub(self.pool.available() + self.in_assembly)
    }

    /// Packets of this session that were seen before the last syncs of its streams, if that is news; see [`Tally`].
    pub(super) fn take_synced(&mut self) -> Option<u64> {
        self.tally.take()
    }

    /// These streams are followed from now on.
    pub(super) fn listen_to(&mut self, streams: &[StreamId]) {
        self.tally.follow(streams);
        self.assembler.listen_to(streams);
    }

    pub(super) fn has_data(&self) -> bool {
        self.has_data
    }

    /// Adds its own counts to the shared ones.
    pub(super) fn publish(&self, progress: &Progress) {
        progress.packets_damaged.store(self.damaged, Ordering::Relaxed);
        progress.chunks_given_up.store(self.given_up, Ordering::Relaxed);
    }
}
