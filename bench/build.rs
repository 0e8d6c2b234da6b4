//! Compiles the tests' own BPF program and generates its skeleton into OUT_DIR.

use std::env;
use std::error::Error;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "src/impair/impair.bpf.c";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-changed=build.rs");

    let output = PathBuf::from(env::var("OUT_DIR")?).join("impair.skel.rs");
    // v3 (kernel 5.1) has atomic additions that return the sum.
    let mut arguments = vec!["-Wall".to_owned(), "-mcpu=v3".to_owned()];
    // clang targets bpf, so it does not look where Debian keeps the machine's <asm/types.h>.
    arguments.push(format!("-I/usr/include/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH")?));

    SkeletonBuilder::new().source(SOURCE).clang_args(arguments).build_and_generate(&output).map_err(|error| {
        format!(
            "{SOURCE} did not compile (needed: clang with the bpf target, libelf and zlib headers, linux-libc-dev; \
             on Debian: apt-get install clang libelf-dev zlib1g-dev pkg-config linux-libc-dev): {error:#}"
        )
    })?;
    Ok(())
}
