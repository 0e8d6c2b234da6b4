//! Where the engine's threads run, and which of them first.

use rustix::process::setpriority_process;

/// Of the thread that takes packets. The others catch up after a wait, for which their channels and buffers are made; its ring is full after 10 to 20 ms.
const INTAKE_NICE: i32 = -10;

/// The core of one of the engine's threads, by its number; none when the operator has chosen none.
pub(super) fn core_of(cores: &[usize], thread: usize) -> Option<usize> {
    (!cores.is_empty()).then(|| cores[thread % cores.len()])
}

/// Keeps the calling thread on one core, so that its caches stay warm. Not being allowed to is no reason to stop.
pub(super) fn pin(core: Option<usize>) {
    if let Some(id) = core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        tracing::warn!("cannot pin a thread to core {id}");
    }
}

/// Has the scheduler prefer the calling thread to this machine's others (sched(7): on Linux each thread has a nice value of its own). Without
/// CAP_SYS_NICE it is one of many.
pub(super) fn go_first() {
    if let Err(error) = setpriority_process(None, INTAKE_NICE) {
        tracing::debug!("the thread that takes packets has no priority: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn threads_share_the_chosen_cores() {
        assert_eq!([0, 1, 2].map(|thread| core_of(&[4, 6], thread)), [Some(4), Some(6), Some(4)]);
        assert_eq!(core_of(&[], 1), None);
    }

    #[test]
    fn one_thread_goes_first_and_no_other() {
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        let after = std::thread::spawn(move || {
            go_first();
            nice()
        });
        let is_allowed = rustix::process::geteuid().is_root();
        assert_eq!(after.join().unwrap(), if is_allowed { INTAKE_NICE } else { before });
        assert_eq!(nice(), before);
    }
}
