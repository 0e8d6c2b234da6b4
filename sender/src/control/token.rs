//! The secret by which the operator's tools show that they may see and change what the sender does: a bearer token (RFC 6750), made
//! at the first start and kept in the state directory.

use super::{ControlError, secret_file};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::fmt::Write;
use std::io;
use std::path::Path;

/// Its name in the state directory.
const FILE_NAME: &str = "operator-token";
/// Random bytes: as hard to guess as the certificate's key.
const RANDOM_BYTES: usize = 32;

/// A token. Printed nowhere, not even by `Debug`.
#[derive(Clone)]
pub struct OperatorToken {
    text: String,
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("OperatorToken")
    }
}

impl OperatorToken {
    /// Reads the token kept in `state_dir`, or makes directory and token when there is none.
    ///
    /// # Errors
    /// [`ControlError`] when the directory or file cannot be made or read, holds something else, or others may read it.
    pub fn load_or_create(state_dir: &Path) -> Result<OperatorToken, ControlError> {
        OperatorToken::parse(secret_file::read_or_create(state_dir, FILE_NAME, generate)?, &state_dir.join(FILE_NAME))
    }

    /// Reads the token that a sender on this machine keeps in `state_dir`.
    ///
    /// # Errors
    /// [`ControlError`] when the file cannot be read, holds something else, or others may read it.
    pub fn load_from(state_dir: &Path) -> Result<OperatorToken, ControlError> {
        OperatorToken::load_file(&state_dir.join(FILE_NAME))
    }

    /// Reads a token from a file.
    ///
    /// # Errors
    /// [`ControlError`] when the file cannot be read, holds something else, or others may read it.
    pub fn load_file(path: &Path) -> Result<OperatorToken, ControlError> {
        OperatorToken::parse(secret_file::read(path)?, path)
    }

    fn parse(content: Vec<u8>, path: &Path) -> Result<OperatorToken, ControlError> {
        let text = String::from_utf8(content).unwrap_or_default().trim_end().to_owned();
        let good = text.len() == 2 * RANDOM_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if good { Ok(OperatorToken { text }) } else { Err(ControlError::TokenDamaged { path: path.to_path_buf() }) }
    }

    /// The value of the header `Authorization` that shows it.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.text)
    }

    /// Whether the value of a header `Authorization` shows this token. Hashes are compared, which takes the same time wherever they
    /// differ, so that it cannot be guessed bit by bit.
    pub(super) fn is_shown_by(&self, authorization: &[u8]) -> bool {
        // The scheme's name may have any case (RFC 9110, 11.1).
        let Some((scheme, token)) = authorization.split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && blake3::hash(token) == blake3::hash(self.text.as_bytes())
    }
}

fn generate() -> io::Result<Vec<u8>> {
    let mut bytes = [0; RANDOM_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    let mut text = String::new();
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_differs_between_senders_and_is_for_its_owner_only() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let token = |directory: &tempfile::TempDir| OperatorToken::load_or_create(directory.path()).unwrap().text;
        assert_eq!(token(&one), token(&one));
        assert_ne!(token(&one), token(&two));
        assert_eq!(token(&one), OperatorToken::load_from(one.path()).unwrap().text);
        let mode = std::fs::metadata(one.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_others_may_read_or_that_holds_something_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        OperatorToken::load_or_create(directory.path()).unwrap();
        let path = directory.path().join(FILE_NAME);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(OperatorToken::load_or_create(directory.path()), Err(ControlError::SecretExposed { mode: 0o644, .. })));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        for content in ["", "\n", "secret\n", &"g".repeat(64)] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(OperatorToken::load_file(&path), Err(ControlError::TokenDamaged { .. })), "{content:?}");
        }
    }

    #[test]
    fn only_the_token_itself_is_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let token = OperatorToken::load_or_create(directory.path()).unwrap();
        let shown = token.authorization();
        assert!(token.is_shown_by(shown.as_bytes()));
        assert!(token.is_shown_by(shown.replace("Bearer", "bearer").as_bytes()));
        let others =
            ["", "Bearer", "Bearer ", &token.text, &shown.replace("Bearer", "Basic"), &shown[..shown.len() - 1], &(shown.clone() + "0")];
        for other in others {
            assert!(!token.is_shown_by(other.as_bytes()), "{other}");
        }
        assert!(!format!("{token:?}").contains(&token.text));
    }
}
