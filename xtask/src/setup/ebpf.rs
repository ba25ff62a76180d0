//! The compiler and the linker of the kernel programs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::tools::Tool;
use crate::run;
use crate::workspace::{Workspace, find_program};

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
    find_program("rustup")?;
    let sysroot = run::output(&mut nightly(&["--print", "sysroot"])).ok()?;
    if !Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library")
        .exists()
    {
        return None;
    }
    let about = run::output(&mut nightly(&["--version", "--verbose"])).ok()?;
    let version = about
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

fn nightly(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustc");
    // A question must not install a toolchain.
    command
        .arg("+nightly")
        .args(arguments)
        .env("RUSTUP_AUTO_INSTALL", "0");
    command
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
