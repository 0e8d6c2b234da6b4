//! The sender: schedules the chunks of a pack for the receivers on its list and multicasts them.

pub mod control;
pub mod doctor;
pub mod engine;
pub mod interface;
pub mod schedule;
pub mod transmit;
pub mod tune;
