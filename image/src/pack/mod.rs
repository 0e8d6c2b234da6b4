//! A pack: one file with every chunk once, and the manifest of every image. [`build()`] writes one, [`Pack`] reads it,
//! [`Pack::verify`] proves it whole. docs/pack-format.md describes every byte.

mod body;
pub mod build;
mod compress;
mod fill;
pub mod format;
mod read;
mod records;
mod scan;
mod sections;
mod verify;

pub use build::{ImageSpec, PackOptions, build, build_from_sources};
pub use read::{ChunkRecord, ImageInfo, Pack, Segment};
pub use verify::VerifyReport;
