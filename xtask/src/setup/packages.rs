//! Debian packages: which are missing, and how they get here.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::ebpf::Toolchain;
use crate::run;
use crate::workspace::find_program;

/// A package, and what shows that it (or a replacement) is there.
pub(crate) struct Need {
    /// The name in Debian.
    pub(crate) package: &'static str,
    proof: Proof,
}

/// Packages are looked for by what they bring, so that a machine that has it from
/// elsewhere needs no package.
enum Proof {
    Program(&'static str),
    File(&'static str),
}

use Proof::{File, Program};

const fn need(package: &'static str, proof: Proof) -> Need {
    Need { package, proof }
}

/// For the demo, the tests and every build.
const ALWAYS: &[Need] = &[
    // The linker for eBPF links LLVM, which is C++.
    need("g++", Program("c++")),
    need("bpftool", Program("bpftool")),
    need("docker-registry", Program("docker-registry")),
    need("apache2-utils", Program("htpasswd")),
    need("skopeo", Program("skopeo")),
    need("nginx-light", Program("nginx")),
    need("fcgiwrap", Program("fcgiwrap")),
    need("haproxy", Program("haproxy")),
    need("nghttp2-client", Program("h2load")),
    need("git", Program("git")),
    need("curl", Program("curl")),
    need("openssl", Program("openssl")),
    need("iproute2", Program("ip")),
    need("util-linux", Program("setpriv")),
    need(
        "ca-certificates",
        File("/etc/ssl/certs/ca-certificates.crt"),
    ),
    need("procps", Program("ps")),
    // What Postern is compared with.
    need("haproxy", Program("haproxy")),
    // Clients with TLS of their own making.
    need(
        "python3-requests",
        File("/usr/lib/python3/dist-packages/requests/__init__.py"),
    ),
    need("nodejs", Program("node")),
    need("openjdk-17-jdk-headless", Program("javac")),
    // Real pods.
    need("containerd", Program("containerd")),
    need("runc", Program("runc")),
    need("containernetworking-plugins", File("/usr/lib/cni/bridge")),
    need("busybox-static", Program("busybox")),
    need("jq", Program("jq")),
    // Measurements, and peers to compare with.
    need("haproxy", Program("haproxy")),
    need("wrk", Program("wrk")),
    need("python3-pip", Program("pip3")),
];

/// Debian's compiler with a prebuilt `core` for BPF, and its linter.
const DEBIAN_COMPILER: &[Need] = &[
    need("rustc-web", File("/usr/bin/rustc")),
    need(
        "libstd-rust-web-dev-bpf",
        File("/usr/lib/rustlib/bpfel-unknown-none/lib"),
    ),
    need("rust-web-clippy", File("/usr/bin/clippy-driver")),
];

/// What the linker for eBPF is made of.
const LLVM_22: &[Need] = &[need(
    "llvm-22-dev",
    File("/usr/lib/llvm-22/include/llvm-c/Core.h"),
)];

impl Need {
    fn is_met(&self) -> bool {
        match self.proof {
            Program(name) => find_program(name).is_some(),
            File(path) => Path::new(path).exists(),
        }
    }

    /// What the package is wanted for.
    pub(crate) fn witness(&self) -> &'static str {
        match self.proof {
            Program(name) => name,
            File(path) => path,
        }
    }
}

/// The packages that this machine lacks.
pub(crate) fn missing(toolchain: &Toolchain) -> Vec<&'static Need> {
    let compiler = match toolchain {
        Toolchain::Nightly { .. } => &[],
        Toolchain::Debian => DEBIAN_COMPILER,
    };
    // Newer ones do not exist in Debian 12; the build of the linker then says what it lacks.
    let llvm = if toolchain.linker_llvm() == 22 {
        LLVM_22
    } else {
        &[]
    };
    compiler
        .iter()
        .chain(llvm)
        .chain(ALWAYS)
        .filter(|need| !need.is_met())
        .collect()
}

/// Whether packages can be installed at all.
pub(crate) fn apt_is_there() -> bool {
    find_program("apt-get").is_some()
}

/// What a user without root is told to run.
pub(crate) fn commands(missing: &[&Need]) -> [String; 2] {
    let update = format!("apt-get {}", UPDATE.join(" "));
    let names: Vec<_> = missing.iter().map(|need| need.package).collect();
    [
        update,
        format!("apt-get {} {}", INSTALL.join(" "), names.join(" ")),
    ]
}

const UPDATE: &[&str] = &["update"];
/// Nothing that is installed may go: a conflict is the user's to decide.
const INSTALL: &[&str] = &["install", "-y", "--no-install-recommends", "--no-remove"];

/// Installs packages without starting the services that some of them bring.
pub(crate) fn install(missing: &[&Need]) -> Result<()> {
    let names: Vec<_> = missing.iter().map(|need| need.package).collect();
    println!("set-up: packages to install: {}", names.join(" "));

    run::step("apt-get update", &mut apt(UPDATE))
        .context("the package lists cannot be fetched; is the package archive reachable?")?;
    let quiet = NoServices::establish()?;
    run::step("apt-get install", apt(INSTALL).args(&names)).context(
        "packages cannot be installed; Debian 12 with its security archive has all of them",
    )?;
    drop(quiet);
    disable_services(&names);
    Ok(())
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    // Another apt may be at work, as it often is on a machine that was just started.
    command
        .args(["-o", "DPkg::Lock::Timeout=120"])
        .args(arguments);
    command
}

/// Debian asks this script before it starts a service; 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Keeps services from starting while it lives.
struct NoServices {
    ours: Option<PathBuf>,
}

impl NoServices {
    fn establish() -> Result<Self> {
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY);
        match created {
            Ok(mut file) => {
                let script =
                    "#!/bin/sh\n# Temporary: cargo xtask setup installs packages.\nexit 101\n";
                file.write_all(script.as_bytes())
                    .with_context(|| format!("cannot write {POLICY}"))?;
                Ok(Self {
                    ours: Some(PathBuf::from(POLICY)),
                })
            }
            // The machine has a policy of its own, which is not ours to change.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(Self { ours: None })
            }
            Err(error) => Err(error).with_context(|| format!("cannot create {POLICY}")),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.ours
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("set-up: remove {} yourself: {error}", path.display());
        }
    }
}

/// What a package enables would start with the next boot; the tests start what they need
/// themselves. Only services of packages that were installed just now are touched.
fn disable_services(installed: &[&str]) {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    for (package, unit) in [
        ("docker-registry", "docker-registry.service"),
        ("nginx-light", "nginx.service"),
        ("fcgiwrap", "fcgiwrap.socket"),
        ("fcgiwrap", "fcgiwrap.service"),
        ("haproxy", "haproxy.service"),
        ("containerd", "containerd.service"),
        ("haproxy", "haproxy.service"),
    ] {
        if installed.contains(&package)
            && run::succeeds(Command::new("systemctl").args(["disable", "--quiet", unit]))
        {
            println!("  {unit}: not enabled");
        }
    }
}
