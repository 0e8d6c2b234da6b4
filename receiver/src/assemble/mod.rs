//! What passes becomes chunks: the sans-I/O assembler. `docs/protocol.md` explains the protocol and its constants.
//!
//! [`Assembler`] is told which symbols and syncs came and says where each symbol goes ([`Placement`]), when a chunk can be decoded, and what
//! to report. It never sees the symbols' bytes and has no clock, thread or socket: the program and the simulator drive the same code.
//!
//! * `placement`: the values that go in and out.
//! * `assembler`: the machine.
//! * `entry`: one chunk in assembly.
//! * `position`, `runs`: how far the streams have come, and how what is lost is spread.

mod assembler;
mod entry;
mod placement;
mod position;
mod runs;

pub use assembler::Assembler;
pub use placement::{AssembleConfig, Completed, EntryIndex, Ignored, Placement, SymbolSet};
pub use wire::Micros;
