//! Which chunk and which symbols go next: the sans-I/O scheduler. `docs/protocol.md` explains the protocol and its constants.
//!
//! [`Scheduler`] is told what happens ([`Event`]) and asked what a stream sends next ([`Next`]). It has no clock, thread, socket or
//! random source: the program and the simulator drive the same code. Its memory is bounded by the chunks of the pack, and per receiver by
//! one bit per chunk and one small record per chunk that the receiver lacks.
//!
//! * `action`: the values that go in and out.
//! * `scheduler`: the machine: what reports make of each chunk, what is queued, what becomes a group.
//! * `roster`: the receivers, what each wants and lacks, who is attending; and per chunk the demand that they make.
//! * `stream`: positions, groups in flight, idle syncs.
//! * `needs`, `chunk_set`: the sums and sets that they work on.
//! * `priority`: how many receivers of each priority want a chunk.
//! * `delivery`: several streams, each with a scheduler of its own, as planned.
//! * `plan`: which streams there should be, by what receivers can restore.
//! * `straggler`: the operator's policy on receivers that cannot keep up.
//! * `rate`: how fast.
//! * `loss`, `proactive`: what the losses are like, and how much is sent against them before anybody asks.

mod action;
mod chunk_set;
mod delivery;
mod loss;
mod needs;
mod plan;
mod priority;
mod proactive;
mod rate;
mod roster;
mod scheduler;
mod straggler;
mod stream;

pub use action::{ChunkSymbols, Event, GROUP_CHUNKS_MAX, Group, Next, ReceiverId, ScheduleConfig, Totals};
pub use delivery::{Delivery, DeliveryConfig, Order};
pub use plan::{Class, Device, Level, Pace, Ranked, Situation, StreamPlan};
pub use rate::RateControl;
pub use scheduler::Scheduler;
pub use straggler::{Remedy, StragglerPolicy, Threshold};
pub use wire::Micros;
