//! SIGINT and SIGTERM as messages, so that a program ends in good order.

use anyhow::Context;
use crossbeam_channel::{Receiver, bounded};
use tokio::signal::unix::{SignalKind, signal};

/// A signal that asks the program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`, a service manager.
    Terminate,
}

impl Signal {
    /// What shells expect of a program that a signal ended: 128 and its number.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }
}

/// Catches the two signals from now on. A second one ends the program at once.
pub(crate) fn catch() -> anyhow::Result<Receiver<Signal>> {
    let (caught, out) = bounded(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("catching signals")?;
    // Registered before this returns, so that none is missed.
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt()).context("catching SIGINT")?, signal(SignalKind::terminate()).context("catching SIGTERM")?)
    };
    let wait = move || {
        runtime.block_on(async move {
            loop {
                let signal = tokio::select! {
                    _ = interrupt.recv() => Signal::Interrupt,
                    _ = terminate.recv() => Signal::Terminate,
                };
                if caught.try_send(signal).is_err() {
                    std::process::exit(signal.exit_code().into());
                }
            }
        });
    };
    std::thread::Builder::new().name("discus-signals".to_owned()).spawn(wait).context("starting the signal thread")?;
    Ok(out)
}
