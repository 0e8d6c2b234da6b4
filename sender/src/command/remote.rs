//! Asks a running sender over its control port: where it is, how it is known, and one HTTPS request at a time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use clap::Args;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use sender::control::{OperatorToken, ServerIdentity, default_state_dir};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use wire::Fingerprint;
use wire::trust::{PAGES, Trust, client_config, mismatch};

/// The port of a control server unless the operator says otherwise.
pub(super) const CONTROL_PORT: u16 = 4700;
/// From the first packet to the end of the answer. The sender itself gives up on a request after 10 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest answer that is read: the status of 10,000 receivers has some 7 MB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Printed below the help of every subcommand that asks a running sender.
pub(super) const HELP: &str = "\
On the machine where `discus serve` runs, certificate and token are read from its state directory. From elsewhere, copy the token
(the file `operator-token` of that directory, mode 600) and give:
  --server HOST:4700 --server-fingerprint sha256:... --token-file FILE

Exit codes:
  0  success
  1  the sender refused, or another failure
  2  wrong usage
  7  the sender cannot be reached, or another one answers";

/// Which sender is asked, and what shows that this may be.
#[derive(Args)]
pub(super) struct SenderArgs {
    /// The sender's control address, as `discus serve` prints it.
    #[arg(long, value_name = "HOST[:PORT]", default_value = "localhost:4700")]
    server: String,
    /// The state directory of the sender on this machine. [default: /var/lib/discus for root, else under $XDG_STATE_HOME]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The fingerprint of a sender elsewhere, as `discus serve` prints it. [default: that of the state directory]
    #[arg(long, value_name = "sha256:HEX")]
    server_fingerprint: Option<Fingerprint>,
    /// A file with the operator's token. [default: that of the state directory]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    #[error("cannot reach a sender at {server}: {source}; --server names its control address")]
    Unreachable { server: String, source: io::Error },
    #[error("the sender at {server} has the certificate {got}, not {expected}; it is another one, or its state directory was replaced")]
    Untrusted { server: String, expected: Fingerprint, got: Fingerprint },
    #[error("what answers at {server} is no sender, or the connection broke: {source}")]
    NoAnswer { server: String, source: hyper::Error },
    #[error("the sender wants the operator's token: run this where its state directory is, or give --token-file")]
    TokenMissing,
    #[error("the sender does not take this token; it has another one in its state directory")]
    TokenWrong,
    #[error("the sender refused: {0}")]
    Refused(String),
    #[error("the answer of {server} cannot be read; install the same release of discus on both")]
    Unreadable { server: String },
}

impl RemoteError {
    /// Whether it is about who answers rather than what.
    pub(super) fn is_of_the_network(&self) -> bool {
        matches!(self, RemoteError::Unreachable { .. } | RemoteError::Untrusted { .. } | RemoteError::NoAnswer { .. })
    }
}

/// A sender that can be asked.
pub(super) struct Remote {
    server: String,
    authorization: Option<String>,
    tls: TlsConnector,
    runtime: Runtime,
}

impl Remote {
    pub(super) fn new(args: &SenderArgs) -> anyhow::Result<Remote> {
        let fingerprint = match args.server_fingerprint {
            Some(fingerprint) => fingerprint,
            None => ServerIdentity::load_from(&state_dir(args.state_dir.as_deref())?)
                .context("there is no sender's certificate to compare with; --server-fingerprint names that of a sender elsewhere")?
                .fingerprint(),
        };
        let token = match (&args.token_file, args.server_fingerprint) {
            (Some(file), _) => Some(OperatorToken::load_file(file)?),
            (None, None) => Some(OperatorToken::load_from(&state_dir(args.state_dir.as_deref())?)?),
            // A sender elsewhere has nothing to do with the state directory here; its status may be public.
            (None, Some(_)) => None,
        };
        Ok(Remote {
            server: with_port(&args.server),
            authorization: token.map(|token| token.authorization()),
            tls: TlsConnector::from(Arc::new(client_config(Trust::Pin(fingerprint), PAGES)?)),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        })
    }

    /// The sender on this machine at `server`, with what its state directory holds.
    pub(super) fn here(state_dir: Option<&Path>, server: SocketAddr) -> anyhow::Result<Remote> {
        let state_dir = state_dir.map(Path::to_owned);
        Remote::new(&SenderArgs { server: server.to_string(), state_dir, server_fingerprint: None, token_file: None })
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// One request over a connection of its own; the answer as JSON.
    pub(super) fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, RemoteError> {
        let request = async { timeout(REQUEST_TIMEOUT, self.exchange(method, path, body)).await };
        let (status, answer) = self.runtime.block_on(request).unwrap_or_else(|_| {
            Err(self.unreachable(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))))
        })?;
        let answer: Option<Value> = serde_json::from_slice(&answer).ok();
        match (status, answer) {
            (status, Some(answer)) if status.is_success() => Ok(answer),
            (StatusCode::UNAUTHORIZED, _) if self.authorization.is_none() => Err(RemoteError::TokenMissing),
            (StatusCode::UNAUTHORIZED, _) => Err(RemoteError::TokenWrong),
            (status, Some(answer)) => Err(RemoteError::Refused(answer["error"].as_str().map_or_else(|| status.to_string(), str::to_owned))),
            (status, None) if !status.is_success() => Err(RemoteError::Refused(status.to_string())),
            _ => Err(RemoteError::Unreadable { server: self.server.clone() }),
        }
    }

    fn unreachable(&self, source: io::Error) -> RemoteError {
        RemoteError::Unreachable { server: self.server.clone(), source }
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Vec<u8>), RemoteError> {
        let stream = TcpStream::connect(&self.server).await.map_err(|source| self.unreachable(source))?;
        // No name is compared, but rustls wants one.
        let name = ServerName::from(IpAddr::from([127, 0, 0, 1]));
        let stream = self.tls.connect(name, stream).await.map_err(|source| match mismatch(&source) {
            Some(mismatch) => RemoteError::Untrusted { server: self.server.clone(), expected: mismatch.expected, got: mismatch.got },
            None => self.unreachable(source),
        })?;
        let no_answer = |source| RemoteError::NoAnswer { server: self.server.clone(), source };
        let (mut calls, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
        // It lives as long as the runtime at most; what it says of its end shows in the answer.
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "discus");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        // The parts are constants, a number and a checked token.
        let request = request.body(body).map_err(|_| RemoteError::Unreadable { server: self.server.clone() })?;
        let response = calls.send_request(request).await.map_err(no_answer)?;
        let status = response.status();
        let answer = axum::body::to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await;
        connection.abort();
        Ok((status, answer.map_err(|_| RemoteError::Unreadable { server: self.server.clone() })?.to_vec()))
    }
}

/// Where the sender on this machine keeps certificate, key and token.
pub(super) fn state_dir(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    let default = || default_state_dir().context("there is no home directory that has a sender's key; give --state-dir");
    asked.map_or_else(default, |asked| Ok(asked.to_owned()))
}

/// An address with its port, as the resolver takes it.
fn with_port(server: &str) -> String {
    let bare = server.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(server);
    match bare.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, CONTROL_PORT).to_string(),
        Err(_) if server.contains(':') => server.to_owned(),
        Err(_) => format!("{server}:{CONTROL_PORT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        let cases = [
            ("sender", "sender:4700"),
            ("sender:1", "sender:1"),
            ("10.0.0.1", "10.0.0.1:4700"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("::1", "[::1]:4700"),
            ("[::1]", "[::1]:4700"),
            ("[::1]:1", "[::1]:1"),
        ];
        for (given, full) in cases {
            assert_eq!(with_port(given), full);
        }
    }
}
