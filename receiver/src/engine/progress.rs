//! What the threads of a receiver have done so far, for whoever displays it. Plain counters: a reader sees each of them a little
//! earlier or later than the others.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counters that all threads of one receiver share.
#[derive(Debug)]
pub struct Progress {
    /// Raw bytes of all chunks that are to come: 100 %.
    pub total_bytes: AtomicU64,
    /// Raw bytes of chunks that the target held already.
    pub resumed_bytes: AtomicU64,
    /// Those chunks.
    pub resumed_chunks: AtomicU64,
    /// Raw bytes of chunks that were verified.
    pub verified_bytes: AtomicU64,
    /// Raw bytes of chunks that are written to all their places.
    pub written_bytes: AtomicU64,
    /// Stored bytes of those chunks.
    pub written_stored_bytes: AtomicU64,
    /// Chunks that were verified.
    pub chunks_verified: AtomicU64,
    /// Chunks for which missing source symbols were decoded from repair symbols.
    pub chunks_decoded: AtomicU64,
    /// Chunks that failed their BLAKE3 and were wanted again.
    pub chunks_corrupt: AtomicU64,
    /// Chunks given up for want of memory, and wanted again.
    pub chunks_given_up: AtomicU64,
    /// Chunks that came by unicast.
    pub chunks_by_unicast: AtomicU64,
    /// Everything comes by unicast.
    pub by_unicast: AtomicBool,
    /// Packets of this session that passed by, wanted or not.
    pub packets_seen: AtomicU64,
    /// Packets that were let through.
    pub packets_accepted: AtomicU64,
    /// Packets that ended in the filter.
    pub packets_dropped: AtomicU64,
    /// Packets that were let through and had a wrong CRC.
    pub packets_damaged: AtomicU64,
    /// Packets that were let through and that this program did not fetch in time.
    pub packets_overrun: AtomicU64,
    /// Packets that the streams' sequence numbers say were sent, while this receiver listened.
    pub stream_packets_sent: AtomicU64,
    /// Those of them that were seen.
    pub stream_packets_seen: AtomicU64,
    started: Instant,
    first_data: OnceLock<Instant>,
    last_data: OnceLock<Instant>,
    finished: OnceLock<Instant>,
}

impl Progress {
    /// Nothing done yet, of `total_bytes`.
    pub fn new(total_bytes: u64) -> Progress {
        Progress {
            total_bytes: AtomicU64::new(total_bytes),
            resumed_bytes: AtomicU64::new(0),
            resumed_chunks: AtomicU64::new(0),
            verified_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            written_stored_bytes: AtomicU64::new(0),
            chunks_verified: AtomicU64::new(0),
            chunks_decoded: AtomicU64::new(0),
            chunks_corrupt: AtomicU64::new(0),
            chunks_given_up: AtomicU64::new(0),
            chunks_by_unicast: AtomicU64::new(0),
            by_unicast: AtomicBool::new(false),
            packets_seen: AtomicU64::new(0),
            packets_accepted: AtomicU64::new(0),
            packets_dropped: AtomicU64::new(0),
            packets_damaged: AtomicU64::new(0),
            packets_overrun: AtomicU64::new(0),
            stream_packets_sent: AtomicU64::new(0),
            stream_packets_seen: AtomicU64::new(0),
            started: Instant::now(),
            first_data: OnceLock::new(),
            last_data: OnceLock::new(),
            finished: OnceLock::new(),
        }
    }

    /// Some of the image's chunks are at the target already and need not come.
    pub fn note_resumed(&self, chunks: usize, raw_bytes: u64) {
        self.resumed_chunks.store(chunks as u64, Ordering::Relaxed);
        self.resumed_bytes.store(raw_bytes, Ordering::Relaxed);
        self.total_bytes.fetch_sub(raw_bytes, Ordering::Relaxed);
    }

    pub(super) fn note_first_data(&self) {
        self.first_data.get_or_init(Instant::now);
    }

    pub(super) fn note_last_data(&self) {
        self.last_data.get_or_init(Instant::now);
    }

    pub(super) fn note_finished(&self) {
        self.finished.get_or_init(Instant::now);
    }

    /// How long the receiver waited for the first symbol, or has been waiting.
    pub fn waited(&self) -> Duration {
        self.first_data.get().map_or_else(|| self.started.elapsed(), |first| first.duration_since(self.started))
    }

    /// From the first symbol to the flushed target, or until now.
    pub fn elapsed(&self) -> Duration {
        let end = self.finished.get().copied().unwrap_or_else(Instant::now);
        self.first_data.get().map_or(Duration::ZERO, |first| end.duration_since(*first))
    }

    /// Whether data has begun to come.
    pub fn has_data(&self) -> bool {
        self.first_data.get().is_some()
    }

    /// Whether all data is verified, and what remains is writing and flushing.
    pub fn has_all_data(&self) -> bool {
        self.last_data.get().is_some()
    }

    /// The share of packets sent that did not arrive, 0 to 1.
    pub fn loss(&self) -> f64 {
        let sent = self.stream_packets_sent.load(Ordering::Relaxed);
        let seen = self.stream_packets_seen.load(Ordering::Relaxed);
        if sent == 0 { 0.0 } else { sent.saturating_sub(seen) as f64 / sent as f64 }
    }
}
