//! What can go wrong between this crate and the kernel, told so that the operator knows what to do next.

use std::io;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration contradicts itself or asks for what a packet cannot hold.
    #[error("filter configuration: {0}")]
    Config(String),
    /// This process may not load BPF programs.
    #[error(
        "may not load the filter into the kernel: run as root, or give the program CAP_BPF, CAP_PERFMON and \
         CAP_NET_ADMIN (setcap cap_bpf,cap_perfmon,cap_net_admin+ep PROGRAM)"
    )]
    Permission,
    /// The kernel or libbpf refused the program or one of its maps.
    #[error("the kernel did not load the filter (it needs Linux 5.18 or later): {reason}{log}")]
    Load {
        /// The kernel's or libbpf's reason.
        reason: String,
        /// What libbpf printed meanwhile, each line on a line of its own, led by a newline; or empty.
        log: String,
    },
    /// There is no such interface in the network namespace of the calling thread.
    #[error("no interface {interface:?} in this network namespace (ip link shows which there are): {source}")]
    Interface {
        /// The name that was asked for.
        interface: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Another XDP program is attached to the interface.
    #[error(
        "another XDP program is attached to {interface}, perhaps that of a running discus-receive: end the program that attached it \
         (bpftool net show dev {interface} names it), or remove one that nobody holds with: ip link set dev {interface} xdp off"
    )]
    Busy {
        /// The interface.
        interface: String,
    },
    /// The kernel refused to attach the filter in every mode that was allowed.
    #[error("cannot attach the filter to {interface} in {tried}: {source}")]
    Attach {
        /// The interface.
        interface: String,
        /// The modes that were tried and, for the earlier ones, why they failed.
        tried: String,
        /// The kernel's reason in the last mode.
        source: io::Error,
    },
    /// The AF_XDP socket could not be registered for its queue.
    #[error("cannot register an AF_XDP socket for receive queue {queue} with the filter: {source}")]
    Socket {
        /// The receive queue.
        queue: u32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Another call into the kernel failed.
    #[error("{doing}: {source}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: a failed kernel call while `doing` something.
    pub(crate) fn kernel<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Kernel { doing, source: source.into() }
    }
}
