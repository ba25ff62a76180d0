//! Builds the binaries that users run.

use std::path::PathBuf;

use anyhow::Result;

use crate::run;
use crate::workspace::Workspace;

/// Builds `postern`, optimised, and returns where it is.
pub(crate) fn postern(workspace: &Workspace) -> Result<PathBuf> {
    release(workspace, &["postern"])?;
    let binary = workspace.target.join("release").join("postern");
    println!("  {}", binary.display());
    Ok(binary)
}

/// Builds `postern` and `postern-controller`, optimised, and returns the folder that they are
/// in.
pub(crate) fn all(workspace: &Workspace) -> Result<PathBuf> {
    release(workspace, &["postern", "postern-controller"])?;
    let folder = workspace.target.join("release");
    println!("  {}", folder.display());
    Ok(folder)
}

fn release(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let mut command = workspace.cargo(["build", "--release"]);
    for package in packages {
        command.args(["--package", package, "--bin", package]);
    }
    let label = format!("build of {} (release)", packages.join(" and "));
    run::step(&label, &mut command)
}
