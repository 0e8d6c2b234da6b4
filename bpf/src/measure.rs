//! Runs the fixtures through the filter in the kernel (BPF_PROG_TEST_RUN): verdict, action, time per packet.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, socket};

use crate::fixtures::{self, FINISHED, Fixture, WANTED};
use crate::kernel::{load_empty_program, test_run};
use crate::{Action, Error, FilterConfig, LoadedFilter, Verdict};

/// Budget per packet, whatever the packet, with the kernel's loop of a test run ([`loop_floor`]) in it.
pub const BUDGET: Duration = Duration::from_nanos(35);

/// What the filter did with a fixture's packet.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// The fixture.
    pub fixture: Fixture,
    /// The verdict that was counted, if every run was counted under the same one.
    pub verdict: Option<Verdict>,
    /// What becomes of the packet.
    pub action: Action,
    /// Time per packet, the least of all rounds: the others were disturbed.
    pub per_packet: Duration,
}

/// The filter loaded twice, for queues with and without an AF_XDP socket, with the fixtures' want set.
#[derive(Debug)]
pub struct FixtureFilters {
    with_socket: LoadedFilter,
    without_socket: LoadedFilter,
    /// The kernel takes a closed socket out of the map.
    _socket: OwnedFd,
}

impl FixtureFilters {
    /// Loads the filters for `config`, in general [`fixtures::config`].
    ///
    /// # Errors
    /// Those of [`LoadedFilter::load`] and [`LoadedFilter::register_socket`].
    pub fn load(config: &FilterConfig) -> Result<Self, Error> {
        // A test run redirects nothing for real, so this socket needs neither rings nor an interface.
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).map_err(Error::kernel("opening an AF_XDP socket"))?;
        let with_socket = LoadedFilter::load(config)?;
        // Test runs pretend to be on queue 0.
        with_socket.register_socket(0, socket.as_fd())?;
        let without_socket = LoadedFilter::load(config)?;
        for filter in [&with_socket, &without_socket] {
            let wants = filter.want_set();
            wants.set(WANTED);
            wants.set(FINISHED);
            wants.clear(FINISHED);
        }
        Ok(Self { with_socket, without_socket, _socket: socket })
    }

    /// The filter for queues with or without a socket.
    pub fn filter(&self, with_socket: bool) -> &LoadedFilter {
        if with_socket { &self.with_socket } else { &self.without_socket }
    }

    /// Runs the filter `rounds` times `repeat` times on the fixture's packet.
    ///
    /// # Errors
    /// [`Error::Kernel`], when the kernel refuses the packet.
    pub fn measure(&self, fixture: &Fixture, repeat: u32, rounds: u32) -> Result<Measurement, Error> {
        let filter = self.filter(fixture.with_socket);
        let before = filter.counters()?;
        let mut best = filter.test_run(&fixture.packet, repeat)?;
        for _ in 1..rounds {
            let run = filter.test_run(&fixture.packet, repeat)?;
            best.per_packet = best.per_packet.min(run.per_packet);
        }
        let counted = filter.counters()? - before;
        let runs = u64::from(repeat.max(1)) * u64::from(rounds.max(1));
        let verdict = Verdict::ALL.into_iter().find(|&verdict| counted.of(verdict) == runs && counted.seen() == runs);
        Ok(Measurement { fixture: fixture.clone(), verdict, action: best.action, per_packet: best.per_packet })
    }
}

/// What a test run of a program that does nothing takes: the part of every figure here that is the kernel's loop
/// and not the filter. The least of `rounds` times `repeat` runs.
///
/// # Errors
/// [`Error::Kernel`], above all without the right to load programs.
pub fn loop_floor(repeat: u32, rounds: u32) -> Result<Duration, Error> {
    let program = load_empty_program()?;
    (0..rounds.max(1))
        .map(|_| test_run(program.as_fd(), &[0; 64], repeat).map(|run| run.per_packet))
        .try_fold(Duration::MAX, |least, run| Ok(least.min(run?)))
}

/// Measures every fixture, `rounds` times `repeat` runs each. Many short rounds are disturbed less than one long
/// one: 50 of 5,000 take less than a second for the whole table.
///
/// # Errors
/// Those of [`FixtureFilters::load`] and [`FixtureFilters::measure`].
pub fn table(repeat: u32, rounds: u32) -> Result<Vec<Measurement>, Error> {
    let filters = FixtureFilters::load(&fixtures::config())?;
    fixtures::table().iter().map(|fixture| filters.measure(fixture, repeat, rounds)).collect()
}
