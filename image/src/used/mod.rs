//! Which bytes of a disk are in use: partitions are found, and in each the blocks that its filesystem has allocated. What is free may hold an
//! earlier tenant's data; it is neither stored nor sent.
//!
//! Every reader here parses bytes that somebody else wrote: it never panics, never loops for long and takes memory in proportion to the
//! used ranges only. A filesystem that it does not fully understand, that looks damaged or that is in use, is [`Finding::Whole`].

mod ranges;

pub use ranges::Ranges;

/// What a reader says of a partition (or of a disk without partitions).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is understood: only these bytes have to be stored.
    Used {
        /// The filesystem by its usual name: "ext4", "xfs".
        filesystem: &'static str,
        /// Its bytes in use, counted from the start of the partition.
        used: Ranges,
    },
    /// It is recognised, but all of it has to be stored.
    Whole {
        /// The filesystem by its usual name.
        filesystem: &'static str,
        /// Why, for the operator: "it was not cleanly unmounted".
        why: String,
    },
}
