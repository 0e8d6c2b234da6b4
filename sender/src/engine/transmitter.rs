//! The transmitter thread of one stream: sends jobs at the stream's rate.

use super::Error;
use super::job::Job;
use super::pace::Pacer;
use crate::transmit::{LINK_OVERHEAD_BYTES, Packet, Transmit, frame_bytes};
use crossbeam_channel::Receiver;
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::{Timespec, clock_gettime};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wire::session::SessionParameters;

/// Packets between two looks at the clock at full rate. With the catch-up of as many, at most 64 packets leave back to back, which
/// the shallowest switch buffers and a 256-slot ring take.
const BATCH_PACKETS_MAX: usize = 32;
/// At low rates a batch is what fits this time, so that packets stay evenly spread.
const BATCH_DURATION: Duration = Duration::from_micros(100);
/// A link that takes nothing for this long is worth a word to the operator.
const STALL_WARNING: Duration = Duration::from_secs(1);

/// What a stream's transmitter shares with the rest.
#[derive(Debug, Default)]
pub(super) struct StreamState {
    /// The rate to keep, set by the dispatcher.
    pub rate_bits_per_second: AtomicU64,
    /// Packets that were handed to the kernel.
    pub packets: AtomicU64,
    /// Bytes of their frames.
    pub frame_bytes: AtomicU64,
    /// Whether the link takes nothing at present.
    pub stalled: AtomicBool,
}

/// A transmitter, owned by its thread.
pub(super) struct Transmitter {
    pub(super) transmit: Box<dyn Transmit>,
    pub(super) parameters: SessionParameters,
    pub(super) group: IpAddr,
    pub(super) state: Arc<StreamState>,
    pub(super) stop: Arc<AtomicBool>,
    /// Waits shorter than this are spun: a sleep costs more than that to wake up from. Zero where other threads need the core.
    pub(super) spin_below: Duration,
}

impl Transmitter {
    /// Works until the reader hangs up or it is told to stop. Calls `done` after each job; false from it ends the work.
    ///
    /// # Errors
    /// When the kernel refuses for good.
    pub(super) fn run(&mut self, jobs: &Receiver<Job>, done: impl Fn() -> bool) -> Result<(), Error> {
        // The default slack of 50 µs would double the length of a batch. A kernel that refuses costs precision only.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let parameters = self.parameters;
        let full_bytes = frame_bytes(self.group, self.parameters.payload_bytes()) + LINK_OVERHEAD_BYTES;
        let mut pacer = Pacer::new(self.rate(), BATCH_PACKETS_MAX * full_bytes);
        for job in jobs {
            let mut packets = job.packets(&parameters);
            let mut batch: Vec<Packet<'_>> = Vec::with_capacity(BATCH_PACKETS_MAX);
            loop {
                let rate = self.rate();
                batch.clear();
                batch.extend(packets.by_ref().take(batch_packets(rate, full_bytes)));
                if batch.is_empty() {
                    break;
                }
                let frames = batch.iter().map(|packet| frame_bytes(self.group, packet.payload_bytes()));
                let sent_bytes: usize = frames.sum();
                pacer.set_rate(rate);
                let start_ns = pacer.book(now_ns(), sent_bytes + batch.len() * LINK_OVERHEAD_BYTES);
                self.wait_until(start_ns);
                if self.stop.load(Ordering::Relaxed) || !self.send(&batch)? {
                    return Ok(());
                }
                self.state.packets.fetch_add(batch.len() as u64, Ordering::Relaxed);
                self.state.frame_bytes.fetch_add(sent_bytes as u64, Ordering::Relaxed);
            }
            drop(packets);
            // Gives its chunks back before the next group is asked for.
            drop(job);
            if !done() {
                break;
            }
        }
        Ok(())
    }

    /// Sends a batch, however long the link stalls. False when told to stop meanwhile.
    fn send(&mut self, batch: &[Packet<'_>]) -> Result<bool, Error> {
        let mut sent = 0;
        let mut stalled_since: Option<Instant> = None;
        loop {
            let count = self.transmit.send(&batch[sent..]).map_err(Error::Transmit)?;
            sent += count;
            if sent >= batch.len() {
                if self.state.stalled.swap(false, Ordering::Relaxed) {
                    tracing::warn!("the link takes packets again");
                }
                return Ok(true);
            }
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if count > 0 {
                stalled_since = None;
            }
            let since = stalled_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= STALL_WARNING && !self.state.stalled.swap(true, Ordering::Relaxed) {
                tracing::warn!("the link takes no packets; is the cable in, the interface up? Waiting for it");
            }
        }
    }

    fn rate(&self) -> u64 {
        self.state.rate_bits_per_second.load(Ordering::Relaxed)
    }

    fn wait_until(&self, start_ns: u64) {
        let left_ns = start_ns.saturating_sub(now_ns());
        if left_ns == 0 {
            return;
        }
        if Duration::from_nanos(left_ns) > self.spin_below {
            let request = Timespec { tv_sec: (start_ns / 1_000_000_000) as i64, tv_nsec: (start_ns % 1_000_000_000) as i64 };
            // A signal that ends it early makes a batch early by that much.
            let _ = clock_nanosleep_absolute(ClockId::Monotonic, &request);
        } else {
            while now_ns() < start_ns {
                std::hint::spin_loop();
            }
        }
    }
}

/// Packets of a batch at `bits_per_second`: what fits [`BATCH_DURATION`], within limits.
fn batch_packets(bits_per_second: u64, frame_bytes: usize) -> usize {
    let bits = u128::from(bits_per_second) * BATCH_DURATION.as_nanos() / 1_000_000_000;
    let packets = bits / (frame_bytes as u128 * 8).max(1);
    usize::try_from(packets).unwrap_or(BATCH_PACKETS_MAX).clamp(1, BATCH_PACKETS_MAX)
}

fn now_ns() -> u64 {
    let now = clock_gettime(rustix::time::ClockId::Monotonic);
    // Since boot: neither part is negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_the_rate_within_their_limits() {
        assert_eq!(batch_packets(10_000_000_000, 1500), 32);
        assert_eq!(batch_packets(1_000_000_000, 1500), 8);
        assert_eq!(batch_packets(1_000_000, 1500), 1);
        assert_eq!(batch_packets(0, 1500), 1);
    }
}
