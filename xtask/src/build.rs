//! Builds the binary that a user runs.

use std::path::PathBuf;

use anyhow::Result;

use crate::run;
use crate::workspace::Workspace;

/// Builds `postern`, optimised, and returns where it is.
pub(crate) fn release(workspace: &Workspace) -> Result<PathBuf> {
    let arguments = [
        "build",
        "--release",
        "--package",
        "postern",
        "--bin",
        "postern",
    ];
    run::step(
        "build of postern (release)",
        &mut workspace.cargo(arguments),
    )?;
    let binary = workspace.target.join("release").join("postern");
    println!("  {}", binary.display());
    Ok(binary)
}
