//! The loader and the C program's types, generated from `impair.bpf.c` by the build script.
#![allow(unsafe_code, missing_docs, unreachable_pub)]
#![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/impair.skel.rs"));
