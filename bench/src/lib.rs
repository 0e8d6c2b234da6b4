//! Limits, comparisons with peers, and the means to test the whole.

pub mod ceiling;
pub mod code;
pub mod control;
pub mod counters;
pub mod filter;
pub mod images;
pub mod impair;
pub mod lab;
pub mod leavings;
pub mod limits;
mod lone_sender;
pub mod pacing;
pub mod path;
pub mod peers;
mod plot;
mod provenance;
mod report;
mod scratch;
pub mod sharing;
pub mod sim;
pub mod swarm;
