//! The agent on the machine that is provisioned: takes what passes, assembles, verifies and writes it.

pub mod assemble;
pub mod control;
pub mod doctor;
pub mod engine;
pub mod intake;
pub mod interface;
pub mod restore_rate;
pub mod trust;
