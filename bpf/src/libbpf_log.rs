//! Collects what libbpf would print to standard error, so that it can be part of an error instead.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use libbpf_rs::{PrintLevel, set_print};

/// A rejected program makes libbpf print the verifier's whole log; its end says why.
const LOG_MAX_BYTES: usize = 8192;

/// libbpf has one print callback for the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

thread_local! {
    static LOG: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `action`; returns its result and the warnings that libbpf printed on this thread meanwhile.
pub(crate) fn collect<R>(action: impl FnOnce() -> R) -> (R, String) {
    // The lock guards no data that a panic could leave half-changed.
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    LOG.take();
    let before = set_print(Some((PrintLevel::Warn, append)));
    let result = action();
    set_print(before);
    (result, LOG.take())
}

fn append(_: PrintLevel, message: String) {
    LOG.with_borrow_mut(|log| {
        log.push('\n');
        log.push_str(message.trim_end());
        if let Some(excess) = log.len().checked_sub(LOG_MAX_BYTES) {
            let start = (excess..log.len()).find(|&at| log.is_char_boundary(at)).unwrap_or(log.len());
            log.replace_range(..start, "\n[...]");
        }
    });
}
