//! The filter's counters: one per verdict, kept per CPU by the kernel and summed here.

use std::mem::offset_of;
use std::ops::Sub;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::Verdict;
use crate::shared::CounterRow;
use crate::skeleton::types::counter_row;

/// Packets by verdict since the filter was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Not of the feed's ports, a fragment, not UDP or not parsable: passed to the kernel's stack.
    pub foreign: u64,
    /// To the feed's ports with other match bytes, or too short to hold them: passed to the kernel's stack.
    pub other_session: u64,
    /// Match bytes right, but shorter than the feed's header or the shortest payload: dropped.
    pub malformed: u64,
    /// The id is not below the number of ids: dropped.
    pub id_out_of_range: u64,
    /// The id is not wanted, or no longer: dropped.
    pub unwanted: u64,
    /// Wanted, and passed to the kernel's stack, as asked for or because its queue has no AF_XDP socket.
    pub wanted_passed: u64,
    /// Wanted, and redirected into the AF_XDP socket of its queue.
    pub wanted_redirected: u64,
}

impl Counters {
    /// The sum over all rows.
    pub(crate) fn sum(rows: &[CounterRow]) -> Self {
        const fn place(offset_bytes: usize) -> usize {
            offset_bytes / size_of::<u64>()
        }
        // Adding wraps like the kernel's counters do.
        let sum = |place: usize| rows.iter().fold(0, |sum: u64, row| sum.wrapping_add(row[place].load(Ordering::Relaxed)));
        Self {
            foreign: sum(const { place(offset_of!(counter_row, foreign)) }),
            other_session: sum(const { place(offset_of!(counter_row, other_session)) }),
            malformed: sum(const { place(offset_of!(counter_row, malformed)) }),
            id_out_of_range: sum(const { place(offset_of!(counter_row, id_out_of_range)) }),
            unwanted: sum(const { place(offset_of!(counter_row, unwanted)) }),
            wanted_passed: sum(const { place(offset_of!(counter_row, wanted_passed)) }),
            wanted_redirected: sum(const { place(offset_of!(counter_row, wanted_redirected)) }),
        }
    }

    /// The packets under one verdict.
    pub fn of(&self, verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Foreign => self.foreign,
            Verdict::OtherSession => self.other_session,
            Verdict::Malformed => self.malformed,
            Verdict::IdOutOfRange => self.id_out_of_range,
            Verdict::Unwanted => self.unwanted,
            Verdict::WantedPassed => self.wanted_passed,
            Verdict::WantedRedirected => self.wanted_redirected,
        }
    }

    /// All packets that the filter has seen.
    pub fn seen(&self) -> u64 {
        self.foreign + self.other_session + self.feed()
    }

    /// Packets that carried the feed's match bytes.
    pub fn feed(&self) -> u64 {
        self.accepted() + self.dropped()
    }

    /// Wanted packets.
    pub fn accepted(&self) -> u64 {
        self.wanted_passed + self.wanted_redirected
    }

    /// Packets of the feed that ended in the filter.
    pub fn dropped(&self) -> u64 {
        self.malformed + self.id_out_of_range + self.unwanted
    }
}

/// What happened between two readings.
impl Sub for Counters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            foreign: self.foreign - earlier.foreign,
            other_session: self.other_session - earlier.other_session,
            malformed: self.malformed - earlier.malformed,
            id_out_of_range: self.id_out_of_range - earlier.id_out_of_range,
            unwanted: self.unwanted - earlier.unwanted,
            wanted_passed: self.wanted_passed - earlier.wanted_passed,
            wanted_redirected: self.wanted_redirected - earlier.wanted_redirected,
        }
    }
}

// The C program's row and this crate's view of it are the same 64 bytes.
const _: () = assert!(size_of::<counter_row>() == size_of::<CounterRow>());
