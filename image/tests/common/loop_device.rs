//! A loop device of the test's own, detached when it is dropped.
#![allow(dead_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
}

impl LoopDevice {
    /// Over a new sparse file of this size.
    pub(crate) fn new(backing: &Path, bytes: u64) -> Self {
        File::create(backing).unwrap().set_len(bytes).unwrap();
        let output = Command::new("losetup").args(["--find", "--show"]).arg(backing).output().unwrap();
        assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Self { path: PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()) }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// A mounted filesystem, unmounted when it is dropped.
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
}

impl Mount {
    pub(crate) fn new(arguments: &[&str], path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let status = Command::new("mount").args(arguments).arg(path).status().unwrap();
        assert!(status.success(), "mount {arguments:?}");
        Self { path: path.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}
