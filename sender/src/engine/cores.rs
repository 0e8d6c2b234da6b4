//! Which core each thread runs on.

use std::time::Duration;

/// What a machine has to have beside a core for each transmitter: with fewer, a pinned or spinning thread takes away what the kernel, the
/// reader and other threads need.
const CORES_FOR_THE_REST: usize = 3;
/// Sleeping takes about this long to return from on an ordinary machine.
const SPIN_BELOW: Duration = Duration::from_micros(50);

/// The operator's or the default choice of cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores {
    /// One for each transmitter, then one for the reader.
    chosen: Option<Vec<usize>>,
    available: usize,
    transmitters: usize,
}

impl Cores {
    /// The operator's choice for so many transmitters, or the machine's last cores when it has some to spare.
    pub fn new(chosen: Option<Vec<usize>>, transmitters: usize) -> Cores {
        Cores { chosen, available: std::thread::available_parallelism().map_or(1, usize::from), transmitters }
    }

    /// For the lines at start.
    pub fn description(&self) -> String {
        let name = |core: Option<usize>| core.map_or_else(|| "any core".to_owned(), |core| format!("core {core}"));
        let mut transmit: Vec<String> = (0..self.transmitters).map(|at| name(self.transmitter(at))).collect();
        // Those without a core of their own are last, and said once.
        transmit.dedup();
        format!("transmit on {}, read on {}", transmit.join(" and "), name(self.reader()))
    }

    /// That of the transmitter at this position.
    pub(super) fn transmitter(&self, at: usize) -> Option<usize> {
        match &self.chosen {
            Some(cores) => cores.get(at).copied(),
            // The first cores take most interrupts.
            None => self.has_spare().then(|| self.available - 1 - at),
        }
    }

    pub(super) fn reader(&self) -> Option<usize> {
        match &self.chosen {
            Some(cores) => cores.get(self.transmitters).copied(),
            None => self.has_spare().then_some(1),
        }
    }

    pub(super) fn spin_below(&self) -> Duration {
        if self.has_spare() { SPIN_BELOW } else { Duration::ZERO }
    }

    fn has_spare(&self) -> bool {
        self.available >= self.transmitters + CORES_FOR_THE_REST
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

    fn cores(chosen: Option<&[usize]>, available: usize, transmitters: usize) -> Cores {
        Cores { chosen: chosen.map(<[usize]>::to_vec), available, transmitters }
    }

    /// The cores of the transmitters, and that of the reader.
    fn placed(cores: &Cores) -> (Vec<Option<usize>>, Option<usize>) {
        ((0..cores.transmitters).map(|at| cores.transmitter(at)).collect(), cores.reader())
    }

    #[test]
    fn a_small_machine_pins_nothing_unless_told_to() {
        let untold = cores(None, 2, 1);
        assert_eq!((placed(&untold), untold.spin_below()), ((vec![None], None), Duration::ZERO));
        assert_eq!(placed(&cores(Some(&[1]), 2, 1)), (vec![Some(1)], None));
    }

    #[test]
    fn a_large_machine_transmits_on_its_last_core() {
        let cores = cores(None, 8, 1);
        assert_eq!((placed(&cores), cores.spin_below()), ((vec![Some(7)], Some(1)), SPIN_BELOW));
        assert_eq!(cores.description(), "transmit on core 7, read on core 1");
    }

    #[test]
    fn the_second_of_the_chosen_cores_reads() {
        assert_eq!(placed(&cores(Some(&[4, 5]), 8, 1)), (vec![Some(4)], Some(5)));
    }

    #[test]
    fn several_transmitters_have_the_last_cores_where_three_are_left() {
        let cores_for_two = |available| cores(None, available, 2);
        assert_eq!(placed(&cores_for_two(5)), (vec![Some(4), Some(3)], Some(1)));
        assert_eq!(cores_for_two(5).description(), "transmit on core 4 and core 3, read on core 1");
        assert_eq!((placed(&cores_for_two(4)), cores_for_two(4).spin_below()), ((vec![None, None], None), Duration::ZERO));
        assert_eq!(cores_for_two(4).description(), "transmit on any core, read on any core");
    }

    #[test]
    fn the_chosen_cores_are_the_transmitters_first_and_then_the_readers() {
        assert_eq!(placed(&cores(Some(&[4, 5, 6]), 8, 2)), (vec![Some(4), Some(5)], Some(6)));
        // One too few: the reader runs anywhere; two too few: a transmitter does too.
        assert_eq!(placed(&cores(Some(&[4, 5]), 8, 2)), (vec![Some(4), Some(5)], None));
        assert_eq!(placed(&cores(Some(&[4]), 8, 2)), (vec![Some(4), None], None));
        assert_eq!(cores(Some(&[4]), 8, 2).description(), "transmit on core 4 and any core, read on any core");
    }
}
