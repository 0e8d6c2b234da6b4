//! The certificate and key by which receivers know this sender: made at its first start, kept in the state directory, printed as a
//! fingerprint. There is no certificate authority: receivers pin the fingerprint.

use super::{ControlError, secret_file};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use wire::Fingerprint;

/// Key and certificate in one file, so that they are made, and copied to a stand-in machine, together or not at all.
const FILE_NAME: &str = "server-identity.pem";

/// A server certificate with its key.
#[derive(Debug)]
pub struct ServerIdentity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// Where the identity is kept unless the operator says otherwise: `/var/lib/discus` for root, else `$XDG_STATE_HOME/discus` or
/// `~/.local/state/discus`; `None` when the environment names no home.
pub fn default_state_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/discus"));
    }
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    let state_home = std::env::var_os("XDG_STATE_HOME").and_then(absolute);
    let home = || std::env::var_os("HOME").and_then(absolute).map(|home| home.join(".local/state"));
    Some(state_home.or_else(home)?.join("discus"))
}

impl ServerIdentity {
    /// Reads the identity kept in `state_dir`, or makes directory and identity when there is none.
    ///
    /// # Errors
    /// [`ControlError`] when the directory or file cannot be made or read, holds something else, or others may read the key.
    pub fn load_or_create(state_dir: &Path) -> Result<ServerIdentity, ControlError> {
        let generate = || generate().map(String::into_bytes).map_err(io::Error::other);
        parse(&secret_file::read_or_create(state_dir, FILE_NAME, generate)?, &state_dir.join(FILE_NAME))
    }

    /// Reads the identity of a sender on this machine that keeps it in `state_dir`.
    ///
    /// # Errors
    /// [`ControlError`] when the file cannot be read, holds something else, or others may read it.
    pub fn load_from(state_dir: &Path) -> Result<ServerIdentity, ControlError> {
        let path = state_dir.join(FILE_NAME);
        parse(&secret_file::read(&path)?, &path)
    }

    /// What receivers pin: SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// TLS 1.3 only; gRPC over HTTP/2, the operator's pages over either.
    pub(crate) fn tls_config(&self) -> Result<rustls::ServerConfig, ControlError> {
        let provider = rustls::crypto::ring::default_provider();
        let mut config = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A receiver connects once: tickets and a session cache would only cost memory.
        config.send_tls13_tickets = 0;
        config.session_storage = std::sync::Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(config)
    }
}

fn parse(pem: &[u8], path: &Path) -> Result<ServerIdentity, ControlError> {
    let damaged = |_| ControlError::IdentityDamaged { path: path.to_path_buf() };
    let certificate = CertificateDer::from_pem_slice(pem).map_err(damaged)?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(damaged)?;
    Ok(ServerIdentity { certificate, key })
}

/// A self-signed P-256 certificate. Its name and dates mean nothing, since receivers compare the fingerprint: rcgen's dates (1975 to
/// 4096) never expire on a machine whose clock is not set yet.
fn generate() -> Result<String, rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let mut parameters = rcgen::CertificateParams::new(vec!["discus".to_owned()])?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "discus sender");
    let certificate = parameters.self_signed(&key)?;
    Ok(key.serialize_pem() + &certificate.pem())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        ServerIdentity::load_or_create(&state_dir).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state_dir.join(FILE_NAME)), 0o600);
        assert_eq!(mode(&state_dir), 0o700);
        assert_eq!(std::fs::read_dir(&state_dir).unwrap().count(), 1, "no partial file is left");
    }

    #[test]
    fn the_fingerprint_survives_a_restart_and_differs_between_senders() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let fingerprint = |directory: &tempfile::TempDir| ServerIdentity::load_or_create(directory.path()).unwrap().fingerprint();
        assert_eq!(fingerprint(&one), fingerprint(&one));
        assert_ne!(fingerprint(&one), fingerprint(&two));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        ServerIdentity::load_or_create(directory.path()).unwrap();
        let path = directory.path().join(FILE_NAME);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let error = ServerIdentity::load_or_create(directory.path()).unwrap_err();
        assert!(matches!(error, ControlError::SecretExposed { mode: 0o640, .. }), "{error}");
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        std::fs::write(&path, "not a key").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let error = ServerIdentity::load_or_create(directory.path()).unwrap_err();
        assert!(matches!(error, ControlError::IdentityDamaged { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"not a key");
    }
}
