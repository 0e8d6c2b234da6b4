//! How many packets a second leave an interface in each mode: `cargo run --release --example transmit-rate -- eth1 auto 5`, with the
//! interface, the mode as in `--transmit`, the seconds, and optionally a symbol size. Sends to 239.192.68.1:4700 without a limit.

use anyhow::Context;
use clap::ValueEnum;
use sender::interface::Interface;
use sender::transmit::{self, Choice, Packet, TransmitConfig};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use wire::packet::{HEADER_BYTES, Header, Kind};
use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context("name an interface")?;
    let choice = Choice::from_str(&arguments.next().unwrap_or_else(|| "auto".to_owned()), true).map_err(anyhow::Error::msg)?;
    let limit = Duration::from_secs_f64(arguments.next().map_or(Ok(5.0), |seconds| seconds.parse())?);
    let symbol_bytes: usize = arguments.next().map_or(Ok(1408), |bytes| bytes.parse())?;

    let interface = Interface::find(&name)?;
    let group = SocketAddr::new(IpAddr::from([239, 192, 68, 1]), 4700);
    let source = SocketAddr::new(interface.source_for(group.ip())?, group.port());
    let payload_bytes = HEADER_BYTES + symbol_bytes;
    let config = TransmitConfig { interface, queue: 0, source, groups: vec![group], hops: 1, payload_bytes, choice, busy_poll: false };
    let mut opened = transmit::open(&config)?;
    println!("{}", opened.description);

    // Symbols of one chunk after another, as a stream has them; more than a second-level cache holds.
    let bytes = vec![0x5A; 187 * 16 * symbol_bytes];
    let symbols: Vec<Symbol<'_>> = bytes.chunks_exact(symbol_bytes).map(Symbol::new).collect();
    let (mut sent, began) = (0u32, Instant::now());
    while began.elapsed() < limit {
        let first = sent;
        let packets: [Packet<'_>; 32] = std::array::from_fn(|at| {
            let number = first.wrapping_add(at as u32);
            let header = Header {
                kind: Kind::Symbol,
                session: SessionId(1),
                chunk: ChunkId(number / 187),
                symbol: SymbolIndex((number % 187) as u16),
                source_symbols: 187,
                sequence: Sequence(number),
                stream: StreamId(0),
            };
            Packet { header, symbol: symbols[number as usize % symbols.len()] }
        });
        sent = sent.wrapping_add(opened.transmit.send(&packets)? as u32);
    }
    opened.transmit.flush(Duration::from_secs(1));
    let seconds = began.elapsed().as_secs_f64();
    let frame_bytes = config.frame_bytes(payload_bytes);
    println!(
        "{}: {sent} packets of {frame_bytes} bytes in {seconds:.2} s: {:.3} Mpps, {:.2} Gbit/s",
        opened.transmit.mode().name(),
        f64::from(sent) / seconds / 1e6,
        f64::from(sent) * frame_bytes as f64 * 8.0 / seconds / 1e9
    );
    Ok(())
}
