//! A pack: one file with every chunk once, and the manifest of every image. [`build()`] writes one, [`Pack`] reads it,
//! [`Pack::verify`] proves it whole. docs/pack-format.md describes every byte.

mod body;
pub mod build;
mod chunk_buffer;
mod chunk_file;
mod compress;
mod edit;
mod fill;
pub mod format;
mod from_pack;
mod proof;
mod read;
mod records;
mod request;
mod scan;
mod sections;
mod sign;
mod verify;

pub use build::{ImageSpec, PackOptions, PreparedImage, build, build_prepared};
pub use edit::edit;
pub use proof::Proof;
pub use read::{ChunkRecord, ImageInfo, Pack, Segment};
pub use request::check;
pub(crate) use request::refuse_own_source;
pub use sign::sign;
pub use verify::VerifyReport;
