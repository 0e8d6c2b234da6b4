//! The parts of the program that face the operator.

pub(crate) mod display;
pub(crate) mod doctor;
pub(crate) mod options;
pub(crate) mod signals;
pub(crate) mod summary;
