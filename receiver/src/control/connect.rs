//! One connection to a sender: TCP, TLS, enrolment, and the checks on what the sender answers.

use super::address::ServerAddress;
use super::backoff::random_u64;
use super::error::ControlError;
use super::manifest::Announced;
use super::{ConnectOptions, Enrolled, StreamInfo};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{DnsName, ServerName};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use wire::proto::v1::provision_client::ProvisionClient;
use wire::proto::{MESSAGE_BYTES_MAX, PROTOCOL_VERSION, v1};
use wire::session::SessionParameters;
use wire::trust::{GRPC, Trust, client_config, mismatch};
use wire::{Fingerprint, SessionId, StreamId};

/// To one of the server's addresses.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer, or the next part of a manifest, is small.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A sender that vanished is noticed within the sum of the two.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(4);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A manifest section is compressed; one of 1 TB of 4 KiB pages in no order at all would have a few bytes each.
const MANIFEST_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Header, directory of 4096 images, signature and trailer have 267 KB.
const PROOF_BYTES_MAX: u64 = 512 * 1024;
const STREAMS_MAX: usize = 1024;

/// Why an attempt failed.
pub(super) enum AttemptError {
    /// Trying again may help.
    Passing(String),
    /// It will not.
    Final(ControlError),
}

impl From<ControlError> for AttemptError {
    fn from(error: ControlError) -> AttemptError {
        AttemptError::Final(error)
    }
}

/// A connection on which this receiver is enrolled.
pub(super) struct Connection {
    pub(super) client: ProvisionClient<Channel>,
    pub(super) receiver_id: u64,
    /// Without its manifest and proof until [`Connector::fetch_manifest`].
    pub(super) enrolled: Enrolled,
    pub(super) manifest_bytes: u64,
    pub(super) proof_bytes: u64,
    /// Where manifests are multicast, if they are.
    pub(super) announced: Option<Announced>,
}

impl Connection {
    /// Of manifest and proof together.
    pub(super) fn description_bytes(&self) -> usize {
        // Both have been checked to be far below what an address space has.
        (self.manifest_bytes + self.proof_bytes) as usize
    }
}

/// A peer that is trusted, over TLS.
pub(super) struct Reached {
    stream: TlsStream<TcpStream>,
    pub(super) fingerprint: Fingerprint,
    pub(super) peer: SocketAddr,
}

impl Reached {
    /// Whether it serves receivers. A sender's doctor speaks nothing over its TLS.
    pub(super) fn speaks_grpc(&self) -> bool {
        self.stream.get_ref().1.alpn_protocol() == Some(GRPC)
    }
}

/// Makes connections to one sender for one image.
pub(super) struct Connector {
    pub(super) server: ServerAddress,
    name: String,
    group: String,
    image: String,
    /// Names this run of the agent, see `EnrolRequest.instance`.
    instance: u64,
    trust: Trust,
    tls: Arc<ClientConfig>,
}

impl Connector {
    pub(super) fn new(options: &ConnectOptions) -> Result<Connector, ControlError> {
        Ok(Connector {
            server: options.server.clone(),
            name: options.name.clone(),
            group: options.group.clone(),
            image: options.image.clone(),
            instance: random_u64(),
            trust: options.trust,
            tls: Arc::new(client_config(options.trust, GRPC)?),
        })
    }

    /// Connects and enrols once.
    pub(super) async fn connect(&mut self) -> Result<Connection, AttemptError> {
        let reached = self.reach().await?;
        if self.trust == Trust::AnyServer {
            self.trust = Trust::Pin(reached.fingerprint);
            self.tls = Arc::new(client_config(self.trust, GRPC).map_err(ControlError::Tls)?);
        }
        self.enrol(reached).await
    }

    /// Connects, and sees to it that the peer is trusted.
    pub(super) async fn reach(&self) -> Result<Reached, AttemptError> {
        let (stream, peer) = self.tcp().await.map_err(AttemptError::Passing)?;
        let (stream, fingerprint) = self.tls(stream).await?;
        Ok(Reached { stream, fingerprint, peer })
    }

    /// Enrols with a peer that has been reached.
    pub(super) async fn enrol(&self, reached: Reached) -> Result<Connection, AttemptError> {
        let Reached { stream, fingerprint, .. } = reached;
        let channel = channel(stream).await.map_err(|error| AttemptError::Passing(format!("HTTP/2: {error}")))?;
        let mut client =
            ProvisionClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let request = v1::EnrolRequest {
            protocol_version: PROTOCOL_VERSION,
            receiver_name: self.name.clone(),
            image: self.image.clone(),
            instance: self.instance,
            group: self.group.clone(),
        };
        let reply = match timeout(ANSWER_TIMEOUT, client.enrol(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(self.refusal(&status)),
            Err(_) => return Err(AttemptError::Passing("it does not answer".to_owned())),
        };
        let (receiver_id, manifest_bytes, proof_bytes) = (reply.receiver_id, reply.manifest_bytes, reply.proof_bytes);
        let enrolled = checked_reply(&reply, fingerprint).map_err(|reason| self.unusable(reason))?;
        let announced = reply.description.as_ref().map(checked_description).transpose().map_err(|reason| self.unusable(reason))?;
        Ok(Connection { client, receiver_id, enrolled, manifest_bytes, proof_bytes, announced })
    }

    async fn tcp(&self) -> Result<(TcpStream, SocketAddr), String> {
        let target = (self.server.host.as_str(), self.server.port);
        let addresses = timeout(TCP_TIMEOUT, tokio::net::lookup_host(target)).await;
        let addresses = addresses.map_err(|_| "its name cannot be looked up: no answer".to_owned())?;
        let mut last = "its name has no address".to_owned();
        for address in addresses.map_err(|error| format!("its name cannot be looked up: {error}"))? {
            match timeout(TCP_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Reports are small and wanted at once; without it they are only later.
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, address));
                }
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => last = "no answer".to_owned(),
            }
        }
        Err(last)
    }

    async fn tls(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, Fingerprint), AttemptError> {
        // A valid name that means nothing: rustls wants one, the verifier does not look at it, and it is not sent.
        let name = DnsName::try_from("discus").map_err(|_| self.unusable("no server name".to_owned()))?;
        let handshake = TlsConnector::from(self.tls.clone()).connect(ServerName::DnsName(name), stream);
        let stream = match timeout(TLS_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(match mismatch(&error) {
                    Some(mismatch) => {
                        let server = self.server.clone();
                        ControlError::Fingerprint { server, expected: mismatch.expected, got: mismatch.got }.into()
                    }
                    None => AttemptError::Passing(format!("TLS handshake: {error}")),
                });
            }
            Err(_) => return Err(AttemptError::Passing("TLS handshake: no answer".to_owned())),
        };
        let certificate =
            stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|certificate| Fingerprint::of(certificate));
        let fingerprint = certificate.ok_or_else(|| self.unusable("no certificate".to_owned()))?;
        Ok((stream, fingerprint))
    }

    pub(super) fn refusal(&self, status: &Status) -> AttemptError {
        let reason = status.message().to_owned();
        match status.code() {
            Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument => {
                ControlError::Refused { server: self.server.clone(), reason }.into()
            }
            Code::Unimplemented | Code::OutOfRange => self.unusable(reason),
            _ => AttemptError::Passing(reason),
        }
    }

    pub(super) fn unusable(&self, reason: String) -> AttemptError {
        ControlError::Answer { server: self.server.clone(), reason }.into()
    }
}

/// gRPC over one established connection; it fails, rather than connect anew, when that is gone, since an enrolment belongs to its
/// connection. For programs that make connections of their own, such as load generators, too.
///
/// # Errors
/// When the peer does not speak HTTP/2.
pub async fn channel(stream: TlsStream<TcpStream>) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { stream }
    });
    Endpoint::from_static("http://discus")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(once)
        .await
}

/// Reads the answer to an enrolment; the error says what is wrong with it.
fn checked_reply(reply: &v1::EnrolReply, fingerprint: Fingerprint) -> Result<Enrolled, String> {
    if reply.protocol_version != PROTOCOL_VERSION {
        return Err(format!("protocol version {}, this receiver speaks {PROTOCOL_VERSION}", reply.protocol_version));
    }
    if reply.erasure_code() != v1::ErasureCode::CauchyGf256 {
        return Err(format!("erasure code {}", reply.erasure_code));
    }
    if reply.manifest_bytes > MANIFEST_BYTES_MAX {
        return Err(format!("a manifest of {} bytes", reply.manifest_bytes));
    }
    if reply.proof_bytes > PROOF_BYTES_MAX {
        return Err(format!("a proof of {} bytes", reply.proof_bytes));
    }
    let pack_root = reply.pack_root.as_slice().try_into().map_err(|_| format!("a pack root of {} bytes", reply.pack_root.len()))?;
    let symbol_bytes = u16::try_from(reply.symbol_bytes).map_err(|_| format!("symbols of {} bytes", reply.symbol_bytes))?;
    let parameters = SessionParameters {
        session: SessionId(reply.session_id),
        symbol_bytes,
        chunk_count: reply.chunk_count,
        chunk_bytes_max: reply.chunk_bytes_max,
    };
    let parameters = parameters.checked().map_err(|error| error.to_string())?;
    if reply.streams.is_empty() || reply.streams.len() > STREAMS_MAX {
        return Err(format!("{} streams", reply.streams.len()));
    }
    let streams = reply.streams.iter().map(checked_stream).collect::<Result<_, _>>()?;
    Ok(Enrolled {
        receiver_id: reply.receiver_id,
        parameters,
        pack_root,
        manifest: Vec::new(),
        proof: Vec::new(),
        manifest_by_multicast: false,
        streams,
        report_interval_us: reply.report_interval_us,
        server_fingerprint: fingerprint,
    })
}

fn checked_stream(stream: &v1::Stream) -> Result<StreamInfo, String> {
    let wrong = || format!("stream {} with group {:?} and source {:?}", stream.stream, stream.group, stream.source);
    let id = u16::try_from(stream.stream).map_err(|_| wrong())?;
    let (group, source) = checked_group(&stream.group, &stream.source).ok_or_else(wrong)?;
    Ok(StreamInfo { id: StreamId(id), group, source })
}

/// A multicast group with its port, and the address of the same family that its packets come from.
fn checked_group(group: &str, source: &str) -> Option<(SocketAddr, IpAddr)> {
    let (group, source): (SocketAddr, IpAddr) = (group.parse().ok()?, source.parse().ok()?);
    (group.ip().is_multicast() && group.port() != 0 && group.is_ipv4() == source.is_ipv4()).then_some((group, source))
}

fn checked_description(description: &v1::Description) -> Result<Announced, String> {
    let wrong = || format!("a descriptive stream with group {:?} and source {:?}", description.group, description.source);
    let (group, _) = checked_group(&description.group, &description.source).ok_or_else(wrong)?;
    let hash = description.hash.as_slice().try_into().map_err(|_| wrong())?;
    Ok(Announced { group, hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> v1::EnrolReply {
        v1::EnrolReply {
            protocol_version: PROTOCOL_VERSION,
            receiver_id: 1,
            session_id: 2,
            pack_root: vec![3; 32],
            symbol_bytes: 1408,
            chunk_count: 10,
            chunk_bytes_max: 256 * 1024,
            manifest_bytes: 100,
            erasure_code: v1::ErasureCode::CauchyGf256.into(),
            streams: vec![v1::Stream { stream: 0, group: "239.192.68.1:4700".to_owned(), source: "10.0.0.1".to_owned() }],
            report_interval_us: 10_000,
            proof_bytes: 0,
            description: None,
        }
    }

    #[test]
    fn only_an_answer_that_can_be_used_is_taken() {
        let check = |reply: &v1::EnrolReply| checked_reply(reply, Fingerprint([0; 32]));
        assert!(check(&reply()).is_ok());
        let stream = |group: &str, source: &str| v1::Stream { stream: 0, group: group.to_owned(), source: source.to_owned() };
        for bad in [
            v1::EnrolReply { protocol_version: 2, ..reply() },
            v1::EnrolReply { erasure_code: 0, ..reply() },
            v1::EnrolReply { manifest_bytes: u64::MAX, ..reply() },
            v1::EnrolReply { proof_bytes: u64::MAX, ..reply() },
            v1::EnrolReply { pack_root: vec![0; 31], ..reply() },
            v1::EnrolReply { symbol_bytes: 0, ..reply() },
            v1::EnrolReply { symbol_bytes: 65_536 + 1408, ..reply() },
            v1::EnrolReply { chunk_bytes_max: u32::MAX, ..reply() },
            v1::EnrolReply { streams: vec![], ..reply() },
            v1::EnrolReply { streams: vec![stream("10.0.0.1:4700", "10.0.0.1")], ..reply() },
            v1::EnrolReply { streams: vec![stream("239.192.68.1:0", "10.0.0.1")], ..reply() },
            v1::EnrolReply { streams: vec![stream("239.192.68.1:4700", "fd00::1")], ..reply() },
            v1::EnrolReply { streams: vec![v1::Stream { stream: 65_536, ..stream("239.192.68.1:4700", "10.0.0.1") }], ..reply() },
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_descriptive_stream_is_a_group_and_a_hash() {
        let good = v1::Description { group: "239.192.68.5:4700".to_owned(), source: "10.0.0.1".to_owned(), hash: vec![1; 32] };
        assert!(checked_description(&good).is_ok());
        for bad in [
            v1::Description { group: "10.0.0.1:4700".to_owned(), ..good.clone() },
            v1::Description { group: "239.192.68.5:0".to_owned(), ..good.clone() },
            v1::Description { source: "fd00::1".to_owned(), ..good.clone() },
            v1::Description { hash: vec![1; 31], ..good.clone() },
        ] {
            assert!(checked_description(&bad).is_err(), "{bad:?}");
        }
    }
}
