//! Buffers that io_uring knows by number, so that it need not look their pages up for each read and write. A buffer is registered when it is first used:
//! registering takes its memory from the system, of which most pools never need all.
#![allow(unsafe_code)] // Tells the kernel of memory.

use std::io;

use io_uring::IoUring;

use super::buffer_pool::{Buffer, BufferPool};

/// A kernel's table has so many entries at most (`IORING_MAX_REG_BUFFERS`, io_uring/rsrc.h). What does not fit is not registered.
const ENTRIES_MAX: usize = 1 << 14;

/// The registered buffers of one ring.
pub struct RegisteredBuffers {
    /// Each with the entry of its first buffer. They keep the memory.
    pools: Vec<(BufferPool, usize)>,
    /// By entry.
    is_registered: Vec<bool>,
    /// Why the kernel registers no more.
    refused: Option<io::Error>,
}

impl RegisteredBuffers {
    /// Makes room for the buffers of `pools` in the table of `ring`, which must have none yet, and registers one to see whether that may be done.
    pub fn new(ring: &IoUring, pools: &[&BufferPool]) -> RegisteredBuffers {
        let mut entries = 0;
        let mut place = |pool: &BufferPool| {
            let first = entries;
            entries += pool.count();
            (pool.clone(), first)
        };
        let pools: Vec<_> = pools.iter().map(|pool| place(pool)).collect();
        let entries = entries.min(ENTRIES_MAX);
        let refused = if entries == 0 { None } else { ring.submitter().register_buffers_sparse(entries as u32).err() };
        let mut registered = RegisteredBuffers { pools, is_registered: vec![false; entries], refused };
        let first = registered.pools.first().and_then(|(pool, _)| pool.take());
        if let Some(mut buffer) = first {
            registered.number(ring, &mut buffer);
        }
        registered
    }

    /// The number under which `ring` knows `buffer`, which is registered if it was not; none where that cannot be.
    pub fn number(&mut self, ring: &IoUring, buffer: &mut Buffer) -> Option<u16> {
        let entry = self.pools.iter().find_map(|(pool, first)| Some(first + pool.position(buffer)?))?;
        if !*self.is_registered.get(entry)? {
            if self.refused.is_some() {
                return None;
            }
            let range = [libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }];
            // SAFETY: the memory belongs to a pool that `self` keeps; what the kernel does with it later is for the reads and writes that name it to justify.
            if let Err(error) = unsafe { ring.submitter().register_buffers_update(entry as u32, &range, None) } {
                self.refused = Some(error);
                return None;
            }
            self.is_registered[entry] = true;
        }
        u16::try_from(entry).ok()
    }

    /// Why the kernel registers no more buffers, if so: mostly the limit of locked memory.
    pub fn refused(&self) -> Option<&io::Error> {
        self.refused.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_all_pools_get_numbers_of_their_own_and_keep_them() {
        let ring = IoUring::new(4).unwrap();
        let (first, second) = (BufferPool::new(3, 4096).unwrap(), BufferPool::new(2, 8192).unwrap());
        let mut registered = RegisteredBuffers::new(&ring, &[&first, &second]);
        assert!(registered.refused().is_none(), "{:?}", registered.refused());
        let mut buffers: Vec<Buffer> = std::iter::from_fn(|| first.take()).chain(std::iter::from_fn(|| second.take())).collect();
        for _ in 0..2 {
            let numbers: Vec<_> = buffers.iter_mut().map(|buffer| registered.number(&ring, buffer)).collect();
            assert_eq!(numbers, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
        }
        let mut foreign = BufferPool::new(1, 4096).unwrap().take().unwrap();
        assert_eq!(registered.number(&ring, &mut foreign), None);
    }
}
