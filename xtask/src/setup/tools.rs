//! Tools that are built from source, in fixed versions, below the target folder.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::run;
use crate::workspace::Workspace;

/// A program that cargo can install.
pub(crate) struct Tool {
    /// The crate, and the program in it.
    pub(crate) name: &'static str,
    /// The version that the project was tested with.
    pub(crate) version: &'static str,
}

impl Tool {
    /// Whether it has yet to be built, or is of another version.
    pub(crate) fn is_missing(&self, workspace: &Workspace) -> bool {
        let mut command = Command::new(workspace.tool(self.name));
        let text = run::output(command.arg("--version"));
        !text.is_ok_and(|text| text.split_whitespace().any(|word| word == self.version))
    }

    /// Builds it; `adjust` adds what is special about it.
    pub(crate) fn install(
        &self,
        workspace: &Workspace,
        adjust: impl FnOnce(&mut Command),
    ) -> Result<()> {
        // Not in the workspace's own target folder, whose contents follow its profiles.
        let build = workspace.tools().join("build");
        let mut command = workspace.cargo(["install", self.name, "--version", self.version]);
        command
            .args(["--locked", "--force", "--root"])
            .arg(workspace.tools())
            .env("CARGO_TARGET_DIR", &build);
        adjust(&mut command);
        run::step(
            &format!("{} {} into target/tools", self.name, self.version),
            &mut command,
        )?;
        // Only needed once, and large. What remains after a failure speeds up the next try.
        fs::remove_dir_all(&build).ok();
        Ok(())
    }
}
