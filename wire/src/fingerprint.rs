//! The SHA-256 fingerprint by which a receiver knows its sender's certificate, as operators read and type it: `sha256:<64 hex digits>`.

use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "sha256:";
const BYTES: usize = 32;

/// SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; BYTES]);

/// A text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no fingerprint: expected `sha256:` and 64 hexadecimal digits, as the sender prints it at its start")]
pub struct FingerprintError(String);

impl Fingerprint {
    /// That of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Fingerprint {
        let mut bytes = [0; BYTES];
        bytes.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref());
        Fingerprint(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    /// Reads `sha256:<hex>`; the prefix may be left out, digits may be upper case and separated by colons as openssl prints them.
    fn from_str(text: &str) -> Result<Fingerprint, FingerprintError> {
        let error = || FingerprintError(text.chars().take(100).collect());
        let lower = text.trim().to_ascii_lowercase();
        let digits: Vec<u8> = lower.strip_prefix(PREFIX).unwrap_or(&lower).bytes().filter(|&byte| byte != b':').collect();
        if digits.len() != 2 * BYTES {
            return Err(error());
        }
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(error);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Fingerprint(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_reads_back_as_it_is_printed() {
        let fingerprint = Fingerprint(std::array::from_fn(|i| (i * 9) as u8));
        let text = fingerprint.to_string();
        assert!(text.starts_with("sha256:0009121b"), "{text}");
        assert_eq!(text.parse(), Ok(fingerprint));
    }

    #[test]
    fn the_notation_of_openssl_is_read_too() {
        let fingerprint = Fingerprint([0xAB; 32]);
        assert_eq!(["AB"; 32].join(":").parse(), Ok(fingerprint));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "sha256:", "sha256:12", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }
}
