//! How packets of a session are laid out in UMEM.

use super::FRAME_HEADERS_BYTES_MAX;

/// UMEM for all queues together. All packets of a stream arrive on one queue, which nobody knows beforehand, so each gets the same
/// share: 8192 frames of 2 KiB on a single queue, 20 ms at 0.4 Mpps, several times what a scheduler keeps a thread waiting.
const UMEM_BYTES: usize = 16 << 20;
/// Least frames of a queue, however many queues there are: one NAPI poll of the driver takes 64 at once, and a queue whose thread
/// sleeps needs several.
pub(super) const FRAMES_PER_QUEUE_MIN: usize = 512;
/// Of each frame the kernel keeps this for itself (`XDP_PACKET_HEADROOM`).
const FRAME_HEADROOM_BYTES: usize = 256;
/// A driver needs several buffers for packets longer than this (a page, less headroom and `skb_shared_info`); so do we then.
const SINGLE_BUFFER_FRAME_BYTES: usize = 3400;

/// How packets of one size are laid out in UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) frame_bytes: usize,
    pub(super) frames: usize,
    /// Packets take several frames.
    pub(super) scattered: bool,
}

impl Layout {
    pub(super) fn new(payload_bytes: usize, queues: usize) -> Layout {
        let packet_bytes = FRAME_HEADERS_BYTES_MAX + payload_bytes;
        let frame_bytes = if packet_bytes + FRAME_HEADROOM_BYTES <= 2048 { 2048 } else { 4096 };
        let frames = (UMEM_BYTES / frame_bytes / queues.max(1)).max(FRAMES_PER_QUEUE_MIN);
        // Rings have sizes that are powers of two.
        let frames = (frames + 1).next_power_of_two() / 2;
        Layout { frame_bytes, frames, scattered: packet_bytes > SINGLE_BUFFER_FRAME_BYTES }
    }

    /// UMEM of one queue.
    pub(super) fn bytes(&self) -> usize {
        self.frame_bytes * self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_suit_the_packet() {
        let of = |payload_bytes, queues| Layout::new(payload_bytes, queues);
        assert_eq!(of(1436, 1), Layout { frame_bytes: 2048, frames: 8192, scattered: false });
        assert_eq!(of(1436, 3), Layout { frame_bytes: 2048, frames: 2048, scattered: false });
        assert_eq!(of(1800, 1), Layout { frame_bytes: 4096, frames: 4096, scattered: false });
        assert_eq!(of(8796, 1), Layout { frame_bytes: 4096, frames: 4096, scattered: true });
    }

    #[test]
    fn many_queues_keep_enough_frames_each() {
        assert_eq!(Layout::new(1436, 64).frames, FRAMES_PER_QUEUE_MIN);
        assert_eq!(Layout::new(1436, 1).bytes(), UMEM_BYTES);
    }
}
