//! Measures the kernel programs, with a program that uses the proxy's own half of them.

use anyhow::Result;

use crate::run;
use crate::workspace::Workspace;

/// Runs the benchmark `kernel` of the proxy.
pub(crate) fn bench(workspace: &Workspace, rounds: &str) -> Result<()> {
    let target = ["bench", "--package", "postern", "--bench", "kernel"];
    let mut build = workspace.cargo(target);
    run::step("build of the benchmark", build.arg("--no-run"))?;
    let mut command = workspace.cargo(target);
    command.args(["--quiet", "--", "--rounds", rounds]);
    command.env("PATH", workspace.path_with_tools()?);
    run::attached("bench", &mut command)
}
