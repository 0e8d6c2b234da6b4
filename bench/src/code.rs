//! `discus-bench code`: what the erasure code costs on this machine, per kernel.

use crate::counters::{Counters, Counts};
use anyhow::Context;
use serde::Serialize;
use std::time::Instant;
use wire::SymbolIndex;
use wire::erasure::{Decoder, Encoder, Kernel, repair_symbols};

/// Options of `discus-bench code`.
#[derive(Debug, clap::Args)]
pub struct CodeArgs {
    /// Source symbols of the chunk (K)
    #[arg(long, default_value_t = 187, value_parser = clap::value_parser!(u16).range(1..=200))]
    source_symbols: u16,
    /// Size of a symbol in bytes
    #[arg(long, default_value_t = 1408, value_parser = clap::value_parser!(u16).range(64..))]
    symbol_bytes: u16,
    /// How long to measure each figure, in milliseconds
    #[arg(long, default_value_t = 100)]
    milliseconds: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Missing source symbols for which decoding is measured; 1 % loss of K = 187 leaves 2 on average.
const MISSING: [u16; 7] = [1, 2, 4, 8, 16, 32, 48];

#[derive(Serialize)]
struct KernelFigures {
    kernel: String,
    one_repair_symbol_us: f64,
    /// Chunk bytes per second while all R repair symbols are made.
    encode_all_gigabytes_per_second: f64,
    /// Per number of missing symbols: chunk bytes per second, and what one decode costs.
    decode: Vec<Decode>,
}

#[derive(Serialize)]
struct Decode {
    missing: u16,
    gigabytes_per_second: f64,
    per_chunk: Counts,
}

/// Measures and prints.
///
/// # Errors
/// When the chunk does not fit the code or perf events cannot be read.
pub fn run(args: &CodeArgs) -> anyhow::Result<()> {
    let (k, symbol_bytes) = (args.source_symbols, usize::from(args.symbol_bytes));
    let r = repair_symbols(k);
    let source: Vec<u8> = (0..usize::from(k) * symbol_bytes).map(|i| (i * 31 + i / 7) as u8).collect();
    let mut repair = vec![0; usize::from(r) * symbol_bytes];
    Encoder::new(args.symbol_bytes).encode(k, &source, &mut repair)?;
    let mut counters = Counters::open().context("no perf events: run as root or lower kernel.perf_event_paranoid")?;

    let mut figures = Vec::new();
    for kernel in Kernel::available() {
        let mut encoder = Encoder::new(args.symbol_bytes).with_kernel(kernel);
        let mut one = vec![0; symbol_bytes];
        let mut next = 0;
        let one_seconds = seconds_each(args.milliseconds, || {
            next = (next + 1) % r;
            encoder.encode_some(k, &source, next..next + 1, &mut one)
        })?;
        let all_seconds = seconds_each(args.milliseconds, || encoder.encode(k, &source, &mut repair))?;
        let mut decode = Vec::new();
        for missing in MISSING.into_iter().filter(|&missing| missing <= k.min(r)) {
            let mut decoder = Decoder::new(args.symbol_bytes).with_kernel(kernel);
            let mut cells = source.clone();
            let mut decode_once = || {
                let repairs = (0..r).map(|i| (SymbolIndex(k + i), &repair[usize::from(i) * symbol_bytes..][..symbol_bytes]));
                decoder.decode(k, &mut cells, |index| !is_missing(index.0, missing, k), repairs)
            };
            let seconds = seconds_each(args.milliseconds, &mut decode_once)?;
            let (outcome, per_chunk) = counters.count(decode_once)?;
            outcome?;
            anyhow::ensure!(cells == source, "{kernel:?} decoded wrongly");
            decode.push(Decode { missing, gigabytes_per_second: source.len() as f64 / seconds / 1e9, per_chunk });
        }
        figures.push(KernelFigures {
            kernel: format!("{kernel:?}"),
            one_repair_symbol_us: one_seconds * 1e6,
            encode_all_gigabytes_per_second: source.len() as f64 / all_seconds / 1e9,
            decode,
        });
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print_table(args, r, &figures);
    }
    Ok(())
}

/// Spreads `missing` lost symbols over the chunk.
fn is_missing(index: u16, missing: u16, k: u16) -> bool {
    let step = (k / missing).max(1);
    index.is_multiple_of(step) && index / step < missing
}

fn seconds_each<E>(milliseconds: u64, mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    work()?;
    let start = Instant::now();
    let mut rounds = 0_u32;
    while rounds < 3 || start.elapsed().as_millis() < milliseconds.into() {
        work()?;
        rounds += 1;
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(rounds))
}

fn print_table(args: &CodeArgs, r: u16, figures: &[KernelFigures]) {
    println!("Erasure code, K = {}, R = {r}, symbols of {} bytes, chunk in cache, one core", args.source_symbols, args.symbol_bytes);
    print!("{:10} {:>14} {:>12}", "kernel", "one repair", "all repairs");
    for decode in figures.first().map(|kernel| &kernel.decode[..]).unwrap_or_default() {
        print!(" {:>9}", format!("decode {}", decode.missing));
    }
    println!();
    for kernel in figures {
        print!("{:10} {:>11.1} us {:>7.2} GB/s", kernel.kernel, kernel.one_repair_symbol_us, kernel.encode_all_gigabytes_per_second);
        for decode in &kernel.decode {
            print!(" {:>9.2}", decode.gigabytes_per_second);
        }
        println!();
    }
    println!("decode N: GB/s of chunk data when N source symbols are missing");
    let counts = figures.first().and_then(|kernel| kernel.decode.get(1));
    if let Some(decode) = counts {
        print!("one decode with {} missing ({:?} counters):", decode.missing, decode.per_chunk.kind);
        for (name, count) in &decode.per_chunk.events {
            print!(" {name} {count}");
        }
        println!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_as_many_symbols_are_missing_as_asked() {
        for k in [16, 48, 187, 200] {
            for missing in MISSING.into_iter().filter(|&missing| missing <= k) {
                assert_eq!((0..k).filter(|&index| is_missing(index, missing, k)).count(), usize::from(missing));
            }
        }
    }
}
