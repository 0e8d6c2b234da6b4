//! What keeps the control server from starting.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why there is no control server.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A file that holds a secret of the server, or its directory, could not be used.
    #[error("cannot {action} the sender's secret {}: {source}; --state-dir names another directory", path.display())]
    StateFile {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A secret could be read by others.
    #[error("{} holds a secret of the sender but has mode {mode:o}; run `chmod 600` on it", path.display())]
    SecretExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not an identity.
    #[error(
        "{} does not hold a certificate and a key; restore it, or remove it and give receivers the new fingerprint", path.display()
    )]
    IdentityDamaged {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a token.
    #[error("{} does not hold an operator's token; remove it and restart the sender, which makes a new one", path.display())]
    TokenDamaged {
        /// The file.
        path: PathBuf,
    },
    /// The TLS library refused certificate or key.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; --listen names another address or port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No threads could be started.
    #[error("cannot start the control server's threads: {0}")]
    Runtime(#[source] io::Error),
}
