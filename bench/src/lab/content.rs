//! Made-up image content: incompressible, repeatable, quickly made.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// Bytes of a page, the unit of deduplication.
pub const PAGE_BYTES: u64 = 4096;

/// A pseudo-random byte stream: SplitMix64 (Steele, Lea, Flood 2014), which passes for incompressible and makes gigabytes a second.
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Noise {
        // Spread seeds apart: streams of neighbouring seeds would otherwise be shifted copies of each other.
        Noise(seed.wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(32) ^ 0xA5A5_5A5A_C3C3_3C3C)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.word().to_le_bytes()[..part.len()]);
        }
    }
}

/// One stretch of a made-up disk image.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// Incompressible bytes: the same seed gives the same bytes, in any image.
    Noise {
        /// Which bytes.
        seed: u64,
        /// How many.
        bytes: u64,
    },
    /// Written zeros.
    Zeros(u64),
    /// A hole of the file.
    Hole(u64),
}

/// Writes a disk image made of `parts` to `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_image(path: &Path, parts: &[Part]) -> Result<()> {
    write_parts(path, parts).with_context(|| format!("writing {}", path.display()))
}

fn write_parts(path: &Path, parts: &[Part]) -> io::Result<()> {
    const BUFFER_BYTES: usize = 1 << 20;
    let file = File::create(path)?;
    let mut size_bytes = 0;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, &file);
    for part in parts {
        match *part {
            Part::Noise { seed, bytes } => {
                let mut noise = Noise::new(seed);
                let mut buffer = vec![0; BUFFER_BYTES];
                let mut left = bytes;
                while left > 0 {
                    let now = left.min(BUFFER_BYTES as u64) as usize;
                    noise.fill(&mut buffer[..now]);
                    out.write_all(&buffer[..now])?;
                    left -= now as u64;
                }
                size_bytes += bytes;
            }
            Part::Zeros(bytes) => {
                io::copy(&mut io::repeat(0).take(bytes), &mut out)?;
                size_bytes += bytes;
            }
            Part::Hole(bytes) => {
                size_bytes += bytes;
                out.seek(SeekFrom::Start(size_bytes))?;
            }
        }
    }
    out.flush()?;
    drop(out);
    file.set_len(size_bytes)?;
    Ok(())
}

/// Where the first `bytes` bytes of two files or devices differ, if they do; a file that ends before is different where it ends.
///
/// # Errors
/// When either cannot be read.
pub fn first_difference(left: &Path, right: &Path, bytes: u64) -> Result<Option<u64>> {
    let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let (mut left, mut right) = (open(left)?, open(right)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < bytes {
        let want = (bytes - at).min(a.len() as u64) as usize;
        let (got_a, got_b) = (read_full(&mut left, &mut a[..want])?, read_full(&mut right, &mut b[..want])?);
        let same = got_a.min(got_b);
        if let Some(offset) = (0..same).find(|&i| a[i] != b[i]) {
            return Ok(Some(at + offset as u64));
        }
        if same < want {
            return Ok(Some(at + same as u64));
        }
        at += want as u64;
    }
    Ok(None)
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn noise_is_repeatable_and_seeds_differ() {
        let bytes = |seed| {
            let mut bytes = [0; 20];
            Noise::new(seed).fill(&mut bytes);
            bytes
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }

    #[test]
    fn an_image_has_its_parts_in_order_and_its_holes() {
        let directory = tempfile::tempdir().unwrap();
        let (path, same, other) = (directory.path().join("a"), directory.path().join("b"), directory.path().join("c"));
        let parts = [
            Part::Noise { seed: 1, bytes: 8192 },
            Part::Hole(4096),
            Part::Zeros(4096),
            Part::Noise { seed: 2, bytes: 100 },
            Part::Hole(50),
        ];
        write_image(&path, &parts).unwrap();
        write_image(&same, &parts).unwrap();
        let text = fs::read(&path).unwrap();
        assert_eq!(text.len(), 8192 + 4096 + 4096 + 150);
        assert!(text[8192..16384].iter().all(|&byte| byte == 0));
        assert!(text[16484..].iter().all(|&byte| byte == 0));
        assert_eq!(first_difference(&path, &same, 16534).unwrap(), None);
        let mut changed = text;
        changed[9000] = 1;
        fs::write(&other, &changed).unwrap();
        assert_eq!(first_difference(&path, &other, 16534).unwrap(), Some(9000));
        assert_eq!(first_difference(&path, &other, 9000).unwrap(), None, "beyond what is compared");
        fs::write(&other, &changed[..5000]).unwrap();
        assert_eq!(first_difference(&path, &other, 16534).unwrap(), Some(5000), "too short");
    }
}
