//! Measures with programs that use parts of the proxy, or start it.

use anyhow::Result;

use crate::run;
use crate::workspace::Workspace;

/// Runs a benchmark of the proxy.
pub(crate) fn perform(
    workspace: &Workspace,
    name: &str,
    rounds: &str,
    arguments: &[String],
) -> Result<()> {
    let target = ["bench", "--package", "postern", "--bench", name];
    let mut build = workspace.cargo(target);
    run::step("build of the benchmark", build.arg("--no-run"))?;
    let mut command = workspace.cargo(target);
    command
        .args(["--quiet", "--", "--rounds", rounds])
        .args(arguments);
    command.env("PATH", workspace.path_with_tools()?);
    run::attached("bench", &mut command)
}
