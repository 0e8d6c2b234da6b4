//! Code of this process inside another network namespace.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` on a thread of its own inside the network namespace `name`, and waits for it. Sockets that it opens stay in that
/// namespace, whichever thread uses them later.
///
/// # Errors
/// When the namespace does not exist or cannot be entered (root is needed), or what `work` returns.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = Path::new("/run/netns").join(name);
    let namespace = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let enter_and_work = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).with_context(|| format!("entering {name}"))?;
        work()
    };
    // The thread ends with the work, so that no thread of this process is left in the wrong namespace.
    std::thread::scope(|scope| scope.spawn(enter_and_work).join().map_err(|_| anyhow!("the work inside {name} panicked"))?)
}
