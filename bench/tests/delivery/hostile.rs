//! What a stranger sends to the group and port does no harm: nothing wrong is written, and the transfer ends well.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench::lab::content::Noise;
use bench::lab::{Machine, inside};
use wire::erasure::repair_symbols;
use wire::packet::{HEADER_BYTES, Header, Kind};
use wire::{ChunkId, Sequence, SessionId, StreamId, Symbol, SymbolIndex};

use crate::fixtures::{Fixtures, SOLO_BYTES};
use crate::world::{GROUP, PORT, ServeOptions, World, finish};

/// Packets in a row, and the pause after them: some 10,000 packets a second, which does not starve the two cores of a test machine.
const BURST_PACKETS: usize = 20;
const BURST_PAUSE: Duration = Duration::from_millis(2);

/// A symbol of the session, overheard.
struct Overheard {
    header: Header,
    symbol_bytes: usize,
}

/// Joins the group from `machine` and takes the first symbol.
fn overhear(machine: &Machine) -> Result<Overheard> {
    inside(&machine.namespace, || {
        let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
        socket.join_multicast_v4(&GROUP.parse()?, &machine.ipv4)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut packet = [0; 2048];
        loop {
            let bytes = socket.recv(&mut packet).context("waiting for a packet of the session")?;
            let Ok((header, symbol)) = Header::parse(&packet[..bytes]) else {
                bail!("the sender itself sent {:02x?}", &packet[..bytes.min(32)])
            };
            if header.kind == Kind::Symbol {
                return Ok(Overheard { header, symbol_bytes: symbol.len() });
            }
        }
    })
}

/// Sends what `forge` makes of a running number from `machine` to the group until `stop`; returns how many packets.
fn flood(machine: &Machine, stop: &AtomicBool, mut forge: impl FnMut(u64) -> Vec<u8> + Send) -> Result<u64> {
    inside(&machine.namespace, || {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        let group: SocketAddr = format!("{GROUP}:{PORT}").parse()?;
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..BURST_PACKETS {
                // A full queue is no failure of a flood.
                sent += u64::from(socket.send_to(&forge(sent), group).is_ok());
            }
            std::thread::sleep(BURST_PAUSE);
        }
        Ok(sent)
    })
}

/// A packet with a sound CRC, whatever its header says.
fn packet(header: Header, symbol: &[u8]) -> Vec<u8> {
    let mut bytes = [0; HEADER_BYTES];
    header.write(&mut bytes, Symbol::new(symbol));
    [&bytes[..], symbol].concat()
}

/// One of ten kinds of packets that have to be refused, in turn.
fn refusable(overheard: &Overheard, chunk_count: u32, noise: &mut Noise, number: u64) -> Vec<u8> {
    let Overheard { header, symbol_bytes } = *overheard;
    let mut symbol = vec![0; symbol_bytes];
    noise.fill(&mut symbol);
    let random = noise.word();
    let header = Header { chunk: ChunkId(random as u32 % chunk_count), ..header };
    let k = header.source_symbols;
    match number % 10 {
        0 => symbol[..random as usize % symbol_bytes].to_vec(),
        1 => {
            let mut damaged = packet(header, &symbol);
            let at = random as usize % damaged.len();
            damaged[at] ^= 1 << (random >> 32 & 7);
            damaged
        }
        2 => packet(Header { chunk: ChunkId((chunk_count + 1).saturating_add(random as u32 >> (random >> 59))), ..header }, &symbol),
        // The id of syncs, on a symbol.
        3 => packet(Header { chunk: ChunkId(chunk_count), ..header }, &symbol),
        4 => packet(
            Header { symbol: SymbolIndex((k + repair_symbols(k)).saturating_add(random as u16 >> (random >> 60))), ..header },
            &symbol,
        ),
        5 => packet(Header { source_symbols: [0, k - 1, k + 1, u16::MAX][random as usize % 4], ..header }, &symbol),
        6 => packet(header, &symbol[..random as usize % symbol_bytes]),
        7 => packet(header, &[&symbol[..], &symbol[..32]].concat()),
        8 => packet(Header { session: SessionId(random as u32), ..header }, &symbol),
        _ => {
            let truncated = packet(header, &symbol);
            truncated[..random as usize % HEADER_BYTES].to_vec()
        }
    }
}

pub(crate) fn a_hostile_flood_does_no_harm(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.solo()?;
    let world = World::new(2)?;
    let chunk_count = pack.chunks_of("solo")?.len() as u32;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(1), ..ServeOptions::default() })?;
    let receiver = world.receive(&sender, 0, "solo", &world.path("target"), &[])?;
    let overheard = overhear(world.receiver(1))?;
    let stop = AtomicBool::new(false);
    let mut noise = Noise::new(7);
    let (received, flooded) = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&world.lab.sender, &stop, |number| refusable(&overheard, chunk_count, &mut noise, number)));
        let received = finish(receiver);
        stop.store(true, Ordering::Relaxed);
        (received, flooding.join())
    });
    received?;
    sender.finish()?;
    pack.assert_delivered("solo", &world.path("target"))?;
    let flooded = flooded.map_err(|_| anyhow::anyhow!("the flood panicked"))??;
    ensure!(flooded > 2_000, "only {flooded} hostile packets were sent");
    Ok(())
}

pub(crate) fn forged_symbols_are_found_and_replaced(fixtures: &Fixtures) -> Result<()> {
    const FORGED: u64 = 400;
    let pack = fixtures.solo()?;
    let world = World::new(2)?;
    let chunks = pack.chunks_of("solo")?;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(1), ..ServeOptions::default() })?;
    let receiver = world.receive(&sender, 0, "solo", &world.path("target"), &[])?;
    let overheard = overhear(world.receiver(1))?;
    let stop = AtomicBool::new(false);
    let mut noise = Noise::new(8);
    // As the sender would send them, but for the content: CRC, K, index and length are right, only BLAKE3 can tell. They go to
    // chunks that are on their way or soon will be.
    let ahead = chunks.len() as u64 - u64::from(overheard.header.chunk.0);
    flood(&world.lab.sender, &stop, |number| {
        if number + 1 >= FORGED {
            stop.store(true, Ordering::Relaxed);
        }
        let (chunk, stored_bytes) = chunks[overheard.header.chunk.0 as usize + (number % (ahead / 2).max(1)) as usize];
        let k = stored_bytes.div_ceil(overheard.symbol_bytes as u32) as u16;
        let mut symbol = vec![0; overheard.symbol_bytes];
        noise.fill(&mut symbol);
        let header = Header {
            chunk: ChunkId(chunk),
            source_symbols: k,
            symbol: SymbolIndex(noise.word() as u16 % k),
            stream: StreamId(overheard.header.stream.0),
            sequence: Sequence(overheard.header.sequence.0),
            ..overheard.header
        };
        packet(header, &symbol)
    })?;
    finish(receiver)?;
    let summary = sender.finish()?;
    pack.assert_delivered("solo", &world.path("target"))?;
    let sent_bytes = summary.symbols_sent * summary.symbol_bytes;
    ensure!(sent_bytes > SOLO_BYTES + SOLO_BYTES / 50, "no chunk had to be sent again, so nothing was forged: {summary:?}");
    Ok(())
}
