//! The connection to the sender.
