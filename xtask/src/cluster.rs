//! Runs what needs a whole cluster. It is a program of its own, because it is built from much
//! that the set-up and the other tasks do without.

use std::path::Path;

use anyhow::Result;

use crate::run;
use crate::workspace::Workspace;

/// Runs `minicluster` with the programs in a folder.
pub(crate) fn perform(workspace: &Workspace, programs: &Path, task: &[&str]) -> Result<()> {
    let build = ["build", "--package", "minicluster", "--bin", "minicluster"];
    run::step("build of minicluster", &mut workspace.cargo(build))?;
    let mut command = workspace.cargo([
        "run",
        "--quiet",
        "--package",
        "minicluster",
        "--bin",
        "minicluster",
    ]);
    command.arg("--").arg("--programs").arg(programs).args(task);
    run::attached("cluster", &mut command)
}
