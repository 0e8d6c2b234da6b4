//! The control port while a sender's doctor probes: receivers' doctors find out whether they reach it, and whether it is the sender that they mean. It
//! speaks TLS with this sender's certificate, and nothing over that; where `discus serve` runs already, that is what they speak with.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use wire::Fingerprint;
use wire::doctor::Finding;
use wire::trust::{GRPC, Trust, client_config};

use crate::control::{ServerIdentity, bind};

/// From the first packet until the receiver's doctor has seen what it wants.
const CONNECTION_LIMIT: Duration = Duration::from_secs(5);
/// Connections at a time: more than a rack that is told to look at once; each has some 50 KB.
const CONNECTIONS_MAX: usize = 256;
/// Whose names are kept.
const ADDRESSES_MAX: usize = 4096;
/// Whose names are printed.
const ADDRESSES_SHOWN: usize = 8;
/// After an accept that failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open port.
pub struct ControlPort {
    address: SocketAddr,
    fingerprint: Fingerprint,
    heard: Arc<Mutex<Heard>>,
    runtime: tokio::runtime::Runtime,
}

/// Who has connected.
#[derive(Default)]
struct Heard {
    trusted: BTreeSet<IpAddr>,
    refused: BTreeSet<IpAddr>,
}

impl ControlPort {
    /// Opens the port at `address` with the identity that `discus serve` keeps in `state_dir`. When there is none it is made, as `discus serve` would: so
    /// receivers can be told what to expect before the first transfer.
    ///
    /// # Errors
    /// What there is to say of the port when it is not opened: also that all is well, because `discus serve` has it.
    pub fn open(state_dir: &Path, address: SocketAddr) -> Result<ControlPort, Finding> {
        let failed = |why: String| Finding::fail("control", why, "discus serve would fail in the same way");
        let identity = ServerIdentity::load_or_create(state_dir).map_err(|error| failed(error.to_string()))?;
        let fingerprint = identity.fingerprint();
        let mut tls = identity.tls_config().map_err(|error| failed(error.to_string()))?;
        // By this a receiver's doctor knows that nothing is served here.
        tls.alpn_protocols.clear();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        let opened = runtime.block_on(async { bind(address) });
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(runtime.block_on(taken(address, fingerprint))),
            Err(error) => return Err(failed(format!("{address}: {error}"))),
        };
        let heard = Arc::default();
        runtime.spawn(accept(socket, TlsAcceptor::from(Arc::new(tls)), Arc::clone(&heard)));
        Ok(ControlPort { address, fingerprint, heard, runtime })
    }

    /// What receivers' doctors compare with.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Closes the port and says who has connected.
    pub fn end(self) -> Finding {
        self.runtime.shutdown_background();
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let trusted = match heard.trusted.len() {
            0 => "no receiver's doctor has asked for this sender".to_owned(),
            _ => format!("this sender was reached and known by {}", list(&heard.trusted)),
        };
        let found = format!("TCP port {}: {trusted}", self.address.port());
        if heard.refused.is_empty() {
            return Finding::ok("control", found);
        }
        let advice = format!("there: --server-fingerprint {}", self.fingerprint);
        Finding::warn("control", format!("{found}; another sender is expected by {}", list(&heard.refused)), advice)
    }
}

/// Somebody has the port: `discus serve` with this certificate, or who hinders it.
async fn taken(address: SocketAddr, fingerprint: Fingerprint) -> Finding {
    let port = address.port();
    match knows(address, fingerprint).await {
        Ok(()) => Finding::ok("control", format!("TCP port {port}: discus serve has it, with this sender's certificate")),
        Err(error) => Finding::fail(
            "control",
            format!("TCP port {port} is taken, and not by this sender ({error})"),
            format!("ss -ltnp sport = :{port} shows by whom; or discus serve --listen with another port"),
        ),
    }
}

/// Where a sender on this machine that listens at `listen` is reached.
pub fn reached_at(listen: SocketAddr) -> SocketAddr {
    // `[::]` takes IPv4 too.
    let ip = if listen.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listen.ip() };
    SocketAddr::new(ip, listen.port())
}

/// Whether the sender with this fingerprint answers on this machine.
async fn knows(address: SocketAddr, fingerprint: Fingerprint) -> io::Result<()> {
    let here = reached_at(address);
    let config = client_config(Trust::Pin(fingerprint), GRPC).map_err(io::Error::other)?;
    let ask = async {
        let stream = TcpStream::connect(here).await?;
        // No name is compared, but rustls wants one.
        TlsConnector::from(Arc::new(config)).connect(ServerName::from(here.ip()), stream).await
    };
    timeout(CONNECTION_LIMIT, ask).await??;
    Ok(())
}

async fn accept(socket: TcpListener, tls: TlsAcceptor, heard: Arc<Mutex<Heard>>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, peer)) = socket.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (tls, heard) = (tls.clone(), Arc::clone(&heard));
        tokio::spawn(async move {
            // Who takes longer is nobody's doctor.
            let _ = timeout(CONNECTION_LIMIT, answer(stream, peer.ip().to_canonical(), tls, &heard)).await;
            drop(slot);
        });
    }
}

async fn answer(stream: TcpStream, peer: IpAddr, tls: TlsAcceptor, heard: &Mutex<Heard>) {
    let outcome = tls.accept(stream).await;
    // A port scanner ends otherwise.
    let is_refusal = |error: &io::Error| {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        matches!(cause, Some(rustls::Error::AlertReceived(_)))
    };
    {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let list = match &outcome {
            Ok(_) => &mut heard.trusted,
            Err(error) if is_refusal(error) => &mut heard.refused,
            Err(_) => return,
        };
        if list.len() < ADDRESSES_MAX {
            list.insert(peer);
        }
    }
    if let Ok(mut stream) = outcome {
        // Until it hangs up; what it says means nothing.
        let mut buffer = [0; 512];
        while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
    }
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    let shown: Vec<String> = addresses.iter().take(ADDRESSES_SHOWN).map(ToString::to_string).collect();
    match addresses.len().saturating_sub(ADDRESSES_SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::doctor::Verdict;

    const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn what_would_keep_the_sender_from_serving_is_found() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("server-identity.pem"), "not a key").unwrap();
        let finding = ControlPort::open(directory.path(), ANY_PORT).err().unwrap();
        assert_eq!(finding.verdict, Verdict::Fail, "{finding}");
    }

    #[test]
    fn before_the_first_transfer_the_certificate_is_made_that_will_be_served_with() {
        let directory = tempfile::tempdir().unwrap();
        let port = ControlPort::open(directory.path(), ANY_PORT).unwrap_or_else(|finding| panic!("{finding}"));
        assert_eq!(port.fingerprint(), ServerIdentity::load_from(directory.path()).unwrap().fingerprint());
        assert_eq!(port.end().verdict, Verdict::Ok);
    }

    #[test]
    fn a_port_that_this_sender_has_is_told_from_one_that_another_has() {
        let (this, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let identities = [&this, &other].map(|directory| ServerIdentity::load_or_create(directory.path()).unwrap());
        // A port that was free a moment ago.
        let address = std::net::TcpListener::bind(ANY_PORT).unwrap().local_addr().unwrap();
        let open = ControlPort::open(this.path(), address).unwrap_or_else(|finding| panic!("{finding}"));
        assert_eq!(open.fingerprint(), identities[0].fingerprint());
        // As a serving sender does, it answers who knows its certificate.
        let verdict = |directory: &tempfile::TempDir| ControlPort::open(directory.path(), address).err().unwrap().verdict;
        assert_eq!((verdict(&this), verdict(&other)), (Verdict::Ok, Verdict::Fail));
        let deadline = std::time::Instant::now() + CONNECTION_LIMIT;
        while open.heard.lock().unwrap().refused.is_empty() {
            assert!(std::time::Instant::now() < deadline, "the refusal was not heard");
            std::thread::sleep(Duration::from_millis(5));
        }
        let finding = open.end();
        assert_eq!(finding.verdict, Verdict::Warn, "one was known, one refused: {finding}");
        assert!(finding.found.contains("known by 127.0.0.1; another sender is expected by 127.0.0.1"), "{finding}");
    }
}
