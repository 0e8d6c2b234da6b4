//! A directory for the files of one run.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::leavings::Undo;

/// Somebody whose last file is still being made keeps a directory from being removed; for so long.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);

/// How many this program has made.
static SCRATCHES: AtomicU32 = AtomicU32::new(0);

/// A directory that is removed on drop, and when a signal ends this program.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
    _removal: Undo,
}

impl Scratch {
    pub(crate) fn new(parent: &Path) -> Result<Scratch> {
        // Two may be asked for in the same directory.
        let number = SCRATCHES.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("discus-bench-{}-{number}", std::process::id()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_the_same_directory_are_two_and_are_removed() {
        let parent = std::env::temp_dir();
        let (one, other) = (Scratch::new(&parent).unwrap(), Scratch::new(&parent).unwrap());
        let paths = [one.path.clone(), other.path.clone()];
        fs::write(one.path.join("pack"), "1").unwrap();
        fs::write(other.path.join("pack"), "2").unwrap();
        assert_eq!(fs::read(one.path.join("pack")).unwrap(), b"1");
        drop((one, other));
        assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    }
}
