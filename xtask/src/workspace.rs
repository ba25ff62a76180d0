//! Where the sources, the build output and the tools are.

use std::env;
use std::ffi::{OsStr, OsString};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run;

/// The folders that the tasks work in.
pub(crate) struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder, wherever the environment or a configuration puts it.
    pub(crate) target: PathBuf,
    /// `PATH`, with the programs that the set-up brought in front.
    path: OsString,
}

impl Workspace {
    /// Asks cargo, which knows every way to move a target folder.
    pub(crate) fn locate() -> Result<Self> {
        let mut command = Command::new(cargo());
        command.args(["metadata", "--no-deps", "--format-version=1", "--offline"]);
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = run::output(&mut command)?;
        let metadata: Value = serde_json::from_str(&output).context("cargo metadata is no JSON")?;
        let folder = |key: &str| {
            let path = metadata[key].as_str();
            path.map(PathBuf::from)
                .with_context(|| format!("cargo metadata lacks {key}"))
        };
        let target = folder("target_directory")?;
        let path = env::var_os("PATH").unwrap_or_default();
        let path = iter::once(tools_of(&target).join("bin")).chain(env::split_paths(&path));
        Ok(Self {
            root: folder("workspace_root")?,
            path: env::join_paths(path).context("the target folder cannot be in PATH")?,
            target,
        })
    }

    /// Where the set-up puts the tools that it builds.
    pub(crate) fn tools(&self) -> PathBuf {
        tools_of(&self.target)
    }

    /// A tool that the set-up built.
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.tools().join("bin").join(name)
    }

    /// Cargo, to be run in the workspace.
    ///
    /// What it starts finds the set-up's tools first. All tasks give it the same `PATH`,
    /// because build scripts that look for tools run again when it changes.
    pub(crate) fn cargo<I, S>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(cargo());
        command.args(arguments).current_dir(&self.root);
        command.env("PATH", &self.path);
        forget_this_crate(&mut command);
        command
    }
}

fn tools_of(target: &Path) -> PathBuf {
    target.join("tools")
}

/// The cargo that runs this task, so that all of a task uses one toolchain.
fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// `cargo run` describes this crate in variables, which build scripts of a nested cargo
/// would watch and rebuild for.
fn forget_this_crate(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
}

/// Finds a program like a shell does; folders for system programs count as well, because
/// they are often not in an ordinary user's `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}
