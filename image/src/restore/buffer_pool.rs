//! Page-aligned buffers from one region that is reserved at the start, so that no data path allocates, O_DIRECT accepts every buffer, and
//! io_uring can register each once. A buffer returns to its pool when it is dropped.
//!
//! The region's memory comes with the first use of each buffer, unless it is taken before: at once, by who is held up by nothing later
//! ([`BufferPool::populate`]), or while a core has nothing else to do ([`BufferPool::populate_when_idle`]). The last buffer back is the first one out.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::units::round_up;
use crate::{Error, PAGE_BYTES, Result};

/// Populated at a time: a huge page, some 0.3 ms of work.
const POPULATE_STEP_BYTES: usize = 2 << 20;

/// A fixed number of buffers of one size. Clones share them.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    region: NonNull<u8>,
    region_bytes: usize,
    buffer_bytes: usize,
    /// Indices of the buffers that nobody has. The last one back is the first one out: it may still be in a cache.
    free: Mutex<Vec<u32>>,
    returned: Condvar,
}

// SAFETY: the region is plain memory, owned by this value and reached only through buffers. An index leaves `free` before its part of the
// region is handed out and returns after the buffer is gone, so no two buffers overlap.
unsafe impl Send for Shared {}
// SAFETY: as above; `free` is behind a lock, everything else is never changed.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `BufferPool::new`; every buffer holds an `Arc` of this value, so none is left.
        let _ = unsafe { munmap(self.region.as_ptr().cast(), self.region_bytes) };
    }
}

impl Shared {
    /// Takes all memory from the system, in the order in which buffers are first handed out, as long as `goes_on`, which is asked before each step.
    /// Where the kernel cannot do it (before Linux 5.14), memory comes with first use.
    fn populate(&self, goes_on: impl Fn() -> bool) {
        for offset in (0..self.region_bytes).step_by(POPULATE_STEP_BYTES) {
            let bytes = POPULATE_STEP_BYTES.min(self.region_bytes - offset);
            // SAFETY: the range is part of the mapping, which `self` keeps. Populating changes no content, whoever uses it meanwhile.
            if !goes_on() || unsafe { madvise(self.region.as_ptr().add(offset).cast(), bytes, Advice::LinuxPopulateWrite) }.is_err() {
                return;
            }
        }
    }
}

impl BufferPool {
    /// Reserves `count` buffers of `buffer_bytes` each, rounded up to whole pages.
    ///
    /// # Errors
    /// When the kernel does not give that much memory.
    pub fn new(count: usize, buffer_bytes: usize) -> Result<Self> {
        let buffer_bytes = round_up(buffer_bytes.max(1) as u64, PAGE_BYTES as u64) as usize;
        let region_bytes = count.max(1).checked_mul(buffer_bytes);
        let region_bytes = region_bytes.filter(|&bytes| bytes <= isize::MAX as usize && count < u32::MAX as usize);
        let region_bytes = region_bytes.ok_or_else(|| Error::Parameter(format!("{count} buffers of {buffer_bytes} bytes are too many")))?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let mapping = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            mmap_anonymous(std::ptr::null_mut(), region_bytes, protection, MapFlags::PRIVATE)
        };
        let region = mapping.ok().and_then(|mapping| NonNull::new(mapping.cast::<u8>()));
        let region = region.ok_or_else(|| Error::Parameter(format!("no memory for {count} buffers of {buffer_bytes} bytes")))?;
        let free = (0..count as u32).rev().collect();
        let shared = Shared { region, region_bytes, buffer_bytes, free: Mutex::new(free), returned: Condvar::new() };
        // Huge pages are fewer to fault in and to register; this is a wish that may be refused.
        // SAFETY: the range is the mapping just made; the advice does not change its content.
        let _ = unsafe { madvise(region.as_ptr().cast(), region_bytes, Advice::LinuxHugepage) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Takes all memory from the system now. Who must not be held up later, because packets do not wait, does this before it begins.
    pub fn populate(&self) {
        self.shared.populate(|| true);
    }

    /// Has a thread do the same while some core has nothing else to do (`SCHED_IDLE`, sched(7)). It ends with the pool; where it cannot be had, or may not
    /// change its policy, memory comes with first use.
    pub fn populate_when_idle(&self) {
        let shared = Arc::clone(&self.shared);
        let _ = std::thread::Builder::new().name("populate".to_owned()).spawn(move || {
            // Each step has its turn when a core is idle, but is not interrupted for long then: populating locks this process's memory, which all
            // threads that map some would wait for. With two other programs on two cores that took 5 s.
            let may_step = || {
                schedule_as(libc::SCHED_IDLE) && {
                    std::thread::yield_now();
                    schedule_as(libc::SCHED_OTHER)
                }
            };
            // Until the pool and all its buffers are gone.
            shared.populate(|| may_step() && Arc::strong_count(&shared) > 1);
        });
    }

    /// A buffer, or `None` while all are in use. It holds what its last user left in it.
    #[must_use]
    pub fn take(&self) -> Option<Buffer> {
        let index = self.free().pop()?;
        Some(Buffer { shared: Arc::clone(&self.shared), index })
    }

    /// A buffer, as soon as there is one.
    #[must_use]
    pub fn take_wait(&self) -> Buffer {
        let mut free = self.free();
        loop {
            if let Some(index) = free.pop() {
                return Buffer { shared: Arc::clone(&self.shared), index };
            }
            free = self.shared.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many buffers nobody has.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free().len()
    }

    /// Bytes of each buffer.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes
    }

    /// How many buffers there are.
    pub(super) fn count(&self) -> usize {
        self.shared.region_bytes / self.shared.buffer_bytes
    }

    /// Which of the pool's buffers this is; none when it is another pool's.
    pub(super) fn position(&self, buffer: &Buffer) -> Option<usize> {
        Arc::ptr_eq(&self.shared, &buffer.shared).then_some(buffer.index as usize)
    }

    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        // A push or pop does not leave the list half changed.
        self.shared.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The calling thread's policy from now on, without a priority. Whether it may be had.
fn schedule_as(policy: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads `parameters` during the call, which concerns this thread alone.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool {{ {} of {} bytes free }}", self.available(), self.shared.buffer_bytes)
    }
}

/// One buffer, page-aligned. Returns to its pool when dropped.
pub struct Buffer {
    shared: Arc<Shared>,
    index: u32,
}

impl Buffer {
    /// Where it begins.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        // SAFETY: the index is below the count that the region was made for.
        unsafe { self.shared.region.as_ptr().add(self.index as usize * self.shared.buffer_bytes) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: this part of the region is initialised and belongs to this buffer alone, see `Shared`.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.shared.buffer_bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.shared.buffer_bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.shared.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
        self.shared.returned.notify_one();
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer {{ {} }}", self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_do_not_overlap() {
        let pool = BufferPool::new(3, 5000).unwrap();
        assert_eq!(pool.buffer_bytes(), 8192);
        let mut buffers: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(buffers.len(), 3);
        for (number, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!(buffer.as_ptr() as usize % PAGE_BYTES, 0);
            buffer.fill(number as u8);
        }
        for (number, buffer) in buffers.iter().enumerate() {
            assert!(buffer.iter().all(|&byte| byte == number as u8));
        }
    }

    #[test]
    fn a_dropped_buffer_can_be_taken_again() {
        let pool = BufferPool::new(1, 4096).unwrap();
        let buffer = pool.take().unwrap();
        assert!(pool.take().is_none());
        let waiting = std::thread::spawn({
            let pool = pool.clone();
            move || pool.take_wait().len()
        });
        drop(buffer);
        assert_eq!(waiting.join().unwrap(), 4096);
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn populating_changes_nothing_that_is_in_use() {
        let pool = BufferPool::new(64, 256 << 10).unwrap();
        pool.populate_when_idle();
        let mut buffers: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        for round in 0..20 {
            for (number, buffer) in buffers.iter_mut().enumerate() {
                buffer.fill((number + round) as u8);
            }
            assert!(buffers.iter().enumerate().all(|(number, buffer)| buffer.iter().all(|&byte| byte == (number + round) as u8)));
        }
        assert_eq!(pool.position(&buffers[5]), Some(5));
        assert_eq!(BufferPool::new(1, 1).unwrap().position(&buffers[5]), None);
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let pool = BufferPool::new(1, 4096).unwrap();
        let mut buffer = pool.take().unwrap();
        drop(pool);
        buffer.fill(7);
        assert_eq!(buffer[4095], 7);
    }
}
