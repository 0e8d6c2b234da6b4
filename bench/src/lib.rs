//! Limits, comparisons with peers, and the means to test the whole.

pub mod code;
pub mod counters;
pub mod filter;
pub mod impair;
pub mod lab;
pub mod peers;
pub mod sim;
