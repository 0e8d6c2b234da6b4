//! Why there is no connection to a sender.

use super::address::ServerAddress;
use wire::Fingerprint;

/// Why enrolment failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another machine answers at that address, or the sender has a new certificate.
    #[error(
        "{server} is not the expected sender: its certificate is {got}, expected {expected}; compare with what the sender prints at its start"
    )]
    Fingerprint {
        /// Where.
        server: ServerAddress,
        /// What was pinned.
        expected: Fingerprint,
        /// What it showed.
        got: Fingerprint,
    },
    /// The sender answered and said no: unknown image, another protocol version.
    #[error("{server} refused: {reason}")]
    Refused {
        /// Where.
        server: ServerAddress,
        /// The sender's words.
        reason: String,
    },
    /// The sender's answer cannot be used.
    #[error("{server} answered with something that this release cannot use: {reason}")]
    Answer {
        /// Where.
        server: ServerAddress,
        /// What.
        reason: String,
    },
    /// A sender answers at the address, but it serves something else than when this receiver began.
    #[error("{server} now serves {what}; start again to take it")]
    Changed {
        /// Where.
        server: ServerAddress,
        /// What differs.
        what: &'static str,
    },
    /// Nobody answered in time.
    #[error("no sender at {server} within {seconds} s: {last}")]
    Unreachable {
        /// Where.
        server: ServerAddress,
        /// For how long it was tried.
        seconds: u64,
        /// Why the last attempt failed.
        last: String,
    },
    /// The TLS library could not be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// No thread could be started.
    #[error("cannot start the control thread: {0}")]
    Thread(#[source] std::io::Error),
}
