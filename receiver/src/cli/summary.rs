//! What is said at the end, for people and as JSON.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use receiver::engine::Progress;
use receiver::intake::PacketCounts;
use serde::Serialize;

/// The end of a run, or of the attempt. Fields that were not reached are absent.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    /// Whether the image is whole on the target.
    pub(crate) ok: bool,
    pub(crate) exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    pub(crate) image: String,
    pub(crate) target: String,
    /// Where the filter runs and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
    /// How packets came in and why so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) intake: Option<String>,
    /// Whether the manifest came by multicast, for several receivers at once.
    pub(crate) manifest_by_multicast: bool,
    /// Whether the sender has confirmed that it knows of the completion.
    pub(crate) acknowledged: bool,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) transfer: Option<Transfer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak_memory_bytes: Option<u64>,
}

/// What came in and how fast.
#[derive(Debug, Serialize)]
pub(crate) struct Transfer {
    /// Size of the disk, or of all files.
    image_bytes: u64,
    /// Raw bytes of the image's chunks: each page once, without zeros and holes.
    data_bytes: u64,
    /// Those of them that the target held already, with --resume.
    resumed_bytes: u64,
    /// Those of them that were written.
    written_bytes: u64,
    /// From the first symbol to the flushed target.
    seconds: f64,
    /// From being ready to the first symbol.
    waited_seconds: f64,
    /// Data bytes written by those seconds.
    gbit_per_second: f64,
    chunks: u64,
    /// Chunks that the target held already, with --resume.
    resumed_chunks: u64,
    chunks_verified: u64,
    /// Chunks whose missing symbols were decoded from repair symbols.
    chunks_decoded: u64,
    chunks_corrupt: u64,
    chunks_given_up: u64,
    /// Chunks that came over the connection to the sender.
    chunks_by_unicast: u64,
    /// All that came did so, or all from some moment on.
    unicast: bool,
    packets: PacketCounts,
    packets_damaged: u64,
    packets_overrun: u64,
    /// The share of the streams' packets that did not arrive, 0 to 1.
    loss: f64,
}

impl Transfer {
    pub(crate) fn new(progress: &Progress, image_bytes: u64, chunks: usize) -> Transfer {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let written_bytes = load(&progress.written_bytes);
        let seconds = progress.elapsed().as_secs_f64();
        Transfer {
            image_bytes,
            data_bytes: load(&progress.total_bytes) + load(&progress.resumed_bytes),
            resumed_bytes: load(&progress.resumed_bytes),
            written_bytes,
            seconds,
            waited_seconds: progress.waited().as_secs_f64(),
            gbit_per_second: if seconds > 0.0 { written_bytes as f64 * 8e-9 / seconds } else { 0.0 },
            chunks: chunks as u64,
            resumed_chunks: load(&progress.resumed_chunks),
            chunks_verified: load(&progress.chunks_verified),
            chunks_decoded: load(&progress.chunks_decoded),
            chunks_corrupt: load(&progress.chunks_corrupt),
            chunks_given_up: load(&progress.chunks_given_up),
            chunks_by_unicast: load(&progress.chunks_by_unicast),
            unicast: progress.by_unicast.load(Ordering::Relaxed),
            packets: PacketCounts {
                seen: load(&progress.packets_seen),
                accepted: load(&progress.packets_accepted),
                dropped: load(&progress.packets_dropped),
            },
            packets_damaged: load(&progress.packets_damaged),
            packets_overrun: load(&progress.packets_overrun),
            loss: progress.loss(),
        }
    }
}

impl Summary {
    pub(crate) fn new(image: &str, target: &Path) -> Summary {
        Summary { image: image.to_owned(), target: target.display().to_string(), ..Summary::default() }
    }

    /// For people: what came, how fast, how much was in the way.
    pub(crate) fn print(&self, mut line: impl FnMut(String)) {
        let Some(transfer) = &self.transfer else { return };
        if self.ok {
            line(format!(
                "{} is whole on {}: {} bytes, {} of data in {:.2} s, {:.2} Gbit/s",
                self.image, self.target, transfer.image_bytes, transfer.data_bytes, transfer.seconds, transfer.gbit_per_second
            ));
        } else {
            line(format!(
                "{} is not whole on {}: {} of {} bytes of data that it lacked were written",
                self.image,
                self.target,
                transfer.written_bytes,
                transfer.data_bytes - transfer.resumed_bytes
            ));
        }
        if transfer.resumed_chunks > 0 {
            line(format!(
                "{} of {} chunks, {} bytes, were on the target already",
                transfer.resumed_chunks, transfer.chunks, transfer.resumed_bytes
            ));
        }
        if transfer.unicast || transfer.chunks_by_unicast > 0 {
            let why = if transfer.unicast { ": no multicast was used, or none reached this machine" } else { "" };
            line(format!(
                "unicast: {} of {} chunks came over the connection to the sender{why}",
                transfer.chunks_by_unicast, transfer.chunks
            ));
        }
        let PacketCounts { seen, accepted, dropped } = transfer.packets;
        line(format!(
            "packets: {seen} seen, {accepted} accepted, {dropped} dropped by the filter, {} damaged, {} overrun; loss {:.3} %",
            transfer.packets_damaged,
            transfer.packets_overrun,
            transfer.loss * 100.0
        ));
        line(format!(
            "chunks: {} of {} verified, {} repaired by decoding, {} corrupt, {} given up for memory; peak memory {} MiB",
            transfer.chunks_verified,
            transfer.chunks,
            transfer.chunks_decoded,
            transfer.chunks_corrupt,
            transfer.chunks_given_up,
            self.peak_memory_bytes.unwrap_or(0) >> 20
        ));
    }
}

/// The most memory this process has had resident.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_known() {
        assert!(peak_memory_bytes().unwrap() > 1 << 20);
    }

    #[test]
    fn json_is_flat_and_has_no_fields_that_were_not_reached() {
        let mut summary = Summary::new("web", Path::new("/dev/sda"));
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["image"], "web");
        assert!(json.get("seconds").is_none() && json.get("error").is_none());
        summary.transfer = Some(Transfer::new(&Progress::new(5), 7, 1));
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!((&json["data_bytes"], &json["image_bytes"], &json["packets"]["seen"]), (&5.into(), &7.into(), &0.into()));
    }
}
