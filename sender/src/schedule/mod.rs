//! Which chunk and which symbols go next: the sans-I/O scheduler.

mod action;

pub use action::{ChunkSymbols, Event, Group, Next, ReceiverId, ScheduleConfig, Totals};
pub use wire::Micros;
