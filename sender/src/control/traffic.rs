//! What has been sent, counted by the engine and read by the operator's pages.

use serde::Serialize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Running totals, shared between the engine (which stores) and the control server (which reads). Each figure stands alone: a
/// reader may see one newer than another.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Symbols multicast, repairs included.
    pub symbols_sent: AtomicU64,
    /// Source symbols of the chunks that were in demand, each counted once.
    pub symbols_needed: AtomicU64,
    /// Sync packets multicast.
    pub syncs_sent: AtomicU64,
    /// Bytes of frames multicast, all headers included.
    pub wire_bytes_sent: AtomicU64,
    /// Rate that the streams are paced to now, summed.
    pub rate_bits_per_second: AtomicU64,
    /// How it is sent, said once.
    pub transmit: OnceLock<TransmitStatus>,
}

/// How packets leave the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TransmitStatus {
    /// The name of a [`Mode`](crate::transmit::Mode), at the start; of several, joined by `+`, where transmitters have different ones.
    pub mode: String,
    /// The lines at start.
    pub description: String,
    /// Each transmitter.
    pub transmitters: Vec<TransmitterStatus>,
}

/// How the packets of one transmitter leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TransmitterStatus {
    /// The card's queue; none where the kernel chooses it.
    pub queue: Option<u32>,
    /// The name of a [`Mode`](crate::transmit::Mode), at the start.
    pub mode: &'static str,
}

/// [`Traffic`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrafficSnapshot {
    /// Symbols multicast, repairs included.
    pub symbols_sent: u64,
    /// Source symbols of the chunks that were in demand, each counted once.
    pub symbols_needed: u64,
    /// Sync packets multicast.
    pub syncs_sent: u64,
    /// Bytes of frames multicast, all headers included.
    pub wire_bytes_sent: u64,
    /// Rate that the streams are paced to now, summed.
    pub rate_bits_per_second: u64,
    /// How it is sent, once that is known.
    pub transmit: Option<TransmitStatus>,
}

impl Traffic {
    /// All figures as they are now.
    pub fn snapshot(&self) -> TrafficSnapshot {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        TrafficSnapshot {
            symbols_sent: read(&self.symbols_sent),
            symbols_needed: read(&self.symbols_needed),
            syncs_sent: read(&self.syncs_sent),
            wire_bytes_sent: read(&self.wire_bytes_sent),
            rate_bits_per_second: read(&self.rate_bits_per_second),
            transmit: self.transmit.get().cloned(),
        }
    }
}
