//! Network namespaces for tests: a pair joined by a veth, gone when the value is dropped.

use std::fs::File;
use std::io;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Two namespaces with one veth between them; each end is `eth0` in its namespace, 10.77.0.1 and 10.77.0.2.
pub(crate) struct Pair {
    /// Where the test sends from.
    pub(crate) sender: Namespace,
    /// Where the filter is.
    pub(crate) receiver: Namespace,
}

/// A namespace by its name.
pub(crate) struct Namespace(String);

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Pair {
    /// Makes the pair, with names that no other test has.
    pub(crate) fn new() -> io::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("bpft-{}-{number}{side}", std::process::id());
        let (sender, receiver) = (Namespace::new(name("s"))?, Namespace::new(name("r"))?);
        ip(&["link", "add", "eth0", "netns", &sender.0, "type", "veth", "peer", "name", "eth0", "netns", &receiver.0])?;
        for (namespace, address) in [(&sender, "10.77.0.1/24"), (&receiver, "10.77.0.2/24")] {
            namespace.ip(&["address", "add", address, "dev", "eth0"])?;
            namespace.ip(&["link", "set", "lo", "up"])?;
            namespace.ip(&["link", "set", "eth0", "up"])?;
        }
        // Without it the first packets wait for an answer to ARP.
        let addresses = receiver.ip(&["-brief", "link", "show", "eth0"])?;
        let text = String::from_utf8_lossy(&addresses.stdout).into_owned();
        let hardware = text.split_whitespace().nth(2).ok_or_else(|| io::Error::other(format!("no address in {text:?}")))?;
        sender.ip(&["neighbour", "replace", "10.77.0.2", "lladdr", hardware, "dev", "eth0"])?;
        Ok(Self { sender, receiver })
    }
}

impl Namespace {
    fn new(name: String) -> io::Result<Self> {
        ip(&["netns", "add", &name])?;
        Ok(Self(name))
    }

    /// `ip` in this namespace.
    pub(crate) fn ip(&self, arguments: &[&str]) -> io::Result<Output> {
        ip(&[&["-netns", &self.0], arguments].concat())
    }

    /// A command that will run in this namespace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    /// Runs `action` on a thread inside this namespace. Sockets opened there stay in it wherever they are used.
    pub(crate) fn inside<R: Send>(&self, action: impl FnOnce() -> R + Send) -> io::Result<R> {
        let namespace = File::open(format!("/run/netns/{}", self.0))?;
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))?;
                Ok(action())
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Whether an XDP program is attached to `eth0`.
    pub(crate) fn has_xdp(&self) -> io::Result<bool> {
        let shown = self.ip(&["-details", "link", "show", "eth0"])?;
        Ok(String::from_utf8_lossy(&shown.stdout).contains("prog/xdp"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Takes the veth with it. Nothing can be done about a failure here.
        let _ = ip(&["netns", "delete", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> io::Result<Output> {
    let output = Command::new("ip").args(arguments).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(output)
}
