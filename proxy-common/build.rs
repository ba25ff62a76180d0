//! Compiles the protocol between controller and agent.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "distribution")]
    {
        let descriptors = protox::compile(["distribution.proto"], ["proto"])?;
        tonic_prost_build::configure()
            // Secrets are in these messages.
            .skip_debug(["."])
            .compile_fds(descriptors)?;
    }
    Ok(())
}
