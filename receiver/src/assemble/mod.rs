//! What passes becomes chunks: the sans-I/O assembler.

mod placement;

pub use placement::{AssembleConfig, Completed, EntryIndex, Ignored, Placement, SymbolSet};
pub use wire::Micros;
