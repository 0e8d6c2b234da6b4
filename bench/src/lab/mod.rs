//! A provisioning network inside this machine, for end-to-end tests and comparisons: the namespaces of `scripts/netlab`, the programs
//! that run in them, and the files that they deliver. Everything that is made here is removed on drop, also when a test panics.

pub mod content;
mod memory_disk;
mod namespace;
mod network;
mod process;
mod programs;

pub(crate) use memory_disk::MemoryDisk;
pub use namespace::inside;
pub use network::{Lab, LabOptions, Machine};
pub use process::{Ended, Process};
pub use programs::Programs;

/// Why nothing here can run in this environment, if so: the namespaces need root.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces and XDP need root".to_owned());
    }
    let has_ip = std::process::Command::new("ip").arg("-V").output().is_ok_and(|output| output.status.success());
    (!has_ip).then(|| "there is no ip command (iproute2)".to_owned())
}
