//! Memory of a BPF array map, mapped into this process: the filter and the program read and write the
//! same words, without system calls.
#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use aligned::{A64, Aligned};
use libbpf_rs::{MapCore, MapHandle};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::Error;

/// A counter row of the C program: one CPU, one cache line.
pub(crate) type CounterRow = Aligned<A64, [AtomicU64; 8]>;

/// A stream's row of the C program, a cache line.
pub(crate) type StreamRow = Aligned<A64, [AtomicU64; 8]>;

/// Types that may lie in memory that the kernel changes at any time.
///
/// # Safety
/// Every bit pattern is valid, and every access through a shared reference is atomic.
pub(crate) unsafe trait Shareable {}

// SAFETY: an atomic number: any bits, atomic access.
unsafe impl Shareable for AtomicU64 {}
// SAFETY: consists of atomic numbers only; alignment adds no bytes to 64.
unsafe impl Shareable for CounterRow {}

/// An array of the C program.
#[derive(Debug)]
pub(crate) struct Shared<T: Shareable> {
    values: NonNull<T>,
    count: usize,
    mapped_bytes: usize,
}

// SAFETY: owns its mapping; `Shareable` values are only reached through atomics.
unsafe impl<T: Shareable> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Shareable> Sync for Shared<T> {}

impl<T: Shareable> Shared<T> {
    /// Maps the values of `map`, which keeps the map alive even when its descriptor is closed.
    ///
    /// The map must be a memory-mappable array of one value, which is an array of `T` in C.
    pub(crate) fn new(map: &MapHandle) -> Result<Self, Error> {
        let count = map.value_size() as usize / size_of::<T>();
        let page_bytes = rustix::param::page_size();
        let mapped_bytes = (count * size_of::<T>()).next_multiple_of(page_bytes);
        // SAFETY: a new mapping at an address of the kernel's choice; it aliases nothing of this program.
        let address = unsafe { mmap(ptr::null_mut(), mapped_bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map.as_fd(), 0) }
            .map_err(Error::kernel("mapping a map of the filter into memory"))?;
        let values = NonNull::new(address.cast::<T>()).ok_or(Error::Kernel {
            doing: "mapping a map of the filter into memory",
            source: std::io::ErrorKind::AddrNotAvailable.into(),
        })?;
        Ok(Self { values, count, mapped_bytes })
    }

    /// The values.
    pub(crate) fn values(&self) -> &[T] {
        // SAFETY: the mapping is page-aligned, holds `count` values, lives as long as `self`, and `T` is
        // `Shareable`, so that changes by the kernel or other threads are atomic accesses.
        unsafe { slice::from_raw_parts(self.values.as_ptr(), self.count) }
    }
}

impl<T: Shareable> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; `values` borrows from `self`, so no slice outlives it.
        let result = unsafe { munmap(self.values.as_ptr().cast(), self.mapped_bytes) };
        debug_assert!(result.is_ok());
    }
}
