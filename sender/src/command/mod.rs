//! The subcommands of `discus`: each has its arguments as a clap struct and a `run`.

pub(crate) mod exit;
pub(crate) mod inspect;
pub(crate) mod pack;
mod pack_report;
mod progress;
pub(crate) mod restore;
pub(crate) mod verify;
