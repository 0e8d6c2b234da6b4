//! The errors of this crate, and their classes for exit codes.

use std::io;
use std::path::{Path, PathBuf};

use crate::ChunkId;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with what was being done and to what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{doing} {}: {error}", path.display())]
    Io {
        /// What was being done, as a gerund: "opening".
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel said.
        // Not `source`: the message has it already, and reports that follow the chain would print it twice.
        error: io::Error,
    },

    /// A write to the target failed.
    #[error("writing {length_bytes} bytes at offset {offset} of {}: {error}", path.display())]
    WriteTarget {
        /// The device or file.
        path: PathBuf,
        /// Where the write began.
        offset: u64,
        /// How much was to be written.
        length_bytes: u64,
        /// What the kernel said.
        error: io::Error,
    },

    /// The io_uring cannot be had.
    #[error("setting up io_uring: {error} (is it switched off by kernel.io_uring_disabled or a seccomp filter?)")]
    Uring {
        /// What the kernel said.
        error: io::Error,
    },

    /// A source cannot be packed.
    #[error("cannot pack {}: {why}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// Why not.
        why: String,
    },

    /// A source is not the same in the second pass as in the first.
    #[error("{} changed while it was being packed: pack a snapshot, or stop what writes to it", path.display())]
    SourceChanged {
        /// The source, or the file in it.
        path: PathBuf,
    },

    /// A parameter of the caller is out of range, or an image name is not acceptable.
    #[error("{0}")]
    Parameter(String),

    /// The pack would exceed a limit of the format.
    #[error("too large for one pack: {0}")]
    Limit(String),

    /// A pack is damaged, or is no pack.
    #[error("{}: {section}: {why}", path.display())]
    Pack {
        /// The file.
        path: PathBuf,
        /// The part of it that is wrong: "header", "manifest of web", "chunk 17", …
        section: String,
        /// What is wrong with it.
        why: String,
    },

    /// A file does not hold the key that it should.
    #[error("{}: {why}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// A signature is missing, not by the key that is trusted, or not for what came with it.
    #[error("refused: {0}")]
    Untrusted(String),

    /// A manifest breaks a rule of its format.
    #[error("manifest refused: {0}")]
    Manifest(String),

    /// A chunk's bytes are not what its descriptor promises.
    #[error("chunk {chunk}: {why}")]
    Chunk {
        /// Which one.
        chunk: ChunkId,
        /// What differs.
        why: String,
    },

    /// The pack has no image of that name.
    #[error("no image {name} in the pack; it has: {known}")]
    NoSuchImage {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },

    /// The target must not be written to.
    #[error("{} is refused as a target: {why}", path.display())]
    TargetRefused {
        /// The target.
        path: PathBuf,
        /// Why, and what to do about it.
        why: String,
    },

    /// The device is smaller than the image.
    #[error("{} is too small: it has {target_bytes} bytes, the image needs {image_bytes}", path.display())]
    TargetTooSmall {
        /// The target.
        path: PathBuf,
        /// Its size.
        target_bytes: u64,
        /// The image's size.
        image_bytes: u64,
    },

    /// The writer was finished before every chunk had been written, or after a write had failed.
    #[error("{} is incomplete: {missing} of {total} chunks were not written", path.display())]
    Incomplete {
        /// The target.
        path: PathBuf,
        /// Chunks that are missing.
        missing: usize,
        /// Chunks of the image.
        total: usize,
    },

    /// Another thread of the same job failed and says why.
    #[error("stopped because another part of the job failed")]
    Stopped,
}

/// The classes that a program tells apart by its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The caller asked for something impossible.
    Usage,
    /// A source or an image name is not usable.
    Input,
    /// A pack, manifest or chunk is damaged or hostile.
    Corrupt,
    /// A pack is not signed by the key that is trusted.
    Untrusted,
    /// The target is protected or too small.
    Refused,
    /// The system failed a read, a write or another call.
    Io,
}

impl Error {
    /// The class of this error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Parameter(_) | Self::Limit(_) => ErrorClass::Usage,
            Self::Source { .. } | Self::SourceChanged { .. } | Self::NoSuchImage { .. } | Self::Key { .. } => ErrorClass::Input,
            Self::Pack { .. } | Self::Manifest(_) | Self::Chunk { .. } => ErrorClass::Corrupt,
            Self::Untrusted(_) => ErrorClass::Untrusted,
            Self::TargetRefused { .. } | Self::TargetTooSmall { .. } => ErrorClass::Refused,
            // What is not there was named wrongly.
            Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => ErrorClass::Input,
            Self::Io { .. } | Self::WriteTarget { .. } | Self::Uring { .. } | Self::Incomplete { .. } | Self::Stopped => ErrorClass::Io,
        }
    }

    /// Wraps an I/O error; for use with `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |error| Self::Io { doing, path: path.to_owned(), error: error.into() }
    }

    pub(crate) fn refused(path: &Path, why: impl Into<String>) -> Self {
        Self::TargetRefused { path: path.to_owned(), why: why.into() }
    }

    pub(crate) fn pack(path: &Path, section: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Pack { path: path.to_owned(), section: section.into(), why: why.into() }
    }
}
