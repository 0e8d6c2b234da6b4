//! Re-creating an image at its target. The receiver and `discus restore` share all of it: stored bytes of a chunk are checked and decoded
//! with [`decode_chunk`] into a [`Buffer`] of a [`BufferPool`], and a [`Writer`] writes it to every place of the [`Target`] that the
//! manifest names.

mod buffer_pool;
mod decode;

pub use buffer_pool::{Buffer, BufferPool};
pub use decode::{check_chunk, decode_chunk};
