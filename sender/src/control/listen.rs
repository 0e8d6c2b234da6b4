//! The listener: TCP, TLS and HTTP for gRPC and for the operator's pages, with a limit on everything that a peer can hold on to.

use super::connection::Connection;
use super::service::Service;
use super::{Limits, Shared, operator};
use crate::schedule::ReceiverId;
use axum::Router;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::Service as HyperService;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tower::ServiceExt;
use wire::proto::MESSAGE_BYTES_MAX;
use wire::proto::v1::provision_server::ProvisionServer;

/// A rack that is switched on connects at once.
const BACKLOG: u32 = 1024;
/// After an accept that failed for want of file descriptors: time for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A call must have been read and answered (the beginning of its answer, for streams) within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A receiver that vanished is noticed within the sum of the two. Issue of a lost link: 9 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(4);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection that is being closed may take to send what is due.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);
/// Attendance, manifest, enrolment, and a second attendance that replaces a first.
const CALLS_PER_CONNECTION_MAX: u32 = 4;
/// What HTTP/2 may buffer per call towards a slow peer, and headers of a request.
const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Opens the listening socket. `[::]` takes IPv4 too; where the kernel has no IPv6 it becomes `0.0.0.0`.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let open = |address: SocketAddr| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Not to wait out TIME_WAIT after a restart.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    match open(address) {
        Err(error) if no_ipv6(&error) && address.ip() == Ipv6Addr::UNSPECIFIED => open(SocketAddr::from(([0; 4], address.port()))),
        other => other,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL].contains(&error.raw_os_error().unwrap_or_default())
}

/// Everything that connections share.
pub(super) struct Listener {
    pub(super) tls: TlsAcceptor,
    pub(super) shared: Arc<Shared>,
    router: Router,
    /// A permit for each connection that may be open.
    slots: Arc<Semaphore>,
    per_address: Mutex<HashMap<IpAddr, u32>>,
    connections: AtomicU64,
}

impl Listener {
    pub(super) fn new(tls: TlsAcceptor, shared: Arc<Shared>) -> Listener {
        let service = ProvisionServer::new(Service { shared: shared.clone() })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let router = Routes::new(service).prepare().into_axum_router().merge(operator::pages(shared.clone()));
        let slots = Arc::new(Semaphore::new(shared.limits.connections_max));
        Listener { tls, shared, router, slots, per_address: Mutex::default(), connections: AtomicU64::new(0) }
    }

    /// Accepts until the server stops.
    pub(super) async fn run(self: Arc<Self>, socket: TcpListener) {
        let mut stopped = std::pin::pin!(self.shared.stopped());
        loop {
            let accepted = tokio::select! {
                // First: a receiver that was just told of the stop must not get in again.
                biased;
                () = &mut stopped => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until all connections are closed, or until the time is over.
    pub(super) async fn closed(&self) {
        let all = u32::try_from(self.shared.limits.connections_max).unwrap_or(u32::MAX);
        let _ = timeout(CLOSING_TIMEOUT, self.slots.acquire_many(all)).await;
    }

    /// Serves a connection in a task of its own, or drops it when there are too many.
    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "connection refused: {} are open", self.shared.limits.connections_max);
            return;
        };
        let Some(counted) = self.count(peer.ip()) else {
            tracing::warn!(%peer, "connection refused: {} of this address are open", self.shared.limits.connections_per_address_max);
            return;
        };
        let listener = self.clone();
        tokio::spawn(async move {
            listener.handshake(stream, peer).await;
            drop((counted, slot));
        });
    }

    fn count(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let network = network_of(address);
        let mut counts = self.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= self.shared.limits.connections_per_address_max {
            return None;
        }
        *count += 1;
        Some(Counted { listener: self.clone(), network })
    }

    async fn handshake(&self, stream: TcpStream, peer: SocketAddr) {
        // Reports and notices are small and wanted at once. A socket that refuses is served all the same.
        let _ = stream.set_nodelay(true);
        match timeout(self.shared.limits.handshake_timeout, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, peer).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
        }
    }

    async fn serve(&self, stream: tokio_rustls::server::TlsStream<TcpStream>, peer: SocketAddr) {
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let connection = Arc::new(Connection::new(self.connections.fetch_add(1, Ordering::Relaxed), peer));
        let service = Calls { connection: connection.clone(), router: self.router.clone() };
        let builder = connection_builder(http2, &self.shared.limits);
        let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let expired = async {
            loop {
                let expires_at = connection.expires_at(&self.shared.limits);
                if expires_at <= tokio::time::Instant::now() {
                    return;
                }
                sleep_until(expires_at).await;
            }
        };
        tokio::select! {
            result = served.as_mut() => if let Err(error) = result {
                tracing::debug!(%peer, error, "connection ended");
            },
            _ = async { tokio::select! { _ = expired => {}, () = self.shared.stopped() => {} } } => {
                served.as_mut().graceful_shutdown();
                let _ = timeout(CLOSING_TIMEOUT, served).await;
            }
        }
        if let Some((receiver, ..)) = connection.enrolled() {
            self.forget_unlisted(receiver, &connection);
        }
    }

    fn forget_unlisted(&self, receiver: ReceiverId, connection: &Connection) {
        self.shared.roster.forget_unlisted(receiver, connection.number);
    }
}

fn connection_builder(http2: bool, limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout).max_buf_size(HEADERS_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}

/// One connection's HTTP service: notes each call, hands it on with the connection attached, and bounds the time until its answer.
struct Calls {
    connection: Arc<Connection>,
    router: Router,
}

impl HyperService<hyper::Request<Incoming>> for Calls {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        self.connection.note_request();
        request.extensions_mut().insert(self.connection.clone());
        let answer = self.router.clone().oneshot(request);
        Box::pin(async move {
            timeout(REQUEST_TIMEOUT, answer).await.unwrap_or_else(|_| Ok(hyper::StatusCode::REQUEST_TIMEOUT.into_response()))
        })
    }
}

/// One peer's addresses: an IPv6 host has a whole /64.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Holds a connection's place in the count of its address.
struct Counted {
    listener: Arc<Listener>,
    network: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.listener.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}
