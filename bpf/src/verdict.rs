//! The filter's verdicts, and what becomes of a packet under each.

use std::fmt;

use crate::Action;

/// Why a packet goes where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not of the feed's ports, a fragment, not UDP or not parsable.
    Foreign,
    /// To the feed's ports with other match bytes, or too short to hold them.
    OtherSession,
    /// Match bytes right, but shorter than the feed's header or the shortest payload.
    Malformed,
    /// The id is not below the number of ids.
    IdOutOfRange,
    /// The id is not wanted, or no longer.
    Unwanted,
    /// Wanted, by ordinary sockets, or its queue has no AF_XDP socket.
    WantedPassed,
    /// Wanted, by the AF_XDP socket of its queue.
    WantedRedirected,
}

impl Verdict {
    /// All verdicts.
    pub const ALL: [Self; 7] = [
        Self::Foreign,
        Self::OtherSession,
        Self::Malformed,
        Self::IdOutOfRange,
        Self::Unwanted,
        Self::WantedPassed,
        Self::WantedRedirected,
    ];

    /// What becomes of the packet.
    pub const fn action(self) -> Action {
        match self {
            Self::Foreign | Self::OtherSession | Self::WantedPassed => Action::Pass,
            Self::Malformed | Self::IdOutOfRange | Self::Unwanted => Action::Drop,
            Self::WantedRedirected => Action::Redirect,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Foreign => "foreign",
            Self::OtherSession => "other session",
            Self::Malformed => "malformed",
            Self::IdOutOfRange => "id out of range",
            Self::Unwanted => "unwanted",
            Self::WantedPassed => "wanted, passed",
            Self::WantedRedirected => "wanted, redirected",
        })
    }
}
