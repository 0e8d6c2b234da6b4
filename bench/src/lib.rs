//! Limits, comparisons with peers, and the means to test the whole.

pub mod filter;
pub mod impair;
