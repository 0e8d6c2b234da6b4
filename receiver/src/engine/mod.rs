//! The threads of a receiver: intake, finishing and what joins them.
