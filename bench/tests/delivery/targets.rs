//! Where images end up: block devices that hold old data, and targets that must not be touched.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use bench::lab::content::{Part, write_image};

use crate::fixtures::{Fixtures, run};
use crate::world::{ServeOptions, TRANSFER_LIMIT, World, finish};

/// Exit code of a receiver that refuses its target.
const TARGET_REFUSED: i32 = 3;

/// A file as a block device; detached on drop.
pub(crate) struct LoopDevice(pub(crate) PathBuf);

impl LoopDevice {
    pub(crate) fn new(file: &Path) -> Result<LoopDevice> {
        let output = Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(file).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(LoopDevice(PathBuf::from(String::from_utf8(output.stdout)?.trim())))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("losetup").arg("--detach").arg(&self.0)) {
            eprintln!("{error:#}");
        }
    }
}

/// A mounted filesystem; unmounted on drop.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Mounts `device` at a new directory.
    pub(crate) fn new(device: &Path, directory: &Path) -> Result<Mount> {
        fs::create_dir(directory)?;
        run(Command::new("mount").arg(device).arg(directory))?;
        Ok(Mount(directory.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(&self.0)) {
            eprintln!("{error:#}");
        }
    }
}

pub(crate) fn a_block_device_with_old_data_reads_back_as_the_image(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.filesystem()?;
    let world = World::new(1)?;
    let size_bytes = fs::metadata(pack.original("root")?)?.len();
    let disk = world.path("disk");
    // Larger than the image, and nothing on it is zero.
    write_image(&disk, &[Part::Noise { seed: 9, bytes: size_bytes + (4 << 20) }])?;
    let device = LoopDevice::new(&disk)?;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(1), ..ServeOptions::default() })?;
    finish(world.receive(&sender, 0, "root", &device.0, &[])?)?;
    sender.finish()?;
    pack.assert_delivered("root", &device.0)?;
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&device.0))
}

pub(crate) fn targets_that_must_not_be_overwritten_are_refused(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.filesystem()?;
    let world = World::new(1)?;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(1), ..ServeOptions::default() })?;
    let refuses = |target: &Path, arguments: &[&str], because: &str| -> Result<()> {
        let ended = world.receive(&sender, 0, "root", target, arguments)?.wait(TRANSFER_LIMIT)?;
        ensure!(ended.code == Some(TARGET_REFUSED), "{because}: exit code {:?}:\n{}", ended.code, ended.stderr);
        ensure!(ended.stderr.to_lowercase().contains(because), "the message does not say {because:?}:\n{}", ended.stderr);
        Ok(())
    };

    let existing = world.path("existing");
    File::create(&existing)?.write_all(b"precious")?;
    refuses(&existing, &[], "exists")?;
    ensure!(fs::read(&existing)? == b"precious", "an existing file was changed");

    let small = world.path("small");
    write_image(&small, &[Part::Noise { seed: 10, bytes: 8 << 20 }])?;
    let before = fs::read(&small)?;
    let device = LoopDevice::new(&small)?;
    refuses(&device.0, &["--force"], "too small")?;
    ensure!(fs::read(&device.0)? == before, "a device that is too small was changed");

    let disk = world.path("disk");
    File::create(&disk)?.set_len(128 << 20)?;
    let device = LoopDevice::new(&disk)?;
    run(Command::new("mkfs.ext4").arg("-q").arg(&device.0))?;
    let directory = world.path("mounted");
    let mount = Mount::new(&device.0, &directory)?;
    refuses(&device.0, &["--force"], "mounted")?;
    fs::write(directory.join("file"), b"precious").context("the mounted filesystem no longer works")?;
    drop(mount);

    // The refusals reached nobody else: the sender still serves the one it waits for.
    finish(world.receive(&sender, 0, "root", &world.path("target"), &[])?)?;
    sender.finish()?;
    pack.assert_delivered("root", &world.path("target"))
}
