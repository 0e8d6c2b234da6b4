//! What the filter knows of a stream at the moment of one of its marks.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use crate::shared::StreamRow;
use crate::skeleton::types::{bss_streams, stream_row};

/// Streams that the filter counts apart: those with lower numbers.
pub const STREAMS_MAX: usize = size_of::<bss_streams>() / size_of::<stream_row>();

/// A mark: a packet that tells where its stream stood. With the number of packets that user space has had of the stream before it, it tells how many
/// were lost: neither what the filter has dropped since nor what still waits in a ring can be mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The mark's sequence number.
    pub sequence: u32,
    /// Packets of the stream that ended in the filter before the mark because nobody wants them, since the filter was loaded; wraps.
    pub unwanted: u32,
}

impl Mark {
    /// The last one of `stream`.
    pub(crate) fn read(rows: &[StreamRow], stream: u16) -> Option<Mark> {
        let mark = rows.get(usize::from(stream))?[const { offset_of!(stream_row, mark) / size_of::<u64>() }].load(Ordering::Relaxed);
        Some(Mark { sequence: (mark >> 32) as u32, unwanted: mark as u32 })
    }
}

// The C program's row and this crate's view of it are the same 64 bytes.
const _: () = assert!(size_of::<stream_row>() == size_of::<StreamRow>());
