//! An XDP filter that lets through only the packets of a UDP feed whose id somebody on this machine
//! still wants, before the kernel's network stack and before user space.
//!
//! A *feed* is any UDP traffic (multicast or not) whose packets carry an id, an unsigned big-endian
//! number, at a fixed offset of the payload. The *want set* is a bitmap with one bit per id. It lives
//! in memory that the filter and the program share: clearing a bit is one atomic instruction, takes
//! effect with the next packet, and costs no system call.
//!
//! ```no_run
//! use bpf::{AttachMode, Filter, FilterConfig, IdWidth, OnWanted};
//!
//! let config = FilterConfig {
//!     first_port: 5000,
//!     port_count: 1,
//!     match_offset: 0,
//!     match_value: 0x4645_4544_0000_0000, // "FEED" in the first four bytes
//!     match_mask: 0xffff_ffff_0000_0000,
//!     id_offset: 8,
//!     id_width: IdWidth::U32,
//!     id_count: 100_000,
//!     on_wanted: OnWanted::Pass,
//!     min_payload_bytes: 12,
//!     streams: None,
//! };
//! let filter = Filter::attach("eth1", &config, AttachMode::Auto)?;
//! println!("filter attached in {}", filter.mode());
//! let wanted = filter.want_set();
//! wanted.set(7);
//! // ... packet 7 arrived and is safe:
//! wanted.clear(7);
//! println!("{:?}", filter.counters());
//! filter.detach()?;
//! # Ok::<(), bpf::Error>(())
//! ```
//!
//! Needs Linux 5.18 (XDP with multi-buffer packets) and root or `CAP_BPF`, `CAP_PERFMON` and
//! `CAP_NET_ADMIN`. The C program at `c/filter.bpf.c` lists which packet gets which verdict.

mod config;
mod counters;
mod error;
mod filter;
pub mod fixtures;
mod kernel;
mod libbpf_log;
mod mark;
pub mod measure;
mod shared;
mod skeleton;
mod verdict;
mod want_set;

pub use config::{FilterConfig, IdWidth, OnWanted, Streams};
pub use counters::Counters;
pub use error::Error;
pub use filter::{AttachMode, AttachedMode, Filter, LoadedFilter};
pub use kernel::{Action, TestRun};
pub use mark::{Mark, STREAMS_MAX};
pub use verdict::Verdict;
pub use want_set::WantSet;
