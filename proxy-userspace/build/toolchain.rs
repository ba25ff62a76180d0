//! Finds a compiler for the BPF target. Used by this crate's build script and by xtask.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

/// Where `cargo xtask setup` puts the linker, below the target folder.
pub(crate) const LINKER: &str = "tools/bin/bpf-linker";
/// Debian's compiler, whose package brings a compiled `core` for BPF.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The target: little endian, like every machine that the project supports.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// A compiler and a linker that can make the BPF object.
pub(crate) struct Toolchain {
    /// How messages call it.
    pub(crate) name: &'static str,
    /// Path of bpf-linker.
    pub(crate) linker: PathBuf,
    nightly: bool,
}

/// Looks for rustup's nightly with `rust-src` first, then for Debian's compiler.
pub(crate) fn find(target_dir: &Path) -> Result<Toolchain> {
    let Some(linker) = find_linker(target_dir) else {
        bail!(
            "bpf-linker is missing: run `cargo xtask setup`, which builds it into {}",
            target_dir.join(LINKER).display()
        );
    };
    if nightly_has_source() {
        return Ok(Toolchain {
            name: "rustup's nightly",
            linker,
            nightly: true,
        });
    }
    if debian_has_core() {
        return Ok(Toolchain {
            name: "Debian's rustc",
            linker,
            nightly: false,
        });
    }
    bail!(
        "no compiler for the BPF target: run `cargo xtask setup`, or install one of\n  \
         rustup toolchain install nightly --component rust-src\n  \
         apt-get install rustc-web libstd-rust-web-dev-bpf"
    );
}

impl Toolchain {
    /// `cargo <verb>` of the kernel programs.
    pub(crate) fn cargo(&self, verb: &str, root: &Path, target_dir: &Path) -> Command {
        let mut command = if self.nightly {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo"]);
            command
        } else {
            Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        };
        command
            .current_dir(root)
            .arg(verb)
            .args(["--package", "proxy-ebpf", "--release", "--target", TARGET])
            .arg("--target-dir")
            .arg(target_dir.join("ebpf"));
        // What the outer build set for its own compiler does not fit this one.
        for name in [
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTDOC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CLIPPY_ARGS",
        ] {
            command.env_remove(name);
        }
        // It changes what is inlined where, and with it how much of the stack the programs use:
        // everybody gets the object that was tested.
        command.env("CARGO_INCREMENTAL", "0");
        if self.nightly {
            command.args(["-Z", "build-std=core"]);
        } else {
            // aya-ebpf uses an unstable assembler feature of the target.
            command
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1");
        }
        let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.into());
        let flags = [
            format!("-Clinker={}", self.linker.display()),
            "-Clink-arg=--btf".into(),
            "-Cdebuginfo=2".into(),
            format!("--cfg=bpf_target_arch=\"{arch}\""),
        ];
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        command
    }
}

/// Where `cargo("build", …)` leaves the object.
pub(crate) fn object(target_dir: &Path) -> PathBuf {
    target_dir.join("ebpf").join(TARGET).join("release/postern")
}

fn find_linker(target_dir: &Path) -> Option<PathBuf> {
    let installed = target_dir.join(LINKER);
    if installed.exists() {
        return Some(installed);
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join("bpf-linker"))
        .find(|candidate| candidate.exists())
}

/// Whether rustup has a nightly toolchain that can build `core`.
pub(crate) fn nightly_has_source() -> bool {
    sysroot(Command::new("rustup").args(["run", "nightly", "rustc"]))
        .is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").exists())
}

/// Whether Debian's compiler is there, with its `core` for BPF.
pub(crate) fn debian_has_core() -> bool {
    sysroot(&mut Command::new(DEBIAN_RUSTC))
        .is_some_and(|root| root.join("lib/rustlib").join(TARGET).exists())
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let output = rustc
        .args(["--print", "sysroot"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}
