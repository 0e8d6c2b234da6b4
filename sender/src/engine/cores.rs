//! Which core each thread runs on.

use std::time::Duration;

/// With fewer cores than this a pinned or spinning thread takes away what the kernel's and other threads need.
const CORES_TO_SPARE: usize = 4;
/// Sleeping takes about this long to return from on an ordinary machine.
const SPIN_BELOW: Duration = Duration::from_micros(50);

/// The operator's or the default choice of cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores {
    /// One for the transmitter, one for the reader.
    chosen: Option<Vec<usize>>,
    available: usize,
}

impl Cores {
    /// The operator's choice, or the machine's last cores when it has some to spare.
    pub fn new(chosen: Option<Vec<usize>>) -> Cores {
        Cores { chosen, available: std::thread::available_parallelism().map_or(1, usize::from) }
    }

    /// For the lines at start.
    pub fn description(&self) -> String {
        let name = |core: Option<usize>| core.map_or_else(|| "any core".to_owned(), |core| format!("core {core}"));
        format!("transmit on {}, read on {}", name(self.transmitter()), name(self.reader()))
    }

    pub(super) fn transmitter(&self) -> Option<usize> {
        match &self.chosen {
            Some(cores) => cores.first().copied(),
            // The first cores take most interrupts.
            None => self.spare(),
        }
    }

    pub(super) fn reader(&self) -> Option<usize> {
        match &self.chosen {
            Some(cores) => cores.get(1).copied(),
            None => self.spare().map(|_| 1),
        }
    }

    pub(super) fn spin_below(&self) -> Duration {
        if self.available >= CORES_TO_SPARE { SPIN_BELOW } else { Duration::ZERO }
    }

    fn spare(&self) -> Option<usize> {
        (self.available >= CORES_TO_SPARE).then(|| self.available - 1)
    }
}

/// Pins the calling thread. Where that fails it runs anywhere.
pub(super) fn pin(core: Option<usize>) {
    if let Some(id) = core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        tracing::warn!("cannot run on core {id}; running on any");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_pins_nothing_unless_told_to() {
        let cores = Cores { chosen: None, available: 2 };
        assert_eq!((cores.transmitter(), cores.reader(), cores.spin_below()), (None, None, Duration::ZERO));
        let told = Cores { chosen: Some(vec![1]), available: 2 };
        assert_eq!((told.transmitter(), told.reader()), (Some(1), None));
    }

    #[test]
    fn a_large_machine_transmits_on_its_last_core() {
        let cores = Cores { chosen: None, available: 8 };
        assert_eq!((cores.transmitter(), cores.reader()), (Some(7), Some(1)));
        assert_eq!(cores.description(), "transmit on core 7, read on core 1");
    }

    #[test]
    fn the_second_of_the_chosen_cores_reads() {
        let cores = Cores { chosen: Some(vec![4, 5]), available: 8 };
        assert_eq!((cores.transmitter(), cores.reader()), (Some(4), Some(5)));
    }
}
