//! The compiler and the linker of the kernel programs.

use std::process::Command;

use anyhow::{Context, Result};

use super::tools::Tool;
use crate::run;
use crate::toolchain;
use crate::workspace::Workspace;

/// Turns what the compiler emits into an object that the kernel loads.
pub(crate) const LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
};

/// The oldest LLVM that the linker is built with: the one of Debian's compiler.
const OLDEST_LLVM: u32 = 22;

/// Where the `core` library for the BPF target comes from.
pub(crate) enum Toolchain {
    /// rustup's nightly with `rust-src`: `core` is compiled on the spot.
    Nightly {
        /// The major version of its LLVM.
        llvm: u32,
    },
    /// Debian's compiler: `core` comes in a package.
    Debian,
}

impl Toolchain {
    /// The build script of `proxy-userspace` decides by the same rule.
    pub(crate) fn detect() -> Self {
        nightly_with_sources().map_or(Self::Debian, |llvm| Self::Nightly { llvm })
    }

    /// The LLVM to build the linker with: it can read what its own or an older one wrote.
    pub(crate) fn linker_llvm(&self) -> u32 {
        match self {
            Self::Nightly { llvm } => OLDEST_LLVM.max(*llvm),
            Self::Debian => OLDEST_LLVM,
        }
    }
}

/// The LLVM version of rustup's nightly, if that is there and has `rust-src`.
fn nightly_with_sources() -> Option<u32> {
    if !toolchain::nightly_has_source() {
        return None;
    }
    let mut rustc = Command::new("rustup");
    rustc.args(["run", "nightly", "rustc", "--version", "--verbose"]);
    let about = run::output(&mut rustc).ok()?;
    let version = about
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// Builds the linker from source with the LLVM that fits the compiler.
pub(crate) fn install_linker(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let llvm = toolchain.linker_llvm();
    LINKER
        .install(workspace, |command| {
            command.args([
                "--no-default-features",
                "--features",
                &format!("llvm-{llvm}"),
            ]);
            command.env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
        })
        .with_context(|| format!("bpf-linker cannot be built; it needs llvm-{llvm}-dev"))
}
