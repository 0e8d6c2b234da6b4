//! The probe stream: rounds of steps, small packets first, then full ones at rates that double.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wire::Symbol;
use wire::doctor::{PROBE_STEPS_MAX, Probe, SMALL_SYMBOL_BYTES};

use super::Ready;
use crate::transmit::{Error, LINK_OVERHEAD_BYTES, Packet, frame_bytes};
use wire::packet::HEADER_BYTES;

const FIRST_BITS_PER_SECOND: u64 = 100_000_000;
const SMALL_PACKETS: u32 = 100;
const SMALL_BITS_PER_SECOND: u64 = 10_000_000;
/// Long enough for queues of some megabytes to fill at a rate that is too high.
const STEP_DURATION: Duration = Duration::from_millis(250);
/// What is on its way of a step does not add to the next one.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// For receivers to notice that a round is over.
const ROUND_PAUSE: Duration = Duration::from_millis(700);
const BATCH_PACKETS: usize = 16;

/// What has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Whole rounds.
    pub rounds: u32,
    /// The rate of the last step, as it was reached.
    pub fastest_bits_per_second: u64,
    /// … and as it was meant.
    pub asked_bits_per_second: u64,
}

/// Sends `rounds` rounds up to `bits_per_second` on the wire, unless `stop` ends them before.
///
/// # Errors
/// When the kernel refuses for good.
pub fn run(ready: &mut Ready, bits_per_second: u64, rounds: u32, stop: &AtomicBool) -> Result<Sent, Error> {
    let rates = rates(bits_per_second);
    let mut sent = Sent { asked_bits_per_second: bits_per_second, ..Sent::default() };
    let nonce = std::process::id().wrapping_mul(0x9E37_79B1);
    let steps = rates.len() as u32 + 1;
    while sent.rounds < rounds && !stop.load(Ordering::Relaxed) {
        let round = nonce.wrapping_add(sent.rounds);
        let small = Probe { round, step: 0, steps, packets: SMALL_PACKETS, bits_per_second: SMALL_BITS_PER_SECOND };
        step(ready, &small, SMALL_SYMBOL_BYTES, stop)?;
        for (&bits_per_second, step_number) in rates.iter().zip(1..) {
            let packets = bits_per_second as f64 * STEP_DURATION.as_secs_f64() / wire_bits(ready, ready.symbol_bytes) as f64;
            let probe = Probe { round, step: step_number, steps, packets: (packets as u32).max(1), bits_per_second };
            sent.fastest_bits_per_second = step(ready, &probe, ready.symbol_bytes, stop)?;
        }
        sent.rounds += 1;
        std::thread::sleep(ROUND_PAUSE);
    }
    Ok(sent)
}

/// Doubling from the first to the last.
fn rates(last: u64) -> Vec<u64> {
    let doubled = std::iter::successors(Some(FIRST_BITS_PER_SECOND), |rate| rate.checked_mul(2)).take_while(|&rate| rate < last);
    doubled.take(PROBE_STEPS_MAX as usize - 2).chain([last]).collect()
}

fn wire_bits(ready: &Ready, symbol_bytes: u16) -> u64 {
    (frame_bytes(ready.group.ip(), HEADER_BYTES + usize::from(symbol_bytes)) + LINK_OVERHEAD_BYTES) as u64 * 8
}

/// Sends a step and returns the rate that was reached.
fn step(ready: &mut Ready, probe: &Probe, symbol_bytes: u16, stop: &AtomicBool) -> Result<u64, Error> {
    let mut symbol = vec![0; symbol_bytes.into()];
    probe.write(&mut symbol);
    let symbol = Symbol::new(&symbol);
    let packet_bits = wire_bits(ready, symbol_bytes);
    let began = Instant::now();
    let mut sent = 0;
    while sent < probe.packets && !stop.load(Ordering::Relaxed) {
        let due = began + Duration::from_secs_f64(f64::from(sent) * packet_bits as f64 / probe.bits_per_second as f64);
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            std::thread::sleep(early);
        }
        let numbers = sent..probe.packets.min(sent + BATCH_PACKETS as u32);
        let batch: Vec<Packet<'_>> = numbers.map(|number| Packet { header: probe.header(number), symbol }).collect();
        sent += ready.opened.transmit.send(&batch)? as u32;
    }
    ready.opened.transmit.flush(Duration::from_secs(1));
    let seconds = began.elapsed().as_secs_f64();
    std::thread::sleep(STEP_PAUSE);
    Ok((f64::from(sent) * packet_bits as f64 / seconds.max(1e-9)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_double_and_end_with_the_one_that_was_asked_for() {
        assert_eq!(rates(1_000_000_000), [100_000_000, 200_000_000, 400_000_000, 800_000_000, 1_000_000_000]);
        assert_eq!(rates(50_000_000), [50_000_000]);
        assert!(rates(u64::MAX).len() < PROBE_STEPS_MAX as usize);
    }
}
