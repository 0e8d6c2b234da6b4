//! Compiles the filter and generates its skeleton into OUT_DIR.

use std::env;
use std::error::Error;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "c/filter.bpf.c";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-changed=build.rs");

    let output = PathBuf::from(env::var("OUT_DIR")?).join("filter.skel.rs");
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    // v3 (kernel 5.1) has 32-bit jumps: shorter code for 16-bit ports and 32-bit ids.
    let mut arguments = vec!["-Wall".to_owned(), "-mcpu=v3".to_owned()];
    // clang targets bpf, so it does not look where Debian keeps the machine's <asm/types.h>.
    arguments.push(format!("-I/usr/include/{arch}-linux-gnu"));

    SkeletonBuilder::new().source(SOURCE).clang_args(arguments).build_and_generate(&output).map_err(|error| {
        format!(
            "{SOURCE} did not compile (needed: clang with the bpf target, libelf and zlib headers, linux-libc-dev; \
             on Debian: apt-get install clang libelf-dev zlib1g-dev pkg-config linux-libc-dev): {error:#}"
        )
    })?;
    Ok(())
}
