//! A transmitter thread: sends the jobs of its streams, each at that stream's rate, through one way onto the network.

use super::Error;
use super::job::Job;
use super::pace::Pacer;
use crate::transmit::{LINK_OVERHEAD_BYTES, Packet, Transmit, frame_bytes};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::{Timespec, clock_gettime};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wire::packet::{Header, Kind};
use wire::session::SessionParameters;
use wire::{Sequence, StreamId, Symbol};

/// Packets between two looks at the clock at full rate. With the catch-up of as many, at most 64 packets leave back to back, which
/// the shallowest switch buffers and a 256-slot ring take.
const BATCH_PACKETS_MAX: usize = 32;
/// At low rates a batch is what fits this time, so that packets stay evenly spread.
const BATCH_DURATION: Duration = Duration::from_micros(100);
/// How soon a stream that waits for its turn at a low rate sees that the rate is another one, and that the run is over.
const WAIT_NS_MAX: u64 = 10_000_000;
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

/// One stream as the transmitter sees it.
pub(super) struct Line {
    /// Among all streams of the run.
    pub(super) position: usize,
    pub(super) id: StreamId,
    pub(super) state: Arc<StreamState>,
}

/// A transmitter, owned by its thread.
pub(super) struct Transmitter {
    pub(super) transmit: Box<dyn Transmit>,
    pub(super) parameters: SessionParameters,
    /// Any of the groups: they are of one family.
    pub(super) group: IpAddr,
    /// The streams that leave here.
    pub(super) lines: Vec<Line>,
    pub(super) stop: Arc<AtomicBool>,
    /// Waits shorter than this are spun: a sleep costs more than that to wake up from. Zero where other threads need the core.
    pub(super) spin_below: Duration,
}

/// What waits to be sent on one stream.
struct Waiting {
    pacer: Pacer,
    jobs: VecDeque<Job>,
    /// Packets of the first job that have left.
    sent: usize,
}

impl Transmitter {
    /// Works until the reader hangs up or it is told to stop. Calls `done` with the position of the stream among all after each job; false
    /// from it ends the work.
    ///
    /// # Errors
    /// When the kernel refuses for good.
    pub(super) fn run(&mut self, jobs: &Receiver<Job>, done: impl Fn(usize) -> bool) -> Result<(), Error> {
        // The default slack of 50 µs would double the length of a batch. A kernel that refuses costs precision only.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let parameters = self.parameters;
        let full_bytes = frame_bytes(self.group, parameters.payload_bytes()) + LINK_OVERHEAD_BYTES;
        let pacer = |line: &Line| Pacer::new(line.rate(), BATCH_PACKETS_MAX * full_bytes);
        let mut waiting: Vec<Waiting> =
            self.lines.iter().map(|line| Waiting { pacer: pacer(line), jobs: VecDeque::new(), sent: 0 }).collect();
        loop {
            for job in jobs.try_iter() {
                self.enqueue(&mut waiting, job);
            }
            let Some((line, start_ns)) = self.next(&mut waiting) else {
                let Ok(job) = jobs.recv() else { return Ok(()) };
                self.enqueue(&mut waiting, job);
                continue;
            };
            if !self.wait_until(start_ns, jobs, &mut waiting) {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                continue;
            }
            let Waiting { pacer, jobs: queue, sent } = &mut waiting[line];
            let Some(job) = queue.front() else { continue };
            let most = batch_packets(self.lines[line].rate(), full_bytes);
            let filler = Packet { header: Header::sync(parameters.session, 0, job.stream(), Sequence(0)), symbol: Symbol::empty() };
            let mut batch = [filler; BATCH_PACKETS_MAX];
            let mut count = 0;
            let mut sent_bytes = 0;
            let mut is_over = false;
            while count < most {
                let Some(packet) = job.packet(*sent + count, &parameters) else {
                    is_over = true;
                    break;
                };
                // A full queue drops the end of what comes at once: nobody would report if that were always the sync.
                if packet.header.kind == Kind::Sync && count > 0 {
                    break;
                }
                sent_bytes += frame_bytes(self.group, packet.payload_bytes());
                batch[count] = packet;
                count += 1;
            }
            if count > 0 {
                pacer.book(now_ns(), sent_bytes + count * LINK_OVERHEAD_BYTES);
                if self.stop.load(Ordering::Relaxed) || !self.send(line, &batch[..count])? {
                    return Ok(());
                }
                *sent += count;
                let state = &self.lines[line].state;
                state.packets.fetch_add(count as u64, Ordering::Relaxed);
                state.frame_bytes.fetch_add(sent_bytes as u64, Ordering::Relaxed);
            }
            if is_over {
                // Gives its chunks back before the next group is asked for.
                queue.pop_front();
                *sent = 0;
                if !done(self.lines[line].position) {
                    return Ok(());
                }
            }
        }
    }

    fn enqueue(&self, waiting: &mut [Waiting], job: Job) {
        let stream = job.stream();
        // The reader sends it nothing of other streams.
        if let Some(line) = self.lines.iter().position(|line| line.id == stream) {
            waiting[line].jobs.push_back(job);
        }
    }

    /// The stream whose next packets may leave first, and when.
    fn next(&self, waiting: &mut [Waiting]) -> Option<(usize, u64)> {
        let now_ns = now_ns();
        let of_line = |(position, (line, waiting)): (usize, (&Line, &mut Waiting))| {
            waiting.pacer.set_rate(now_ns, line.rate());
            (!waiting.jobs.is_empty()).then(|| (position, waiting.pacer.starts_ns(now_ns)))
        };
        self.lines.iter().zip(waiting).enumerate().filter_map(of_line).min_by_key(|&(_, start_ns)| start_ns)
    }

    /// Sends a batch, however long the link stalls. False when told to stop meanwhile.
    fn send(&mut self, line: usize, batch: &[Packet<'_>]) -> Result<bool, Error> {
        let state = &self.lines[line].state;
        let mut sent = 0;
        let mut stalled_since: Option<Instant> = None;
        loop {
            let count = self.transmit.send(&batch[sent..]).map_err(Error::Transmit)?;
            sent += count;
            if sent >= batch.len() {
                if state.stalled.swap(false, Ordering::Relaxed) {
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
            if since.elapsed() >= STALL_WARNING && !state.stalled.swap(true, Ordering::Relaxed) {
                tracing::warn!("the link takes no packets; is the cable in, the interface up? Waiting for it");
            }
        }
    }

    /// Waits until `start_ns`, or a while. False when that is not over: a job came meanwhile, which may have to leave before, or it is time to look whether
    /// the rate is another one, and whether to stop.
    fn wait_until(&self, start_ns: u64, jobs: &Receiver<Job>, waiting: &mut [Waiting]) -> bool {
        let now_ns = now_ns();
        let left_ns = start_ns.saturating_sub(now_ns);
        if left_ns == 0 {
            return true;
        }
        let end_ns = start_ns.min(now_ns.saturating_add(WAIT_NS_MAX));
        if Duration::from_nanos(left_ns) <= self.spin_below {
            while self::now_ns() < start_ns {
                std::hint::spin_loop();
            }
            return true;
        }
        // What comes for the only stream there is waits its turn in the channel.
        if self.lines.len() > 1 {
            match jobs.recv_timeout(Duration::from_nanos(end_ns - now_ns)) {
                Ok(job) => {
                    self.enqueue(waiting, job);
                    return false;
                }
                Err(RecvTimeoutError::Timeout) => return end_ns == start_ns,
                Err(RecvTimeoutError::Disconnected) => {}
            }
        }
        let request = Timespec { tv_sec: (end_ns / 1_000_000_000) as i64, tv_nsec: (end_ns % 1_000_000_000) as i64 };
        // A signal that ends it early makes a batch early by that much.
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &request);
        end_ns == start_ns
    }
}

impl Line {
    fn rate(&self) -> u64 {
        self.state.rate_bits_per_second.load(Ordering::Relaxed)
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
