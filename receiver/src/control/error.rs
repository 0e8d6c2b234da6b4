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
    #[error("no sender at {server}{}: {last}", within(*seconds))]
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

/// For how long it was tried, unless that was one short attempt.
fn within(seconds: u64) -> String {
    if seconds == 0 { String::new() } else { format!(" within {seconds} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_attempt_is_not_said_to_have_lasted_no_time() {
        let server = ServerAddress { host: "sender".to_owned(), port: 4700 };
        let unreachable = |seconds| ControlError::Unreachable { server: server.clone(), seconds, last: "refused".to_owned() }.to_string();
        assert_eq!(unreachable(0), "no sender at sender:4700: refused");
        assert_eq!(unreachable(9), "no sender at sender:4700 within 9 s: refused");
    }
}
