//! The sender's engine alone: it reads the pack, hashes, schedules, paces and transmits, and nobody takes anything.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use image::Pack;
use receiver::intake::IntakeMode;
use sender::engine::Engine;

use crate::lab::{Lab, inside};
use crate::limits::network::{self, HEADERS_BYTES, Link, Sink, Take};
use crate::lone_sender::{self, Session};

/// Above what the link can do.
const RATE_CAP_BITS_PER_SECOND: u64 = 40_000_000_000;
/// The rate has grown to what the link takes: from 1 Gbit/s, by half in each window (`sender/src/schedule/rate`).
const RAMP: Duration = Duration::from_millis(700);
const START_BITS_PER_SECOND: f64 = 1e9;
const GROWTH: f64 = 1.5;
const WINDOW_S: f64 = 0.05;
/// Of the time that was asked for, this part must have been measured.
const MEASURED_LEAST: f64 = 0.25;
/// Groups that end the image are on their way by fits and starts: 4 of 16 chunks.
const LAST_PACKETS: u64 = 4 * 16 * 187;

/// The least size in MiB of an image of which there is something to measure where frames leave at `bits_per_second`: what leaves while the rate grows, during
/// a quarter of `duration`, and at the end.
pub(super) fn size_least_mib(bits_per_second: f64, symbol_bytes: u16, duration: Duration) -> u64 {
    let grown = (bits_per_second / START_BITS_PER_SECOND).max(1.0);
    let growing_s = grown.log(GROWTH) * WINDOW_S;
    let while_growing_bits = START_BITS_PER_SECOND * (grown - 1.0) / (GROWTH - 1.0) * WINDOW_S;
    let grown_s = (RAMP.as_secs_f64() - growing_s).max(0.0) + duration.as_secs_f64() * MEASURED_LEAST;
    let frame_bits = (HEADERS_BYTES + usize::from(symbol_bytes)) as f64 * 8.0;
    let symbols = (while_growing_bits + grown_s * bits_per_second) / frame_bits + LAST_PACKETS as f64;
    (symbols * f64::from(symbol_bytes) / f64::from(1 << 20)).ceil() as u64
}

/// Gbit/s of frames that leave during `duration` or until the pack has been sent once, in so many streams by so many queues.
pub(super) fn run(lab: &Lab, pack: &Path, symbol_bytes: u16, (streams, queues): (u8, u8), duration: Duration) -> Result<f64> {
    let pack = Arc::new(Pack::open(pack)?);
    let frame_bytes = HEADERS_BYTES + usize::from(symbol_bytes);
    let interface = &lab.interface;
    let link = Link { transmit_interface: interface.clone(), receive_interface: interface.clone(), group: network::default_group() };
    let session = Session {
        link: &link,
        pack: &pack,
        symbol_bytes,
        rate_cap_bits_per_second: RATE_CAP_BITS_PER_SECOND,
        streams,
        queues: queues.into(),
    };
    let send = || lone_sender::send(&session, |engine, symbols| measure(engine, symbols, duration));
    let take = Take::new(IntakeMode::Auto, Sink::Filter);
    let (rate, ..) = network::trial(lab, &link, frame_bytes, take, || inside(&lab.sender.namespace, send))?;
    Ok(rate * frame_bytes as f64 * 8e-9)
}

/// Packets a second once the rate has grown, until all but the last of `symbols` have left.
fn measure(engine: &Engine, symbols: u64, duration: Duration) -> Result<f64> {
    std::thread::sleep(RAMP);
    let (began, before) = (Instant::now(), engine.sent().packets);
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let (now, packets) = (began.elapsed(), engine.sent().packets - before);
        let is_over = before + packets + LAST_PACKETS > symbols;
        if now >= duration || is_over {
            ensure!(now >= duration.mul_f64(MEASURED_LEAST), "the image was sent within {now:?}: a larger --size lasts longer");
            return Ok(packets as f64 / now.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_the_link_the_larger_the_image() {
        let least = |gigabits: f64, symbol_bytes| size_least_mib(gigabits * 1e9, symbol_bytes, Duration::from_secs(1));
        // 0.7 s and 0.25 s at 1 Gbit/s, 0.93 of it symbols, and four groups: 108 MiB and 16.
        assert_eq!(least(1.0, 1408), 124);
        // 1.9 Gbit while it grows for 0.37 s, 0.58 s at 20 Gbit/s, and four groups of 25 MiB: 2 GiB, as by default, are enough.
        assert!((1_650..1_750).contains(&least(20.0, 8768)), "{}", least(20.0, 8768));
    }
}
