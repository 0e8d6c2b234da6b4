//! Re-creating an image at its target. The receiver and `discus restore` share all of it: stored bytes of a chunk are checked and decoded
//! with [`decode_chunk`] into a [`Buffer`] of a [`BufferPool`], and a [`Writer`] writes it to every place of the [`Target`] that the
//! manifest names.

mod buffer_pool;
mod decode;
mod from_pack;
mod gather;
mod places;
mod present;
mod ring;
mod target;
mod writer;

pub use buffer_pool::{Buffer, BufferPool};
pub use decode::{check_chunk, decode_chunk};
pub use from_pack::{RestoreReport, restore};
pub use present::{Present, ScanProgress};
pub use ring::io_uring_available;
pub use target::{Target, TargetOptions};
pub use writer::Writer;
