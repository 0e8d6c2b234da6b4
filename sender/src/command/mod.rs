//! The subcommands of `discus`: each has its arguments as a clap struct and a `run`.

pub(crate) mod dismiss;
pub(crate) mod doctor;
pub(crate) mod exit;
pub(crate) mod inspect;
pub(crate) mod keygen;
pub(crate) mod pack;
mod pack_report;
mod progress;
mod rate;
mod remote;
pub(crate) mod restore;
pub(crate) mod serve;
mod serve_report;
mod serve_session;
mod serve_transmit;
pub(crate) mod set;
pub(crate) mod sign;
mod signals;
pub(crate) mod status;
mod table;
pub(crate) mod tune;
pub(crate) mod verify;
