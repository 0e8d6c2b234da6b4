//! What the integration tests share: whether this process may load filters, and an independent model of one.

// Each test program uses a part.
#![allow(dead_code)]

pub(crate) mod model;
pub(crate) mod namespaces;

use std::process::ExitCode;

use bpf::{Error, LoadedFilter, fixtures};
use libtest_mimic::{Arguments, Trial};

/// Runs the trials; those in `privileged` only where the kernel lets this process load filters, else they
/// are reported as ignored and the reason is printed.
pub(crate) fn run(unprivileged: Vec<Trial>, privileged: Vec<Trial>) -> ExitCode {
    let arguments = Arguments::from_args();
    let refused = matches!(LoadedFilter::load(&fixtures::config()), Err(Error::Permission));
    if refused && !arguments.list {
        eprintln!(
            "skipped {} tests: they load the filter into the kernel, which needs root (or CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN)",
            privileged.len()
        );
    }
    let privileged = privileged.into_iter().map(|trial| trial.with_ignored_flag(refused));
    libtest_mimic::run(&arguments, unprivileged.into_iter().chain(privileged).collect()).exit_code()
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough randomness for tests, from a seed that a failure prints.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is small enough for the bias not to matter.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
