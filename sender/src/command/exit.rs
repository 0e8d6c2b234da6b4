//! Exit codes, so that scripts can tell failures apart.

use image::ErrorClass;

use super::remote::RemoteError;

/// Printed below the help of every subcommand that works on images and packs.
pub(crate) const HELP: &str = "\
Exit codes:
  0  success
  1  another failure
  2  wrong usage, or a parameter out of range
  3  an input cannot be used: missing image, source of an unknown kind, source that changed
     meanwhile, file that holds no key
  4  a pack, manifest or chunk is damaged
  5  the target is refused: in use, too small, exists already
  6  the system failed a read, a write or another call
  9  a pack is not signed by the key that was given";

/// The exit code when the network, or who answers there, is not what it should be.
pub(crate) const NETWORK: u8 = 7;

/// A failure of the network's set-up.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NetworkUnusable(pub(super) String);

/// An error and what led to it, in one line. Most errors name their cause themselves, before they say what to do: it is not said again.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// The exit code for an error.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(RemoteError::is_of_the_network)) {
        return NETWORK;
    }
    let class = error.chain().find_map(|cause| cause.downcast_ref::<image::Error>()).map(image::Error::class);
    match class {
        None => 1,
        Some(ErrorClass::Usage) => 2,
        Some(ErrorClass::Input) => 3,
        Some(ErrorClass::Corrupt) => 4,
        Some(ErrorClass::Refused) => 5,
        Some(ErrorClass::Io) => 6,
        Some(ErrorClass::Untrusted) => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_said_once() {
        let refused = || std::io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let unreachable = RemoteError::Unreachable { server: "sender:4700".to_owned(), source: refused() };
        let line = explain(&anyhow::Error::new(unreachable));
        assert_eq!(line, format!("cannot reach a sender at sender:4700: {}; --server names its control address", refused()));
        let added = Err::<(), _>(refused()).context("asking the sender").unwrap_err();
        assert_eq!(explain(&added), format!("asking the sender: {}", refused()));
    }
}
