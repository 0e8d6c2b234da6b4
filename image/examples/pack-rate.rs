//! How fast images are packed: `pack-rate CODEC OUTPUT IMAGE…` packs them and prints used bytes per second of wall clock and of processor time.
//! OUTPUT is replaced; `/dev/shm/…` leaves the disk out. Run it twice and take the second: the images are in the page cache then.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use image::pack::{ImageSpec, PackOptions, build};
use image::{Codec, Progress, Seen};

/// What the kernel counts processor time in, a hundredth of a second on every Linux (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of processor time of this process so far: utime and stime, fields 14 and 15 of proc_pid_stat(5).
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

fn run(codec: Codec, output: &Path, paths: &[PathBuf]) -> image::Result<()> {
    let images: Vec<_> =
        paths.iter().enumerate().map(|(index, path)| ImageSpec { name: format!("image{index}"), path: path.clone() }).collect();
    let progress = Progress::default();
    let (began, processor_before) = (Instant::now(), processor_seconds());
    let pack = build(&images, output, &PackOptions { codec, force: true, ..PackOptions::default() }, &progress)?;
    let (seconds, processor) = (began.elapsed().as_secs_f64(), processor_seconds() - processor_before);
    let used: u64 = pack.images().iter().map(|image| image.used_bytes).sum();
    let unique: u64 = pack.chunks().iter().map(|chunk| u64::from(chunk.raw_bytes)).sum();
    let gb = used as f64 / 1e9;
    println!(
        "{gb:.2} GB used, {:.2} GB unique: {seconds:.2} s, {processor:.2} s of processor time; {:.2} GB/s, {:.2} GB/s per core; slowest step {:?}",
        unique as f64 / 1e9,
        gb / seconds,
        gb / processor,
        progress.slowest(&mut Seen::default())
    );
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let codec = match arguments.next().as_deref().and_then(|name| name.to_str()) {
        Some("none") => Codec::None,
        Some("lz4") => Codec::Lz4,
        Some("zstd") => Codec::Zstd,
        _ => {
            eprintln!("usage: pack-rate none|lz4|zstd OUTPUT IMAGE...");
            return ExitCode::from(2);
        }
    };
    let paths: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    match paths.split_first().map(|(output, paths)| run(codec, output, paths)) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("pack-rate: {error}");
            ExitCode::FAILURE
        }
        None => ExitCode::from(2),
    }
}
