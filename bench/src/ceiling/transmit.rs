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
/// The rate has grown to what the link takes.
const RAMP: Duration = Duration::from_millis(700);
/// Groups that end the image are on their way by fits and starts: 4 of 16 chunks.
const LAST_PACKETS: u64 = 4 * 16 * 187;

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
            ensure!(now >= duration / 4, "the image was sent within {now:?}: a larger --size lasts longer");
            return Ok(packets as f64 / now.as_secs_f64());
        }
    }
}
