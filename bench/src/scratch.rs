//! A directory for the files of one run.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::leavings::Undo;

/// Somebody whose last file is still being made keeps a directory from being removed; for so long.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);

/// A directory that is removed on drop, and when a signal ends this program.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
    _removal: Undo,
}

impl Scratch {
    pub(crate) fn new(parent: &Path) -> Result<Scratch> {
        let path = parent.join(format!("discus-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let removed = path.clone();
        let removal = Undo::later(move || {
            if let Err(error) = remove(&removed) {
                eprintln!("removing {}: {error}", removed.display());
            }
        });
        Ok(Scratch { path, _removal: removal? })
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + REMOVAL_LIMIT;
    loop {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {}
            result => return result,
        }
    }
}
