//! Generates the control plane's messages and service. protox parses the schema in Rust: no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let schema = protox::compile(["proto/discus.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(schema)?;
    Ok(())
}
