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
    let rounds = ["--rounds".to_owned(), rounds.to_owned()];
    execute("bench", workspace, name, &[&rounds, arguments].concat())
}

/// Runs the soak test.
pub(crate) fn soak(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    execute("soak", workspace, "soak", arguments)
}

fn execute(label: &str, workspace: &Workspace, name: &str, arguments: &[String]) -> Result<()> {
    let target = ["bench", "--package", "postern", "--bench", name];
    let mut build = workspace.cargo(target);
    run::step("build of the program", build.arg("--no-run"))?;
    let mut command = workspace.cargo(target);
    command.args(["--quiet", "--"]).args(arguments);
    run::attached(label, &mut command)
}
