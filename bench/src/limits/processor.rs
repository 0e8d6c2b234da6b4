//! What one core does a second with the bytes of a transfer: copying, checking, hashing, coding, compressing.

use std::time::{Duration, Instant};

use anyhow::Result;
use wire::SymbolIndex;
use wire::erasure::{Decoder, Encoder, Kernel, repair_symbols};

use crate::lab::content::Noise;

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Symbols of a chunk at MTU 1500, and their size.
const SYMBOLS: u16 = 187;
const SYMBOL_BYTES: usize = 1408;

/// One figure.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Rate {
    pub(super) what: &'static str,
    pub(super) gigabytes_per_second: f64,
}

/// Measures everything, each for about `limit`.
pub(super) fn measure(limit: Duration) -> Result<Vec<Rate>> {
    let mut noise = vec![0; CHUNK_BYTES];
    Noise::new(9).fill(&mut noise);
    // Half noise, half zeros in short runs: compresses about as well as programs do.
    let text: Vec<u8> = noise.chunks(48).flat_map(|part| part.iter().copied().chain([0; 80])).take(CHUNK_BYTES).collect();
    let mut target = vec![0; CHUNK_BYTES];
    let mut rates = Vec::new();
    let mut add = |what, bytes: usize, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        let seconds = seconds_each(limit, work)?;
        rates.push(Rate { what, gigabytes_per_second: bytes as f64 / seconds / 1e9 });
        Ok(())
    };
    add("copying a chunk within the cache", CHUNK_BYTES, &mut || {
        target.copy_from_slice(std::hint::black_box(&noise));
        std::hint::black_box(&mut target);
        Ok(())
    })?;
    let far: Vec<u8> = vec![1; 256 << 20];
    let mut far_target = vec![0_u8; 256 << 20];
    add("copying 256 MiB in memory", far.len(), &mut || {
        far_target.copy_from_slice(std::hint::black_box(&far));
        // Or the compiler would see that nobody reads the copy.
        std::hint::black_box(&mut far_target);
        Ok(())
    })?;
    drop((far, far_target));
    add("CRC-32 of a symbol", SYMBOL_BYTES, &mut || {
        std::hint::black_box(crc32fast::hash(std::hint::black_box(&noise[..SYMBOL_BYTES])));
        Ok(())
    })?;
    add("BLAKE3 of a page (4 KiB)", 4096, &mut || {
        std::hint::black_box(blake3::hash(std::hint::black_box(&noise[..4096])));
        Ok(())
    })?;
    add("BLAKE3 of a chunk (256 KiB)", CHUNK_BYTES, &mut || {
        std::hint::black_box(blake3::hash(std::hint::black_box(&noise)));
        Ok(())
    })?;

    let source: Vec<u8> = noise.iter().copied().chain(std::iter::repeat(0)).take(usize::from(SYMBOLS) * SYMBOL_BYTES).collect();
    let kernel = Kernel::available().next().unwrap_or(Kernel::Portable);
    let symbol_bytes = SYMBOL_BYTES as u16;
    let mut encoder = Encoder::new(symbol_bytes).with_kernel(kernel);
    let mut repair = vec![0; usize::from(repair_symbols(SYMBOLS)) * SYMBOL_BYTES];
    encoder.encode(SYMBOLS, &source, &mut repair)?;
    let mut one = vec![0; SYMBOL_BYTES];
    add("erasure code: making one repair symbol of a chunk", source.len(), &mut || {
        Ok(encoder.encode_some(SYMBOLS, &source, 0..1, &mut one)?)
    })?;
    let mut decoder = Decoder::new(symbol_bytes).with_kernel(kernel);
    let mut cells = source.clone();
    add("erasure code: decoding a chunk that lacks 2 symbols (1 %)", source.len(), &mut || {
        let repairs = repair.chunks(SYMBOL_BYTES).enumerate().map(|(at, symbol)| (SymbolIndex(SYMBOLS + at as u16), symbol));
        Ok(decoder.decode(SYMBOLS, &mut cells, |index| index.0 != 17 && index.0 != 99, repairs)?)
    })?;

    let mut compressor = zstd::bulk::Compressor::new(3)?;
    let compressed = compressor.compress(&text)?;
    add("zstd level 3: compressing a chunk", CHUNK_BYTES, &mut || {
        std::hint::black_box(compressor.compress(&text)?);
        Ok(())
    })?;
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    add("zstd: decompressing a chunk", CHUNK_BYTES, &mut || {
        decompressor.decompress_to_buffer(&compressed, &mut target)?;
        Ok(())
    })?;
    Ok(rates)
}

fn seconds_each(limit: Duration, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let start = Instant::now();
    let mut rounds = 0_u32;
    while rounds < 3 || start.elapsed() < limit {
        work()?;
        rounds += 1;
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(rounds))
}
