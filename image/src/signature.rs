//! Keys that sign packs: Ed25519 (RFC 8032), in the files that `openssl genpkey -algorithm ed25519` makes: PKCS#8 for the secret key,
//! SubjectPublicKeyInfo for the public one, both as PEM (RFC 8410). [`crate::pack::Proof`] is what is signed.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::{Error, Result};

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of a public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// A key file has 119 or 113 bytes; some have text around the PEM block.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
const PUBLIC_BEGIN: &str = "-----BEGIN PUBLIC KEY-----\n";
const PUBLIC_END: &str = "\n-----END PUBLIC KEY-----\n";

/// Signs packs. It is wiped from memory when it is dropped.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A new one, from the kernel's random numbers.
    ///
    /// # Errors
    /// When there are none.
    pub fn generate() -> Result<Self> {
        let mut seed = [0; 32];
        getrandom(&mut seed, GetRandomFlags::empty()).map_err(Error::io("taking random bytes from", Path::new("getrandom")))?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads one from a file.
    ///
    /// # Errors
    /// When it cannot be read or is no Ed25519 secret key.
    pub fn load(path: &Path) -> Result<Self> {
        let pem = read_key_file(path)?;
        let wrong = |error| Error::Key { path: path.to_owned(), why: format!("it is no unencrypted Ed25519 secret key in PEM: {error}") };
        SigningKey::from_pkcs8_pem(pem.trim()).map(Self).map_err(wrong)
    }

    /// The key that its signatures are verified with.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Writes it to a new file that only its owner may read.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        // Without the public key: the version of PKCS#8 that every openssl reads.
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem = pair.to_pkcs8_pem(LineEnding::LF).map_err(|error| Error::Key { path: path.to_owned(), why: error.to_string() })?;
        write_key_file(path, pem.as_bytes(), 0o600)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }
}

/// Neither shown nor logged.
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {}", self.public_key())
    }
}

/// Verifies packs. As text it is the line between the first and the last of its PEM file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads one from a file.
    ///
    /// # Errors
    /// When it cannot be read or is no Ed25519 public key.
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_pem(read_key_file(path)?.trim()).map_err(|why| Error::Key { path: path.to_owned(), why })
    }

    /// What an operator gives to a program: the key itself as text, or else the name of its file.
    ///
    /// # Errors
    /// When it is neither.
    pub fn from_argument(argument: &str) -> Result<Self> {
        argument.parse().or_else(|_| Self::load(Path::new(argument)))
    }

    /// Writes it to a new file.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_key_file(path, format!("{PUBLIC_BEGIN}{self}{PUBLIC_END}").as_bytes(), 0o644)
    }

    /// The key as signatures hold it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; PUBLIC_KEY_BYTES] {
        self.0.to_bytes()
    }

    pub(crate) fn from_bytes(bytes: &[u8; PUBLIC_KEY_BYTES]) -> Option<Self> {
        VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak()).map(Self)
    }

    /// Whether `signature` is this key's for `message`. Strict: there is exactly one valid signature for a key and a message, so that no
    /// bit of it can be changed.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }

    fn from_pem(pem: &str) -> Result<Self, String> {
        let key = VerifyingKey::from_public_key_pem(pem).map_err(|error| format!("it is no Ed25519 public key in PEM: {error}"))?;
        if key.is_weak() {
            return Err("it is a weak key, with which anybody can sign".into());
        }
        Ok(Self(key))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pem = self.0.to_public_key_pem(LineEnding::LF).map_err(|_| fmt::Error)?;
        f.write_str(pem.lines().nth(1).unwrap_or_default())
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::from_pem(&format!("{PUBLIC_BEGIN}{text}{PUBLIC_END}"))
    }
}

/// Makes a pair of keys in `NAME.key` and `NAME.pub`.
///
/// # Errors
/// When one of the files exists already or cannot be written. Nothing is left behind then.
pub fn generate_files(name: &Path) -> Result<(PathBuf, PathBuf, PublicKey)> {
    let with = |extension: &str| {
        let mut path = name.as_os_str().to_owned();
        path.push(extension);
        PathBuf::from(path)
    };
    let (secret_path, public_path) = (with(".key"), with(".pub"));
    let secret = SecretKey::generate()?;
    secret.save(&secret_path)?;
    let public = secret.public_key();
    if let Err(error) = public.save(&public_path) {
        // The one just made, which nobody has used.
        let _ = fs::remove_file(&secret_path);
        return Err(error);
    }
    Ok((secret_path, public_path, public))
}

fn read_key_file(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io("opening", path))?;
    file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(Error::io("reading", path))?;
    String::from_utf8(bytes).map_err(|_| Error::Key { path: path.to_owned(), why: "it is not the text of a key".to_owned() })
}

fn write_key_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut file = match File::options().write(true).create_new(true).mode(mode).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::refused(path, "it exists, and a key is never overwritten"));
        }
        opened => opened.map_err(Error::io("creating", path))?,
    };
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_pair_of_files_signs_and_verifies() {
        let directory = tempfile::tempdir().unwrap();
        let (secret, public, shown) = generate_files(&directory.path().join("fleet")).unwrap();
        assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
        let signature = SecretKey::load(&secret).unwrap().sign(b"message");
        let key = PublicKey::load(&public).unwrap();
        assert_eq!(key, shown);
        assert_eq!(PublicKey::from_argument(&key.to_string()).unwrap(), key);
        assert_eq!(PublicKey::from_argument(public.to_str().unwrap()).unwrap(), key);
        assert!(key.verify(b"message", &signature));
        assert!(!key.verify(b"massage", &signature));
        for bit in 0..SIGNATURE_BYTES * 8 {
            let mut other = signature;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verify(b"message", &other), "bit {bit}");
        }
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("fleet");
        generate_files(&name).unwrap();
        assert!(matches!(generate_files(&name), Err(Error::TargetRefused { .. })));
        // A public key of that name is somebody's too: no secret key is left beside it.
        fs::remove_file(directory.path().join("fleet.key")).unwrap();
        assert!(matches!(generate_files(&name), Err(Error::TargetRefused { .. })));
        assert!(!directory.path().join("fleet.key").exists());
    }

    /// The key of RFC 8410, sections 10.1 and 10.3, and the second test of RFC 8032, section 7.1.
    #[test]
    fn keys_and_signatures_are_those_of_the_standards() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rfc8410.key");
        let body = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
        fs::write(&path, format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")).unwrap();
        let key = SecretKey::load(&path).unwrap();
        assert_eq!(key.public_key().to_string(), "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");

        let hex = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
        let seed: [u8; 32] = std::array::from_fn(|at| u8::from_str_radix(&hex[at * 2..][..2], 16).unwrap());
        let signature = SecretKey(SigningKey::from_bytes(&seed)).sign(&[0x72]);
        assert_eq!(signature[..8], [0x92, 0xa0, 0x09, 0xa9, 0xf0, 0xd4, 0xca, 0xb8]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("text");
        fs::write(&path, "no key").unwrap();
        assert!(matches!(SecretKey::load(&path), Err(Error::Key { .. })));
        assert!(matches!(PublicKey::load(&path), Err(Error::Key { .. })));
        // A disk image, say.
        fs::write(&path, [0xff; 512]).unwrap();
        assert!(matches!(SecretKey::load(&path), Err(Error::Key { .. })));
        assert!(matches!(PublicKey::load(&path), Err(Error::Key { .. })));
        assert!("".parse::<PublicKey>().is_err());
        // The neutral element: every message has a signature that is valid for it.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(PublicKey::from_bytes(&neutral).is_none());
    }
}
