//! Brings a machine to where everything else works: packages, kernel file systems, and the
//! linker for eBPF. What is there is left alone; a second run does nothing.

use anyhow::{Result, bail};

use crate::run;
use crate::workspace::Workspace;

pub(crate) mod ebpf;
pub(crate) mod envoy;
mod kubectl;
pub(crate) mod mounts;
mod packages;
pub(crate) mod tools;

/// Installs and mounts what is missing, or tells which commands would.
pub(crate) fn perform(workspace: &Workspace) -> Result<()> {
    let toolchain = ebpf::Toolchain::detect();
    let packages = packages::missing(&toolchain);
    let mounts = mounts::missing()?;
    let linker = ebpf::LINKER.is_missing(workspace);
    let kubectl = kubectl::is_missing(workspace);
    let nothing_to_do = packages.is_empty() && mounts.is_empty() && !linker && !kubectl;

    if !packages.is_empty() || !mounts.is_empty() {
        require_means(&packages, &mounts)?;
    }
    if !packages.is_empty() {
        packages::install(&packages)?;
    }
    for mount in &mounts {
        mount.perform()?;
    }
    if linker {
        ebpf::install_linker(workspace, &toolchain)?;
    }
    if kubectl {
        kubectl::install(workspace)?;
    }
    require_rust_components(workspace)?;

    if nothing_to_do {
        println!("set-up: nothing to do");
    } else {
        println!("set-up: done");
    }
    Ok(())
}

/// Only root may install packages and mount; anybody else is told what to run.
fn require_means(packages: &[&packages::Need], mounts: &[mounts::Mount]) -> Result<()> {
    let root = nix::unistd::geteuid().is_root();
    let apt = packages::apt_is_there();
    if root && (apt || packages.is_empty()) {
        return Ok(());
    }

    if !apt && !packages.is_empty() {
        println!("set-up: this machine lacks programs, and there is no apt-get to install them.");
        println!("The packages of Debian 12, and what they are wanted for:\n");
        for need in packages {
            println!("    {:<26} {}", need.package, need.witness());
        }
        println!();
    }
    println!("set-up: to be run as root:\n");
    if apt && !packages.is_empty() {
        for command in packages::commands(packages) {
            println!("    {command}");
        }
    }
    for mount in mounts {
        println!("    {}", mount.command());
    }
    println!("    cargo xtask setup\n");
    bail!(
        "set-up is incomplete: {}",
        if root { "no apt-get" } else { "not root" }
    )
}

/// rustup's components cannot be had from a package registry, so they can only be named.
fn require_rust_components(workspace: &Workspace) -> Result<()> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !run::succeeds(&mut workspace.cargo([tool, "--version"])) {
            bail!("`cargo {tool}` does not work; run: rustup component add {component}");
        }
    }
    Ok(())
}
