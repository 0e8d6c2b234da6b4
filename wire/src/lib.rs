//! What crosses the network between a discus sender and its receivers.
//!
//! * [`packet`]: the multicast packet: header layout, CRC-32, writing and parsing.
//! * [`Symbol`]: what a packet carries, with the part of its checksums that is the same in every packet.
//! * [`frame`]: the Ethernet, IPv4 or IPv6, and UDP headers around it, for senders that build whole frames.
//! * [`erasure`]: repair symbols over the source symbols of a chunk.
//! * [`session`]: the parameters that a sender and its receivers share.
//! * [`description`]: a manifest as packets, for many receivers that wait for the same.
//! * [`report`]: what a receiver tells its sender, as checked types.
//! * [`doctor`]: what the doctors of both ends send and hear, and how they say what they found.
//! * [`trust`]: how whoever connects to a sender knows it, by the [`Fingerprint`] of its certificate.
//! * [`proto`]: the control-plane schema (gRPC), generated from `wire/proto`.
//!
//! This crate knows nothing of files, sockets or clocks, but that [`doctor`] listens for queries.

pub mod description;
pub mod doctor;
pub mod erasure;
mod fingerprint;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
mod ids;
pub mod packet;
mod prefetch;
pub mod proto;
pub mod report;
pub mod session;
mod symbol;
pub mod trust;

pub use fingerprint::{Fingerprint, FingerprintError};
pub use ids::{ChunkId, Micros, Sequence, SessionId, StreamId, SymbolIndex};
pub use prefetch::prefetch;
pub use symbol::{Checksums, Symbol};
