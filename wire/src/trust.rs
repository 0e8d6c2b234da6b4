//! Trust in the sender, by whoever connects to it: its certificate is compared with a pinned fingerprint; names, dates and authorities play no part, since a
//! machine in its first boot has neither a clock nor a store of authorities. The handshake's signature is verified as ever, so the
//! peer has the certificate's key.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, PeerIncompatible, SignatureScheme};

use crate::Fingerprint;

/// What receivers speak over TLS (RFC 7301 name): gRPC over HTTP/2.
pub const GRPC: &[u8] = b"h2";
/// … and what operators' programs speak.
pub const PAGES: &[u8] = b"http/1.1";

/// Which sender is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Only the one with this certificate.
    Pin(Fingerprint),
    /// Whichever answers first, and from then on only that one. Whoever controls the network can then choose what is installed.
    AnyServer,
}

/// The server showed another certificate than the pinned one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("certificate {got} instead of {expected}")]
pub struct FingerprintMismatch {
    /// What was pinned.
    pub expected: Fingerprint,
    /// What it showed.
    pub got: Fingerprint,
}

/// How to speak TLS with a sender: 1.3 only, and inside it only `protocol`: [`GRPC`] or [`PAGES`].
///
/// # Errors
/// When the cryptography does not know TLS 1.3: a defect of the build.
pub fn client_config(trust: Trust, protocol: &[u8]) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(PinnedCertificate { trust, provider: provider.clone() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    // The address says nothing about the server: it is known by its fingerprint.
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The mismatch behind a failed handshake, if that is why it failed.
pub fn mismatch(error: &io::Error) -> Option<FingerprintMismatch> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
            cause.downcast_ref::<FingerprintMismatch>().copied()
        }
        _ => None,
    }
}

#[derive(Debug)]
struct PinnedCertificate {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let got = Fingerprint::of(end_entity);
        match self.trust {
            Trust::Pin(expected) if expected != got => {
                let mismatch = FingerprintMismatch { expected, got };
                Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into())
            }
            Trust::Pin(_) | Trust::AnyServer => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
