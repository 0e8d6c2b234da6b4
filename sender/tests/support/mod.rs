//! Network namespaces for tests of the sender: a pair joined by a veth, gone when the value is dropped.

// Each test program uses a part.
#![allow(dead_code)]

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Two namespaces with one veth between them; each end is `eth0` in its namespace, 10.78.0.1 and 10.78.0.2, fd78::1 and fd78::2.
pub(crate) struct Pair {
    /// Where the test sends from.
    pub(crate) sender: Namespace,
    /// Where it listens.
    pub(crate) receiver: Namespace,
}

/// A namespace by its name.
pub(crate) struct Namespace(String);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Why tests in namespaces cannot run here, if so.
pub(crate) fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces and AF_XDP need root".to_owned());
    }
    Pair::new(1500).err().map(|error| format!("no network namespaces: {error}"))
}

impl Pair {
    /// Makes the pair, with names that no other test has.
    ///
    /// # Errors
    /// What `ip` says.
    pub(crate) fn new(mtu_bytes: u32) -> io::Result<Pair> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("eng-{}-{number}{side}", std::process::id());
        let (sender, receiver) = (Namespace::new(name("s"))?, Namespace::new(name("r"))?);
        let mtu = mtu_bytes.to_string();
        let link = ["link", "add", "eth0", "mtu", &mtu, "numtxqueues", "1", "numrxqueues", "1", "netns", &sender.0, "type", "veth"];
        let peer = ["peer", "name", "eth0", "mtu", &mtu, "numtxqueues", "1", "numrxqueues", "1", "netns", &receiver.0];
        ip(&[&link[..], &peer].concat())?;
        for (namespace, last) in [(&sender, 1), (&receiver, 2)] {
            namespace.ip(&["address", "add", &format!("10.78.0.{last}/24"), "dev", "eth0"])?;
            // Without duplicate address detection, which takes a second or two.
            namespace.ip(&["address", "add", &format!("fd78::{last}/64"), "dev", "eth0", "nodad"])?;
            namespace.ip(&["link", "set", "lo", "up"])?;
            namespace.ip(&["link", "set", "eth0", "up"])?;
        }
        let pair = Pair { sender, receiver };
        // IPv6 takes in no multicast before a kernel worker has seen the carrier and set this route.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !pair.receiver.ip(&["-6", "route", "show", "table", "local"])?.contains("multicast ff00::/8 dev eth0") {
            if Instant::now() > deadline {
                return Err(io::Error::other("the veth is not ready for IPv6 multicast after 10 s"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(pair)
    }
}

impl Namespace {
    fn new(name: String) -> io::Result<Namespace> {
        ip(&["netns", "add", &name])?;
        Ok(Namespace(name))
    }

    /// `ip` in this namespace.
    ///
    /// # Errors
    /// What it says.
    pub(crate) fn ip(&self, arguments: &[&str]) -> io::Result<String> {
        ip(&[&["-netns", &self.0], arguments].concat())
    }

    /// Runs `action` on a thread inside this namespace. Sockets opened there stay in it wherever they are used.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
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
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Takes the veth with it. Nothing can be done about a failure here.
        let _ = ip(&["netns", "delete", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("ip").args(arguments).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
