//! Re-creating an image at its target. The receiver and `discus restore` share all of it: stored bytes of a chunk are checked and decoded
//! with [`decode_chunk`] into a [`Buffer`] of a [`BufferPool`], and a [`Writer`] writes it to every place of the [`Target`] that the
//! manifest names.

mod buffer_pool;
mod decode;
mod flusher;
mod from_pack;
mod gather;
mod places;
mod present;
mod registered;
mod ring;
mod target;
mod writer;

pub use buffer_pool::{Buffer, BufferPool};
pub use decode::{RunningHash, check_chunk, check_chunk_from, decode_chunk, decode_chunk_from};
pub use from_pack::{RestoreReport, restore};
pub use present::{Present, ScanProgress};
pub use registered::RegisteredBuffers;
pub use ring::io_uring_available;
pub use target::{Target, TargetOptions};
pub use writer::Writer;
