//! What settings were before they were changed: a small file that the next process can undo from.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Knob, Setting};

/// One change that can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastChange {
    /// The setting.
    pub name: String,
    /// What it was before the first change.
    pub before: String,
    /// What it was changed to last.
    pub after: String,
    /// How it is changed.
    pub knob: Knob,
}

/// The changes that were made and not undone, oldest first, in a file.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    changes: Vec<PastChange>,
}

/// Why changes cannot be remembered.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file cannot be read or written.
    #[error("what settings were is kept in {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not one of ours.
    #[error("{} does not say what settings were: {source}; look at the settings yourself, then remove it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl Memory {
    /// Reads the file; one that does not exist remembers nothing.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Memory, MemoryError> {
        let changes = match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| MemoryError::Malformed { path: path.to_owned(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(MemoryError::Io { path: path.to_owned(), source }),
        };
        Ok(Memory { path: path.to_owned(), changes })
    }

    /// The changes, last one first.
    #[must_use]
    pub fn changes(&self) -> Vec<PastChange> {
        self.changes.iter().rev().cloned().collect()
    }

    /// Notes what a setting is, unless it was noted before; says whether it was not.
    pub(super) fn remember(&mut self, setting: &Setting) -> Result<bool, MemoryError> {
        let after = setting.wanted.clone().unwrap_or_default();
        let known = self.changes.iter_mut().find(|past| past.name == setting.name);
        let new = known.is_none();
        match known {
            Some(past) => past.after = after,
            None => {
                let (name, before, knob) = (setting.name.clone(), setting.current.clone(), setting.knob.clone());
                self.changes.push(PastChange { name, before, after, knob });
            }
        }
        self.write().map(|()| new)
    }

    pub(super) fn forget(&mut self, name: &str) -> Result<(), MemoryError> {
        self.changes.retain(|past| past.name != name);
        self.write()
    }

    /// By a new file that replaces the old one, so that no crash leaves half of it.
    fn write(&self) -> Result<(), MemoryError> {
        let write = || {
            if self.changes.is_empty() {
                return match fs::remove_file(&self.path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                };
            }
            if let Some(directory) = self.path.parent() {
                fs::create_dir_all(directory)?;
            }
            let partial = self.path.with_extension("partial");
            let mut file = fs::File::create(&partial)?;
            file.write_all(&serde_json::to_vec_pretty(&self.changes)?)?;
            file.sync_all()?;
            fs::rename(&partial, &self.path)
        };
        write().map_err(|source| MemoryError::Io { path: self.path.clone(), source })
    }
}
