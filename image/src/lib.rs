//! What discus stores: images are read page by page ([`source`]), pages common to several images are kept once,
//! the result is one file, the [`pack`], and each image's [`manifest`] says how to re-create it ([`restore`]).
//!
//! ```text
//! pack:    source → pages → page index → segments → chunks → zstd → BLAKE3 → pack file
//! restore: stored bytes of a chunk → BLAKE3 checked → decompressed → io_uring writes at every place of the target
//! ```
//!
//! The sender reads packs with [`Pack`]; the receiver links this crate for [`Manifest`] and [`restore`]. Nothing here knows
//! of the network.

mod decompress;
mod dedup;
pub mod disk_image;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod image_set;
mod in_use;
pub mod manifest;
pub mod pack;
mod partial_file;
mod progress;
pub mod restore;
pub mod signature;
pub mod source;
mod units;
pub mod used;

pub use error::{Error, ErrorClass, Result};
pub use image_set::ImageSet;
pub use manifest::Manifest;
pub use pack::Pack;
pub use progress::{Progress, Seen, Stage, Step};
pub use units::{CHUNK_PAGES_DEFAULT, CHUNK_PAGES_MAX, ChunkId, Codec, ImageKind, PAGE_BYTES};
