//! Reading what the kernel has in memory of a file anyway: a pack that was just made, or is served for the second time. That is a copy, where O_DIRECT would read the
//! disk once more, which may be the one that somebody else waits for. What is not there is left to O_DIRECT, so that serving a pack does not push
//! other things out of memory.
#![allow(unsafe_code)] // One system call that has no wrapper.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use image::PAGE_BYTES;

/// `cachestat(2)` of Linux 6.5, the same number on all architectures but alpha (include/uapi/asm-generic/unistd.h).
const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` (include/uapi/linux/mman.h).
#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// `struct cachestat` (include/uapi/linux/mman.h), in pages.
#[repr(C)]
#[derive(Default)]
struct Pages {
    cached: u64,
    dirty: u64,
    in_writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// See the module's text.
pub(super) struct PageCache {
    /// Opened without O_DIRECT.
    file: File,
}

impl PageCache {
    /// That of the file at `path`; none where the kernel does not tell what it holds: an older one, or a file system without a page cache.
    pub(super) fn open(path: &Path) -> Option<PageCache> {
        let cache = PageCache { file: File::open(path).ok()? };
        cache.pages(0, PAGE_BYTES).is_ok().then_some(cache)
    }

    /// Fills `buffer` with what stands at `offset` of the file, if all of it is in memory; else nothing of use is in `buffer`.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let whole = buffer.len().div_ceil(PAGE_BYTES) as u64;
        // What goes between the two calls is read from the disk, which is no harm.
        self.pages(offset, buffer.len()).is_ok_and(|pages| pages >= whole) && self.file.read_exact_at(buffer, offset).is_ok()
    }

    /// How many pages from `offset` on, a multiple of a page, are in memory.
    fn pages(&self, offset: u64, length_bytes: usize) -> io::Result<u64> {
        let range = Range { offset, length: length_bytes as u64 };
        let mut pages = Pages::default();
        // SAFETY: the kernel reads `range` and fills `pages` during the call; both have its layout.
        let result = unsafe { libc::syscall(CACHESTAT, self.file.as_raw_fd(), &raw const range, &raw mut pages, 0_u32) };
        if result == 0 { Ok(pages.cached) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Advice, fadvise};

    #[test]
    fn what_is_in_memory_is_read_and_what_is_not_is_left_alone() {
        // Not in memory itself, as /tmp may be.
        let mut file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        let content: Vec<u8> = (0..300_000_u32).map(|at| (at * 7 / 3) as u8).collect();
        io::Write::write_all(&mut file, &content).unwrap();
        let Some(cache) = PageCache::open(file.path()) else { return eprintln!("skipped: this kernel has no cachestat") };
        let mut buffer = vec![0; 200_000];
        assert!(cache.read(4096, &mut buffer));
        assert!(buffer == content[4096..204_096]);
        file.as_file().sync_all().unwrap();
        fadvise(file.as_file(), 0, None, Advice::DontNeed).unwrap();
        if cache.pages(0, content.len()).unwrap() == 0 {
            assert!(!cache.read(4096, &mut buffer));
            assert_eq!(cache.pages(0, content.len()).unwrap(), 0, "looking brings nothing in");
        }
        assert!(!cache.read(299_008, &mut buffer), "the file ends before that");
    }
}
