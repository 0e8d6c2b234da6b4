//! Flushes the target while it is being written, from a thread of its own, so that the flush at the end finds little to do: a disk whose cache takes a
//! gigabyte at 2 GB/s and lets go of it at 1 GB/s would otherwise be waited for when all has come. Only speed depends on it; that everything is flushed is for
//! [`Target::finish`](super::target::Target) to see to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use crate::{Error, Result};

/// Written between two flushes: what is left at the end takes a tenth of a second at 1 GB/s, and a disk that does nothing else while it flushes is not asked to more than
/// a few times a second.
const FLUSH_BYTES: u64 = 128 << 20;

/// See the module's text.
pub(super) struct Flusher {
    path: PathBuf,
    /// Taken when the last flush has ended; none when the thread could not be had or has ended.
    requests: Option<SyncSender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    written_bytes: u64,
}

impl Flusher {
    /// A thread that calls `flush` for the target at `path`. Where there is none to be had, the flush at the end does it all.
    pub(super) fn start(path: &Path, flush: impl Fn() -> io::Result<()> + Send + 'static) -> Flusher {
        let (requests, requested) = sync_channel(0);
        let body = move || requested.iter().try_for_each(|()| flush());
        let thread = std::thread::Builder::new().name("flush".to_owned()).spawn(body).ok();
        Flusher { path: path.to_owned(), requests: Some(requests), thread, written_bytes: 0 }
    }

    /// So many bytes more have been written. Never waits.
    ///
    /// # Errors
    /// When a flush has failed: the kernel reports that once only, so nobody else would learn of it.
    pub(super) fn written(&mut self, bytes: u64) -> Result<()> {
        self.written_bytes += bytes;
        if self.written_bytes < FLUSH_BYTES {
            return Ok(());
        }
        match self.requests.as_ref().map(|requests| requests.try_send(())) {
            Some(Ok(())) => self.written_bytes = 0,
            // Busy with the flush before.
            Some(Err(TrySendError::Full(()))) | None => {}
            Some(Err(TrySendError::Disconnected(()))) => return self.end(),
        }
        Ok(())
    }

    /// Waits for the flush that is under way.
    ///
    /// # Errors
    /// When a flush has failed.
    pub(super) fn end(&mut self) -> Result<()> {
        self.requests = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let outcome = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.map_err(Error::io("flushing", &self.path))
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        // Given up: what it says makes no difference any more.
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    #[test]
    fn it_flushes_now_and_then_and_not_for_little() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let mut flusher = Flusher::start(Path::new("target"), move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        flusher.written(FLUSH_BYTES - 1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        // The thread may not be there yet: what is asked for meanwhile is asked for again with the next bytes.
        while count.load(Ordering::Relaxed) == 0 {
            flusher.written(1).unwrap();
            assert!(Instant::now() < deadline);
        }
        flusher.written(1).unwrap();
        flusher.end().unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_flush_that_fails_is_an_error_of_a_later_write_or_of_the_end() {
        let failing = || Flusher::start(Path::new("target"), || Err(io::Error::from_raw_os_error(libc::EIO)));
        let mut flusher = failing();
        let deadline = Instant::now() + Duration::from_secs(10);
        let error = loop {
            match flusher.written(FLUSH_BYTES) {
                Ok(()) => assert!(Instant::now() < deadline),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("target"), "{error}");
        // Nothing more is written once the failing flush was asked for.
        let mut flusher = failing();
        while flusher.written(FLUSH_BYTES).is_ok() && flusher.written_bytes > 0 {
            assert!(Instant::now() < deadline);
        }
        assert!(flusher.end().is_err());
    }
}
