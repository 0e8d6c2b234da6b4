//! One look at a sender, for the doctor: can it be reached, is it the one that is trusted, what does it answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::connect::{AttemptError, Connector, Reached};
use super::error::ControlError;
use super::{ConnectOptions, Enrolled};
use wire::Fingerprint;

/// A sender that was reached and is trusted.
#[derive(Debug)]
pub struct Seen {
    /// Which of its addresses.
    pub peer: SocketAddr,
    /// Its certificate.
    pub fingerprint: Fingerprint,
    /// From the first packet until TLS was established.
    pub took: Duration,
    /// Whether it serves: a sender's doctor does not.
    pub serves: bool,
    /// What it said of the image, if it was asked: without the manifest. This receiver stood on its list for that moment.
    pub enrolled: Option<Result<Enrolled, ControlError>>,
}

/// Connects to the sender, enrols there unless the image's name is empty, and hangs up. Tries once.
///
/// # Errors
/// [`ControlError`]: there is no sender, or another one.
pub fn look(options: &ConnectOptions) -> Result<Seen, ControlError> {
    let connector = Connector::new(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ControlError::Thread)?;
    let began = Instant::now();
    let final_error = |error| match error {
        AttemptError::Final(error) => error,
        AttemptError::Passing(last) => {
            ControlError::Unreachable { server: options.server.clone(), seconds: began.elapsed().as_secs(), last }
        }
    };
    let seen = runtime.block_on(async {
        let reached = connector.reach().await.map_err(final_error)?;
        let took = began.elapsed();
        let Reached { peer, fingerprint, .. } = reached;
        let serves = reached.speaks_grpc();
        let enrolled = if serves && !options.image.is_empty() {
            Some(connector.enrol(reached).await.map(|connection| connection.enrolled).map_err(final_error))
        } else {
            None
        };
        Ok(Seen { peer, fingerprint, took, serves, enrolled })
    });
    // Without waiting for a name lookup that hangs.
    runtime.shutdown_background();
    seen
}
