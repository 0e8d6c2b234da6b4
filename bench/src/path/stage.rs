//! Which step of a transfer a stack belongs to.

use serde::Serialize;

use super::stacks::Sample;

/// Whose work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    Sender,
    Receiver,
}

/// A step, in the order in which a byte passes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Stage {
    pub(super) side: Side,
    order: u8,
    pub(super) name: &'static str,
}

/// What the stack does: the kernel's functions say it whatever called them, then the innermost function, then the thread.
pub(super) fn of(sample: &Sample, side: Side) -> Stage {
    let in_kernel = |names: &[&str]| is_in_kernel(sample, names);
    if is_intake(sample) {
        return stage(Side::Receiver, 0, "kernel intake: softirq, XDP filter, copy into the AF_XDP frames");
    }
    let leaf = sample.frames.iter().find(|frame| !frame.is_kernel);
    let leaf_has = |names: &[&str]| leaf.is_some_and(|leaf| names.iter().any(|name| leaf.symbol.to_ascii_lowercase().contains(name)));
    let leaf_is_kernel = sample.frames.first().is_some_and(|frame| frame.is_kernel);
    let thread = sample.thread.as_str();
    match side {
        Side::Sender if leaf_is_kernel => {
            if in_kernel(&["xsk_", "sendmsg", "dev_direct_xmit", "veth_xmit"]) {
                stage(side, 4, "submit: kick, copy into the kernel's packets")
            } else if in_kernel(&["io_uring", "io_read", "blk_", "submit_bio", "virtblk"]) {
                stage(side, 0, "read: io_uring")
            } else if in_kernel(&["nanosleep", "futex", "schedule", "poll"]) {
                stage(side, 5, "going to sleep and waking")
            } else {
                stage(side, 7, "kernel, other")
            }
        }
        Side::Sender => {
            if leaf_has(&["blake3"]) {
                stage(side, 1, "hash: BLAKE3 of what was read")
            } else if leaf_has(&["crc32"]) {
                stage(side, 2, "build frames: CRC-32")
            } else if leaf_has(&["memcpy", "memmove"]) {
                stage(side, 2, "build frames: copy")
            } else if leaf_has(&["erasure"]) {
                stage(side, 1, "repair symbols")
            } else if thread.contains("transmit") {
                stage(side, 3, "build frames: headers, rings, pacing")
            } else {
                stage(side, 6, "schedule and control")
            }
        }
        Side::Receiver if leaf_is_kernel => {
            if in_kernel(&["io_uring", "io_write", "blk_", "submit_bio", "virtblk", "ext4", "xfs", "iomap"]) {
                stage(side, 7, "write: io_uring, O_DIRECT")
            } else if in_kernel(&["xsk_", "poll", "recvmsg"]) {
                stage(side, 1, "poll: waiting for packets")
            } else if in_kernel(&["nanosleep", "futex", "schedule"]) {
                stage(side, 8, "going to sleep and waking")
            } else {
                stage(side, 10, "kernel, other")
            }
        }
        Side::Receiver => {
            if leaf_has(&["crc32"]) {
                stage(side, 2, "intake: CRC-32")
            } else if leaf_has(&["memcpy", "memmove"]) {
                stage(side, 3, "intake: copy into the chunk")
            } else if leaf_has(&["erasure"]) {
                stage(side, 4, "decode")
            } else if leaf_has(&["blake3"]) {
                stage(side, 5, "hash: BLAKE3 of each chunk")
            } else if leaf_has(&["zstd", "huf_", "fse_", "lz4"]) {
                stage(side, 6, "decompress")
            } else if thread.starts_with("intake") || thread.starts_with("discus-receive") {
                stage(side, 2, "intake: rings, assembler, reports")
            } else {
                stage(side, 9, "writer and control, other")
            }
        }
    }
}

/// Whether the kernel delivers packets. A veth does so on whichever core has just sent: softirqs interrupt the sender, or anybody, and work for
/// the receiver.
pub(super) fn is_intake(sample: &Sample) -> bool {
    is_in_kernel(sample, &["net_rx_action", "napi_poll", "veth_poll", "veth_xdp"])
}

fn is_in_kernel(sample: &Sample, names: &[&str]) -> bool {
    sample.frames.iter().any(|frame| frame.is_kernel && names.iter().any(|name| frame.symbol.contains(name)))
}

fn stage(side: Side, order: u8, name: &'static str) -> Stage {
    Stage { side, order, name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::stacks::Frame;

    fn sample(thread: &str, frames: &[(&str, bool)]) -> Sample {
        let frames = frames.iter().map(|&(symbol, is_kernel)| Frame { symbol: symbol.to_owned(), is_kernel }).collect();
        Sample { thread: thread.to_owned(), process_id: 1, period_ns: 1, frames }
    }

    #[test]
    fn a_softirq_on_the_senders_core_is_the_receivers_work() {
        let stack = sample("discus-transmit", &[("memcpy", true), ("veth_poll", true), ("__xsk_sendmsg", true), ("send", false)]);
        assert_eq!(of(&stack, Side::Sender).side, Side::Receiver);
        let stack = sample("discus-transmit", &[("memcpy", true), ("__xsk_sendmsg", true), ("send", false)]);
        assert!(of(&stack, Side::Sender).name.starts_with("submit"));
    }

    #[test]
    fn user_code_is_told_by_its_innermost_function_then_by_its_thread() {
        let name = |thread: &str, symbol: &str, side| of(&sample(thread, &[(symbol, false)]), side).name;
        assert_eq!(name("writer", "blake3_hash_many_avx512", Side::Receiver), "hash: BLAKE3 of each chunk");
        assert_eq!(name("discus-receive", "crc32fast::specialized::calculate", Side::Receiver), "intake: CRC-32");
        assert_eq!(name("intake", "receiver::assemble::packet", Side::Receiver), "intake: rings, assembler, reports");
        assert_eq!(name("discus-transmit", "__memmove_avx_unaligned_erms", Side::Sender), "build frames: copy");
    }
}
