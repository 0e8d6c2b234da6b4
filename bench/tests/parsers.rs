//! Every parser of foreign bytes returns, quickly and without a panic, whatever it is given: all seeds of fuzz/seeds, and some thousand
//! mutations of them that are the same in every run. docs/fuzzing.md has the long runs, which are guided by coverage.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bench::lab::content::Noise;
use libtest_mimic::{Arguments, Failed, Trial};

type Target = fn(&[u8]);

/// Mutations per target, shared out among its seeds.
const MUTATIONS: usize = 1500;
/// A single input may take this long on a busy machine in the development profile.
const LIMIT: Duration = Duration::from_secs(5);
/// A seed expands to no more than this.
const SEED_BYTES_MAX: u64 = 4 << 20;

fn main() -> std::process::ExitCode {
    let targets = image::fuzz::TARGETS.iter().chain(wire::fuzz::TARGETS).chain(&[("udp_payload", udp_payload as Target)]);
    let trial = |&(name, target): &(&'static str, Target)| Trial::test(name, move || run(name, target));
    libtest_mimic::run(&Arguments::from_args(), targets.map(trial).collect()).exit_code()
}

/// A frame from the interface.
fn udp_payload(bytes: &[u8]) {
    let payload = receiver::intake::udp_payload(bytes);
    assert!(payload.is_none_or(|payload| payload.len() < bytes.len()));
}

fn run(name: &str, target: Target) -> Result<(), Failed> {
    let mut seeds = seeds(name)?;
    seeds.push(Vec::new());
    seeds.push(vec![0xff; 4096]);
    for seed in &seeds {
        try_one(name, target, seed)?;
    }
    let mut noise = Noise::new(1);
    for mutation in 0..MUTATIONS {
        let mutated = mutate(&seeds, mutation, &mut noise);
        try_one(name, target, &mutated)?;
    }
    Ok(())
}

fn try_one(name: &str, target: Target, input: &[u8]) -> Result<(), Failed> {
    let started = Instant::now();
    let outcome = std::panic::catch_unwind(|| target(input));
    let elapsed = started.elapsed();
    if outcome.is_ok() && elapsed < LIMIT {
        return Ok(());
    }
    // Kept, to be looked at and to become a test.
    let path = std::env::temp_dir().join(format!("discus-fuzz-{name}"));
    fs::write(&path, input)?;
    Err(format!(
        "{name}: {} after {elapsed:?}; the input is in {}",
        if outcome.is_ok() { "too slow" } else { "it panicked" },
        path.display()
    )
    .into())
}

fn seeds(name: &str) -> Result<Vec<Vec<u8>>, Failed> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
    let Ok(entries) = fs::read_dir(&directory) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_, Failed>>()?;
    paths.sort();
    let expand = |path: &PathBuf| -> Result<Vec<u8>, Failed> {
        let file = std::io::Read::take(zstd::Decoder::new(fs::File::open(path)?)?, SEED_BYTES_MAX);
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut { file }, &mut bytes)?;
        Ok(bytes)
    };
    paths.iter().map(expand).collect()
}

/// One of the seeds with a few changes: as fuzzers make them.
fn mutate(seeds: &[Vec<u8>], mutation: usize, noise: &mut Noise) -> Vec<u8> {
    let mut bytes = seeds[mutation % seeds.len()].clone();
    let mut below = |limit: usize| (noise.word() % limit.max(1) as u64) as usize;
    for _ in 0..=below(4) {
        if bytes.is_empty() {
            bytes.push(below(256) as u8);
        }
        let length = bytes.len();
        // Most of a format's structure stands at its beginning.
        let at = if below(2) == 0 { below(length.min(4096)) } else { below(length) };
        match below(7) {
            0 => bytes[at] ^= 1 << below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(5)],
            2 | 3 => {
                // A number of 2, 4 or 8 bytes, of a kind that breaks arithmetic.
                let width = [2, 4, 8][below(3)].min(length - at);
                let value = [0, 1, u64::MAX, u64::MAX - 1, 1 << 31, 1 << 63, 4096, (1 << 32) - 1][below(8)];
                let encoded = if below(2) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
                bytes[at..at + width].copy_from_slice(&encoded[..width]);
            }
            4 => bytes.truncate(at),
            5 => {
                let (from, count) = (below(length), below(64).min(length - at));
                let count = count.min(length - from);
                bytes.copy_within(from..from + count, at);
            }
            _ => bytes[at] = below(256) as u8,
        }
    }
    bytes
}
