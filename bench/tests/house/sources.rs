//! Rules over the sources.

use crate::paths::{code_only, named_paths};
use crate::tree::File;

/// The modules that may hold unsafe code: they touch UMEM, rings, memory maps, registered buffers or the processor's vectors. A module is
/// added here only after someone has asked whether safe code would do.
pub(crate) const UNSAFE_MODULES: &[&str] = &[
    // A global allocator is unsafe by nature.
    "bench/tests/allocations.rs",
    "bench/src/impair/link.rs",
    "bench/src/impair/skeleton.rs",
    "bpf/src/kernel.rs",
    "bpf/src/shared.rs",
    "bpf/src/skeleton.rs",
    "image/src/restore/buffer_pool.rs",
    "image/src/restore/registered.rs",
    "image/src/restore/ring.rs",
    "receiver/src/intake/af_xdp.rs",
    "receiver/src/intake/udp.rs",
    "receiver/src/interface.rs",
    "sender/src/engine/disk.rs",
    "sender/src/engine/page_cache.rs",
    "sender/src/transmit/af_xdp.rs",
    "wire/src/erasure/kernel.rs",
    "wire/src/prefetch.rs",
];

/// Where the sans-I/O state machines live: time, packets and reports come in as values, actions go out as values.
pub(crate) const SANS_IO: &[&str] = &["sender/src/schedule/", "receiver/src/assemble/"];

/// What a state machine must not reach: clocks, threads, sockets, files, processes, and anything whose order or value is random
/// (the iteration order of the standard hash tables is), since the simulator must replay a failure from its seed.
const INPUT_OR_OUTPUT: &[&str] = &[
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net",
    "std::fs",
    "std::io",
    "std::os",
    "std::env",
    "std::process",
    "std::thread",
    "std::sync",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections::hash_map",
    "std::collections::hash_set",
    "std::hash",
    "core_affinity",
    "crossbeam_channel",
    "getrandom",
    "io_uring",
    "libc",
    "rand",
    "rustix",
    "socket2",
    "tempfile",
    "tokio",
];

/// Files that allow unsafe code and are not in `listed`, and entries of `listed` that no longer do.
pub(crate) fn unlisted_unsafe(files: &[File], listed: &[&str]) -> Vec<String> {
    let allows = |text: &str| {
        let code: String = code_only(text).split_whitespace().collect();
        code.split('#').any(|attribute| {
            let attribute = attribute.trim_start_matches('!').split(']').next().unwrap_or_default();
            attribute.contains("unsafe_code") && (attribute.contains("allow(") || attribute.contains("expect("))
        })
    };
    let allowing: Vec<&str> = files.iter().filter(|(_, text)| allows(text)).map(|(path, _)| path.as_str()).collect();
    let unlisted = allowing.iter().filter(|path| !listed.contains(path)).map(|path| format!("{path} allows unsafe code and is not listed"));
    let stale = listed.iter().filter(|path| !allowing.contains(path)).map(|path| format!("{path} is listed and allows no unsafe code"));
    unlisted.chain(stale).collect()
}

/// Paths to input, output, time or chance in the files under [`SANS_IO`].
pub(crate) fn input_or_output(files: &[File]) -> Vec<String> {
    let pure = files.iter().filter(|(path, _)| SANS_IO.iter().any(|directory| path.starts_with(directory)));
    let reaches = |path: &str| {
        let path = path.replacen("core::", "std::", 1);
        INPUT_OR_OUTPUT
            .iter()
            .any(|forbidden| path == *forbidden || path.strip_prefix(forbidden).is_some_and(|rest| rest.starts_with("::")))
    };
    let named = |(path, text): &File| {
        let found: Vec<String> =
            named_paths(text).into_iter().filter(|named| reaches(named)).map(|named| format!("{path} names {named}")).collect();
        found
    };
    pure.flat_map(named).collect()
}

/// Files with code that was put off.
pub(crate) fn unfinished(files: &[File]) -> Vec<String> {
    let put_off = |text: &str| {
        let code: String = code_only(text).split_whitespace().collect();
        ["todo!(", "unimplemented!("].iter().any(|macro_call| code.contains(macro_call))
    };
    files.iter().filter(|(_, text)| put_off(text)).map(|(path, _)| format!("{path} holds unfinished code")).collect()
}

/// Files that do not begin with a doc comment about themselves; only inner attributes may stand above it.
pub(crate) fn without_subject(files: &[File]) -> Vec<String> {
    let says = |text: &str| {
        let first = text.lines().find(|line| !line.starts_with("#![") && !line.trim().is_empty());
        first.is_some_and(|line| line.strip_prefix("//!").is_some_and(|subject| !subject.trim().is_empty()))
    };
    files.iter().filter(|(_, text)| !says(text)).map(|(path, _)| format!("{path} does not begin with what it is about (//!)")).collect()
}

/// C sources without the dual licence in their header; BPF programs (`.bpf.c`) also need it in their licence section.
pub(crate) fn without_dual_licence(files: &[File]) -> Vec<String> {
    let carries = |(path, text): &&File| {
        let header = text.lines().take(3).any(|line| {
            line.contains("SPDX-License-Identifier:") && line.contains("GPL-2.0") && line.contains(" OR ") && line.contains("BSD-2-Clause")
        });
        let section = !path.ends_with(".bpf.c") || (text.contains("SEC(\"license\")") && text.contains("\"Dual BSD/GPL\""));
        header && section
    };
    files.iter().filter(|file| !carries(file)).map(|(path, _)| format!("{path} lacks the dual BSD/GPL licence")).collect()
}
