//! What the integration tests share: two network namespaces joined by a veth, gone when the value is dropped.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Nothing here takes longer unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Two namespaces with one veth between them. Each end is `eth0` in its namespace: 10.77.0.1 and fd77::1, 10.77.0.2 and fd77::2.
pub(crate) struct Pair {
    /// Where the test sends from.
    pub(crate) sender: Namespace,
    /// Where packets come in.
    pub(crate) receiver: Namespace,
}

/// A namespace by its name.
pub(crate) struct Namespace(String);

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Pair {
    /// Makes the pair, with names that no other test has.
    pub(crate) fn new(mtu_bytes: usize) -> io::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("rcv-{}-{number}{side}", std::process::id());
        let (sender, receiver) = (Namespace::new(name("s"))?, Namespace::new(name("r"))?);
        ip(&["link", "add", "eth0", "netns", &sender.0, "type", "veth", "peer", "name", "eth0", "netns", &receiver.0])?;
        for (namespace, v4, v6) in [(&sender, "10.77.0.1/24", "fd77::1/64"), (&receiver, "10.77.0.2/24", "fd77::2/64")] {
            namespace.ip(&["address", "add", v4, "dev", "eth0"])?;
            // Without duplicate address detection the address can be used at once.
            namespace.ip(&["address", "add", v6, "dev", "eth0", "nodad"])?;
            namespace.ip(&["link", "set", "lo", "up"])?;
            namespace.ip(&["link", "set", "eth0", "up", "mtu", &mtu_bytes.to_string()])?;
        }
        let pair = Self { sender, receiver };
        // Until the kernel has seen the carrier it has no route for IPv6 multicast and drops what comes.
        let deadline = Instant::now() + DEADLINE;
        while ![&pair.sender, &pair.receiver].into_iter().all(Namespace::routes_ipv6_multicast) {
            if Instant::now() > deadline {
                return Err(io::Error::other("no route for IPv6 multicast"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(pair)
    }
}

impl Namespace {
    fn routes_ipv6_multicast(&self) -> bool {
        self.ip(&["-6", "route", "show", "table", "local", "dev", "eth0"])
            .is_ok_and(|routes| String::from_utf8_lossy(&routes.stdout).contains("ff00::/8"))
    }

    fn new(name: String) -> io::Result<Self> {
        ip(&["netns", "add", &name])?;
        Ok(Self(name))
    }

    /// `ip` in this namespace.
    pub(crate) fn ip(&self, arguments: &[&str]) -> io::Result<Output> {
        ip(&[&["-netns", &self.0], arguments].concat())
    }

    /// A command that will run in this namespace.
    pub(crate) fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    /// Runs `action` on a thread inside this namespace. Sockets opened there stay in it wherever they are used.
    pub(crate) fn inside<R: Send>(&self, action: impl FnOnce() -> R + Send) -> io::Result<R> {
        let namespace = File::open(format!("/run/netns/{}", self.0))?;
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
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

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> io::Result<bool>) -> Result<(), Failed> {
    let deadline = Instant::now() + DEADLINE;
    while !condition()? {
        if Instant::now() > deadline {
            return Err(format!("not within {DEADLINE:?}: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> io::Result<Output> {
    let output = Command::new("ip").args(arguments).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(output)
}
