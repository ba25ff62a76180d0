//! Compiles the protocol between controller and agent, for whoever wants it.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    compile("distribution.proto")
}

#[cfg(feature = "distribution")]
fn compile(file: &str) -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile([file], ["proto"])?;
    tonic_prost_build::configure()
        // Secrets are in these messages.
        .skip_debug(["."])
        .compile_fds(descriptors)?;
    Ok(())
}

#[cfg(not(feature = "distribution"))]
#[expect(
    clippy::unnecessary_wraps,
    reason = "the same signature as where there is work"
)]
fn compile(_: &str) -> Result<(), Box<dyn Error>> {
    Ok(())
}
