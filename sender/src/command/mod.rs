//! The subcommands of `discus`: each has its arguments as a clap struct and a `run`.

pub(crate) mod exit;
pub(crate) mod inspect;
pub(crate) mod keygen;
pub(crate) mod pack;
mod pack_report;
mod progress;
mod rate;
pub(crate) mod restore;
pub(crate) mod serve;
mod serve_report;
pub(crate) mod sign;
mod signals;
pub(crate) mod tune;
pub(crate) mod verify;
