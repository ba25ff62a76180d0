//! Builds the kernel programs from source and hands them to the crate as `postern.bpf.o`.

#[path = "build/toolchain.rs"]
mod toolchain;

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("no manifest dir")?)
        .parent()
        .context("the crate lies in no workspace")?
        .to_path_buf();

    for input in [
        "proxy-ebpf/src",
        "proxy-ebpf/Cargo.toml",
        "proxy-common/src",
        "proxy-common/Cargo.toml",
        "proxy-userspace/build",
        "Cargo.lock",
    ] {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo:rerun-if-env-changed=PATH");

    // The folder that holds target/tools; it differs with `--target` and `--target-dir`.
    let target = out
        .ancestors()
        .find(|dir| dir.join(toolchain::LINKER).exists())
        .or_else(|| out.ancestors().nth(4))
        .context("OUT_DIR is not below a target folder")?
        .to_path_buf();
    let toolchain = toolchain::find(&target)?;
    let object = toolchain::object(&target);
    println!("cargo:rerun-if-changed={}", toolchain.linker.display());

    let output = toolchain
        .cargo("build", &root, &target)
        .output()
        .with_context(|| format!("cannot run {}", toolchain.name))?;
    if !output.status.success() {
        bail!(
            "the eBPF object does not build with {}:\n{}",
            toolchain.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    fs::copy(&object, out.join("postern.bpf.o"))
        .with_context(|| format!("cannot copy {}", object.display()))?;
    Ok(())
}
