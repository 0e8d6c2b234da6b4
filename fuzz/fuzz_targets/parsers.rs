//! One program for all parsers: `DISCUS_FUZZ` names the one to fuzz. A crate that gets a new parser lists it in its `fuzz::TARGETS`.
#![no_main]

use std::sync::OnceLock;

type Target = fn(&[u8]);

static TARGET: OnceLock<Target> = OnceLock::new();

/// Every parser by its name.
fn targets() -> impl Iterator<Item = (&'static str, Target)> {
    image::fuzz::TARGETS.iter().chain(wire::fuzz::TARGETS).copied()
}

fn chosen() -> Target {
    let name = std::env::var("DISCUS_FUZZ").unwrap_or_default();
    let found = targets().find(|(known, _)| *known == name);
    found.map(|(_, target)| target).unwrap_or_else(|| {
        let names: Vec<&str> = targets().map(|(name, _)| name).collect();
        eprintln!("set DISCUS_FUZZ to one of: {}", names.join(" "));
        std::process::exit(2)
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(chosen)(bytes));
