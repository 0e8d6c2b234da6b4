//! A disk that is slower than the stream: the kernel throttles a block device, the receiver pushes back before it has to give anything up.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bench::lab::Process;
use rustix::fs::{major, minor};

use crate::fixtures::{Fixtures, SOLO_BYTES};
use crate::targets::LoopDevice;
use crate::world::{ServeOptions, World, finish};

/// Half of what the stream carries.
const DISK_BYTES_PER_SECOND: u64 = 24_000_000;

/// A control group whose members write slowly to one device; removed on drop, when they are gone.
struct SlowWrites(PathBuf);

impl SlowWrites {
    /// Limits writes to `device` (Documentation/admin-guide/cgroup-v1/blkio-controller.rst, cgroup-v2.rst of the kernel).
    fn to(device: &Path, bytes_per_second: u64) -> Result<SlowWrites> {
        let number = fs::metadata(device)?.rdev();
        let number = format!("{}:{}", major(number), minor(number));
        let name = format!("discus-test-{}", std::process::id());
        let (parent, file, limit) = if Path::new("/sys/fs/cgroup/blkio").exists() {
            ("/sys/fs/cgroup/blkio", "blkio.throttle.write_bps_device", format!("{number} {bytes_per_second}"))
        } else {
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+io").context("this kernel throttles no block devices")?;
            ("/sys/fs/cgroup", "io.max", format!("{number} wbps={bytes_per_second}"))
        };
        let group = SlowWrites(Path::new(parent).join(name));
        fs::create_dir(&group.0).with_context(|| format!("making {}", group.0.display()))?;
        fs::write(group.0.join(file), limit).with_context(|| format!("setting {file}"))?;
        Ok(group)
    }

    fn admit(&self, process: &Process) -> Result<()> {
        fs::write(self.0.join("cgroup.procs"), process.id().to_string()).context("moving a process to its group")
    }
}

impl Drop for SlowWrites {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}

pub(crate) fn a_slow_disk_pushes_back_before_anything_is_given_up(fixtures: &Fixtures) -> Result<()> {
    let pack = fixtures.solo()?;
    let world = World::new(2)?;
    let disk = world.path("disk");
    fs::File::create(&disk)?.set_len(SOLO_BYTES)?;
    let device = LoopDevice::new(&disk)?;
    let slow_writes = SlowWrites::to(&device.0, DISK_BYTES_PER_SECOND)?;
    let sender = world.serve(&pack.path, &ServeOptions { once: Some(2), arguments: &["--straggler", "wait"] })?;
    // A third of the image fits into the memory: what is not pushed back is given up and has to be sent again.
    let slow = world.receive(&sender, 0, "solo", &device.0, &["--memory", "40"])?;
    slow_writes.admit(&slow)?;
    let fast = world.receive(&sender, 1, "solo", &world.path("fast"), &[])?;
    let slow = finish(slow)?;
    finish(fast)?;
    let summary = sender.finish()?;
    pack.assert_delivered("solo", &device.0)?;
    pack.assert_delivered("solo", &world.path("fast"))?;
    // The disk was the limit: the kernel let no more through.
    ensure!(
        slow.seconds * DISK_BYTES_PER_SECOND as f64 > 0.8 * SOLO_BYTES as f64,
        "written within {} s: nothing was throttled",
        slow.seconds
    );
    let overhead = summary.symbols_sent as f64 / summary.symbols_needed as f64;
    ensure!(
        slow.chunks_given_up == 0 && overhead < 1.03,
        "{} chunks given up, sent {overhead:.4} of what was needed",
        slow.chunks_given_up
    );
    Ok(())
}
