//! SIGINT and SIGTERM: the first one asks the receiver to stop and leave things in order, the second one ends the program at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a program that SIGINT ended, as shells report it.
const INTERRUPTED: u8 = 130;
/// The same for SIGTERM.
const TERMINATED: u8 = 143;

/// What signals have come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    exit_code: Arc<AtomicU8>,
}

impl Signals {
    /// Handles both signals from now on.
    ///
    /// # Errors
    /// When the handlers or their thread cannot be set up.
    pub(crate) fn handle() -> io::Result<Signals> {
        let signals = Signals::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        // Registered before this function returns; the thread only waits.
        let (mut interrupt, mut terminate) = {
            let _context = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let handler = signals.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    let exit_code = tokio::select! {
                        _ = interrupt.recv() => INTERRUPTED,
                        _ = terminate.recv() => TERMINATED,
                    };
                    if handler.stop.swap(true, Ordering::AcqRel) {
                        std::process::exit(exit_code.into());
                    }
                    handler.exit_code.store(exit_code, Ordering::Release);
                }
            });
        })?;
        Ok(signals)
    }

    /// Becomes true with the first signal.
    pub(crate) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The exit code that the first signal asks for.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.exit_code.load(Ordering::Acquire) {
            0 => INTERRUPTED,
            code => code,
        }
    }
}
