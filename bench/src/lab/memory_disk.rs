//! A block device in memory: a disk that is never what the transfer waits for. Writing to it costs a copy by the loop driver's thread, which no real disk costs.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::leavings::{Undo, succeed};

/// Written at a time when memory is taken.
const STEP_BYTES: u64 = 1 << 20;

/// A loop device over a file in a file system in memory; gone on drop, and when a signal ends this program. The file stays.
pub(crate) struct MemoryDisk {
    pub(crate) device: PathBuf,
    _detaching: Undo,
}

impl MemoryDisk {
    /// Of so many bytes, whole sectors. All of its memory is taken now: a page's first touch costs more than a copy, and in a virtual machine more than a disk's write.
    pub(crate) fn new(directory: &Path, bytes: u64) -> Result<MemoryDisk> {
        let backing = directory.join("disk");
        fill(&backing, bytes).with_context(|| format!("taking {} MiB of memory for {}", bytes >> 20, backing.display()))?;
        let detached = backing.clone();
        let detaching = Undo::later(move || {
            if let Err(error) = detach(&detached) {
                eprintln!("detaching the loop device of {}: {error}", detached.display());
            }
        })?;
        let printed = succeed(Command::new("losetup").args(["--find", "--show"]).arg(&backing))?;
        let device = PathBuf::from(String::from_utf8_lossy(&printed).trim());
        ensure!(device.starts_with("/dev"), "losetup printed {}", device.display());
        Ok(MemoryDisk { device, _detaching: detaching })
    }
}

fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let zeros = vec![0; STEP_BYTES as usize];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(STEP_BYTES);
        file.write_all(&zeros[..now as usize])?;
        left -= now;
    }
    Ok(())
}

/// Ends every loop device over the file; there may be none.
fn detach(backing: &Path) -> io::Result<()> {
    let printed = losetup(&["--noheadings", "--output", "NAME", "--associated"], backing)?;
    String::from_utf8_lossy(&printed).split_whitespace().try_for_each(|device| losetup(&["--detach"], Path::new(device)).map(drop))
}

/// In a group of its own: the signal that ends this program does not end it.
fn losetup(arguments: &[&str], of: &Path) -> io::Result<Vec<u8>> {
    let output = Command::new("losetup").args(arguments).arg(of).process_group(0).stdin(Stdio::null()).output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}
