//! The few calls into the kernel that libbpf-rs does not offer: an XDP link in a chosen mode, and test runs.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libbpf_rs::libbpf_sys;

use crate::Error;

/// What the filter does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The packet ends here.
    Drop,
    /// The packet goes on to the kernel's stack.
    Pass,
    /// The packet goes to an AF_XDP socket.
    Redirect,
    /// Another value, which this filter never returns.
    Other(u32),
}

impl From<u32> for Action {
    fn from(value: u32) -> Self {
        match value {
            libbpf_sys::XDP_DROP => Self::Drop,
            libbpf_sys::XDP_PASS => Self::Pass,
            libbpf_sys::XDP_REDIRECT => Self::Redirect,
            other => Self::Other(other),
        }
    }
}

/// Result of running the filter on one packet many times (BPF_PROG_TEST_RUN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestRun {
    /// What the filter does with the packet.
    pub action: Action,
    /// Mean time per run, which the kernel measures in whole nanoseconds.
    pub per_packet: Duration,
}

/// Runs an XDP program `repeat` times on `packet` without any interface.
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> Result<TestRun, Error> {
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        repeat: i32::try_from(repeat).unwrap_or(i32::MAX),
        ..Default::default()
    };
    // SAFETY: the options point to `packet`, whose length they give, and ask for no output buffers.
    let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) };
    check(result).map_err(Error::kernel("running the filter on a test packet"))?;
    Ok(TestRun { action: Action::from(options.retval), per_packet: Duration::from_nanos(options.duration.into()) })
}

/// Loads the shortest XDP program, which passes every packet: a test run of it shows what the kernel's loop
/// around a program costs.
pub(crate) fn load_empty_program() -> Result<OwnedFd, Error> {
    // r0 = XDP_PASS; exit. Codes from <linux/bpf.h>: ALU64 | MOV | K, and JMP | EXIT.
    let mut set_result = libbpf_sys::bpf_insn { code: 0xb7, imm: libbpf_sys::XDP_PASS as i32, ..Default::default() };
    set_result.set_dst_reg(0);
    let exit = libbpf_sys::bpf_insn { code: 0x95, ..Default::default() };
    let instructions = [set_result, exit];
    // SAFETY: name and licence are C strings, the count is the array's, and null asks for default options.
    let result = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_XDP,
            c"discus_empty".as_ptr(),
            c"Dual BSD/GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as libbpf_sys::size_t,
            std::ptr::null_mut(),
        )
    };
    check(result).map_err(Error::kernel("loading an empty program"))?;
    // SAFETY: not negative, so a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// An XDP program's attachment, gone when this value is dropped or the process dies.
#[derive(Debug)]
pub(crate) struct XdpLink(OwnedFd);

impl XdpLink {
    /// Attaches `program` to the interface of the calling thread's network namespace with index `interface`.
    /// `mode` is one of the kernel's `XDP_FLAGS_*_MODE`.
    pub(crate) fn new(program: BorrowedFd<'_>, interface: u32, mode: u32) -> io::Result<Self> {
        let options = libbpf_sys::bpf_link_create_opts {
            sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
            flags: mode,
            ..Default::default()
        };
        let interface = i32::try_from(interface).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the options are complete, and nothing in them points anywhere.
        let result = unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), interface, libbpf_sys::BPF_XDP, &options) };
        check(result)?;
        // SAFETY: not negative, so a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(result) }))
    }

    /// Detaches now, whoever else may hold the link. The second time does nothing.
    pub(crate) fn detach(&self) -> io::Result<()> {
        // SAFETY: takes a descriptor and no pointer.
        check(unsafe { libbpf_sys::bpf_link_detach(self.0.as_raw_fd()) })
    }
}

impl Drop for XdpLink {
    /// Closing the descriptor would detach as well, but only once no child process that another thread is just
    /// starting holds a copy of it: until the child's exec.
    fn drop(&mut self) {
        // A failure means that the interface is gone, and the link with it.
        let _ = self.detach();
    }
}

/// libbpf's low-level calls return a negative error number.
fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
