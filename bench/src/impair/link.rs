//! Attaches a program to the egress of an interface by a tcx link, which libbpf-rs does not offer.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libbpf_rs::libbpf_sys;

/// An attachment that the kernel removes when this value is dropped or the process dies.
#[derive(Debug)]
pub(super) struct TcxLink(OwnedFd);

impl TcxLink {
    /// Attaches after the programs that are attached already. Kernels before 6.6 answer `InvalidInput`.
    pub(super) fn egress(program: BorrowedFd<'_>, interface: i32) -> io::Result<Self> {
        let options = libbpf_sys::bpf_link_create_opts {
            sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        // SAFETY: the options are complete, and nothing in them points anywhere.
        let result = unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), interface, libbpf_sys::BPF_TCX_EGRESS, &options) };
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        // SAFETY: not negative, so a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(result) }))
    }
}

impl Drop for TcxLink {
    /// Closing the descriptor would detach as well, but only once no child process that another thread is just
    /// starting holds a copy of it: until the child's exec.
    fn drop(&mut self) {
        // SAFETY: takes a descriptor and no pointer. A failure means that the interface is gone, and the link with it.
        unsafe { libbpf_sys::bpf_link_detach(self.0.as_raw_fd()) };
    }
}
