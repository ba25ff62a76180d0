//! Format, style, generated files and dependencies. Every warning is an error.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::manifests;
use crate::run;
use crate::setup::tools::Tool;
use crate::toolchain;
use crate::workspace::Workspace;

/// Checks `deny.toml`.
const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
};

/// Runs all checks; the first that fails ends it.
pub(crate) fn perform(workspace: &Workspace) -> Result<()> {
    run::attached("lint", &mut workspace.cargo(["fmt", "--all", "--check"]))?;
    clippy_host(workspace)?;
    clippy_ebpf(workspace)?;
    manifests::perform(workspace, true)?;
    dependencies(workspace)?;
    println!("lint: ok");
    Ok(())
}

fn clippy_host(workspace: &Workspace) -> Result<()> {
    let mut clippy = workspace.cargo(["clippy", "--workspace", "--exclude", "proxy-ebpf"]);
    clippy.args(["--all-targets", "--locked", "--", "-D", "warnings"]);
    run::attached("lint", &mut clippy)
}

/// Debian's compiler has a clippy of its own, without the cargo command that would start
/// it; cargo can be told to run it in place of the compiler.
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";
/// How `cargo clippy -- -D warnings` passes its arguments on.
const CLIPPY_ARGS: &str = "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__";

fn clippy_ebpf(workspace: &Workspace) -> Result<()> {
    let toolchain = toolchain::find(&workspace.target)?;
    let mut clippy = if toolchain::nightly_has_source() {
        let mut clippy = toolchain.cargo("clippy", &workspace.root, &workspace.target);
        clippy.args(["--", "-D", "warnings"]);
        clippy
    } else {
        let mut check = toolchain.cargo("check", &workspace.root, &workspace.target);
        check
            .env("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY)
            .env("CLIPPY_ARGS", CLIPPY_ARGS);
        check
    };
    run::attached("lint (kernel programs)", &mut clippy)
}

/// Licences, bans and sources; advisories where their database is.
fn dependencies(workspace: &Workspace) -> Result<()> {
    if DENY.is_missing(workspace) {
        DENY.install(workspace, |command| {
            // It runs for two seconds, so optimising it would not pay.
            command
                .args(["--no-default-features", "--debug"])
                .env("CARGO_PROFILE_DEV_DEBUG", "0");
        })?;
    }
    // The check is about all platforms, the builds so far were about this one.
    run::step(
        "sources of all dependencies",
        &mut workspace.cargo(["fetch", "--locked"]),
    )?;

    let advisories = if has_advisories() {
        &["advisories"][..]
    } else {
        &[]
    };
    let mut deny = Command::new(workspace.tool(DENY.name));
    deny.current_dir(&workspace.root)
        .args(["--offline", "check", "--hide-inclusion-graph"]);
    deny.args(["licenses", "bans", "sources"]).args(advisories);
    run::attached("lint", &mut deny)?;
    if advisories.is_empty() {
        println!("  advisories: not checked, `cargo deny fetch` has not been run on this machine");
    }
    Ok(())
}

/// Whether somebody fetched the advisory database, which is no package.
fn has_advisories() -> bool {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let databases = home.and_then(|home| fs::read_dir(home.join("advisory-dbs")).ok());
    databases.is_some_and(|databases| {
        databases
            .flatten()
            .any(|database| database.path().join(".git/FETCH_HEAD").exists())
    })
}
