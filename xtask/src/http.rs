//! Measures requests through the proxy, beside other proxies.

use anyhow::Result;

use crate::run;
use crate::setup::envoy;
use crate::workspace::Workspace;

/// Runs the benchmark `http` of the proxy.
pub(crate) fn bench(workspace: &Workspace, rounds: &str, arguments: &[String]) -> Result<()> {
    envoy::ensure(workspace)?;
    let target = ["bench", "--package", "postern", "--bench", "http"];
    let mut build = workspace.cargo(target);
    run::step("build of the benchmark", build.arg("--no-run"))?;
    let mut command = workspace.cargo(target);
    command
        .args(["--quiet", "--", "--rounds", rounds])
        .args(arguments);
    command.env("PATH", workspace.path_with_tools()?);
    run::attached("bench", &mut command)
}
