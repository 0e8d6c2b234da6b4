//! What this machine can restore, found out before it takes part: how fast its target takes writes, how fast its processor checks and
//! decompresses. The sender plans streams with it; what is really restored is reported later, see [`crate::engine`].

mod disk;
mod processor;

use std::path::Path;
use std::time::{Duration, Instant};

use image::Manifest;
use image::manifest::{Body, Content, Extent};

/// Whether the target is written to for a test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WriteTest {
    /// Where that changes nothing: beside a file, within a directory, and on a device that is about to be overwritten.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// What was found out. Everything in bytes a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreRate {
    /// What the target takes.
    pub disk: u64,
    /// Stored bytes that all threads together check and decompress.
    pub processor: u64,
    /// Stored bytes of this image that can be restored: the least of the two, never 0.
    pub restore: u64,
    /// How long it took to find out.
    pub took: Duration,
}

/// Measures for some 100 to 400 ms what restoring `manifest` to `target`, which is open for it, can reach with so many `threads` that
/// decompress. `resume`: the target keeps what it has.
///
/// # Errors
/// Why it cannot be said, for the operator; nothing is changed at the target, then or else.
pub fn measure(manifest: &Manifest, target: &Path, resume: bool, threads: usize) -> Result<RestoreRate, String> {
    let started = Instant::now();
    let (stored_bytes, written_bytes) = weights(manifest);
    if written_bytes == 0 {
        return Err("the image has no data".to_owned());
    }
    let disk = disk::write_rate(manifest, target, resume, written_bytes)?;
    let processor = processor::check_rate(manifest)?.saturating_mul(threads.max(1) as u64);
    let stored_per_second = u128::from(disk) * u128::from(stored_bytes) / u128::from(written_bytes);
    let restore = u64::try_from(stored_per_second).unwrap_or(u64::MAX).min(processor).max(1);
    Ok(RestoreRate { disk, processor, restore, took: started.elapsed() })
}

/// What the file system that holds `target`, or would hold it, takes in bytes a second; nothing is changed, and devices are not written to.
///
/// # Errors
/// Why it cannot be said, for the operator.
pub fn write_rate_beside(target: &Path) -> Result<u64, String> {
    disk::write_rate_beside(target)
}

/// The image's stored bytes, and what is written of them: a chunk may have several places.
fn weights(manifest: &Manifest) -> (u64, u64) {
    let stored_bytes = manifest.chunks.iter().map(|chunk| u64::from(chunk.stored_bytes)).sum();
    let data = extents(manifest).iter().filter(|extent| matches!(extent.content, Content::Data { .. }));
    (stored_bytes, data.map(|extent| extent.length).fold(0, u64::saturating_add))
}

fn extents(manifest: &Manifest) -> &[Extent] {
    match &manifest.body {
        Body::Disk(disk) => &disk.extents,
        Body::Tree(tree) => &tree.extents,
    }
}

/// Bytes a second; never 0.
fn per_second(bytes: u64, time: Duration) -> u64 {
    let rate = bytes as f64 / time.as_secs_f64().max(1e-9);
    (rate as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Codec;
    use image::manifest::{ChunkDescriptor, DiskBody};

    /// A disk of so many chunks of 256 KiB, stored in a third of it, each of which has two places.
    fn manifest(chunks: u32, codec: Codec) -> Manifest {
        const RAW_BYTES: u32 = 256 << 10;
        let stored_bytes = if codec == Codec::None { RAW_BYTES } else { RAW_BYTES / 3 };
        let chunk =
            |id| ChunkDescriptor { id: image::ChunkId(id), stored_bytes, raw_bytes: RAW_BYTES, codec, hash: [0; 32], raw_hash: None };
        let extent = |at: u32| Extent {
            target_offset: u64::from(at) * u64::from(RAW_BYTES),
            length: RAW_BYTES.into(),
            content: Content::Data { chunk: at % chunks, page: 0 },
        };
        let size_bytes = u64::from(2 * chunks) * u64::from(RAW_BYTES);
        let body = Body::Disk(DiskBody { size_bytes, extents: (0..2 * chunks).map(extent).collect() });
        Manifest { name: "it".to_owned(), chunk_pages: 64, chunks: (0..chunks).map(chunk).collect(), body }
    }

    #[test]
    fn the_disk_and_the_processor_bound_what_is_restored_and_nothing_stays_behind() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::write(directory.path().join("target"), "what is there").unwrap();
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let manifest = manifest(40, codec);
            let rate = measure(&manifest, &directory.path().join("target"), false, 2).unwrap();
            let (stored, written) = weights(&manifest);
            assert_eq!(written, 2 * 40 * (256 << 10));
            let by_disk = u128::from(rate.disk) * u128::from(stored) / u128::from(written);
            assert_eq!(u128::from(rate.restore), by_disk.min(rate.processor.into()).max(1), "{rate:?}");
        }
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["target"]);
        assert_eq!(std::fs::read(directory.path().join("target")).unwrap(), b"what is there");
    }

    #[test]
    fn a_tree_is_tested_within_its_directory() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        assert!(measure(&manifest(4, Codec::Zstd), directory.path(), false, 1).unwrap().disk > 0);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_tested_says_why() {
        let why = |manifest: &Manifest, target: &str| measure(manifest, Path::new(target), false, 1).unwrap_err();
        assert!(why(&manifest(4, Codec::None), "/proc/nowhere/target").contains("/proc/nowhere"));
        let empty = Manifest { chunks: Vec::new(), body: Body::Disk(DiskBody::default()), ..manifest(1, Codec::None) };
        assert_eq!(why(&empty, "/var/tmp/x"), "the image has no data");
    }
}
