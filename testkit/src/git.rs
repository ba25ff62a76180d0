//! Git repositories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::TempDir;
use crate::command::stdout_of;
use crate::run_ok;

/// A git command that no configuration of the machine or its user changes.
pub fn command() -> Command {
    let mut command = Command::new("git");
    isolate(&mut command);
    command
}

/// Takes configuration, credential helpers and prompts away from a git command.
pub fn isolate(command: &mut Command) {
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "true");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Postern");
        command.env(format!("GIT_{role}_EMAIL"), "postern@example.test");
    }
}

/// Where git keeps its server for HTTP.
pub fn http_backend() -> Result<PathBuf> {
    let mut git = command();
    git.arg("--exec-path");
    Ok(Path::new(&stdout_of(git)?).join("git-http-backend"))
}

/// Makes a bare repository with one commit (a file `README`) on the branch `main`.
pub fn bare_repository(path: &Path) -> Result<()> {
    let work = TempDir::new("git")?;
    work.write("README", "A repository for tests.\n")?;
    for arguments in [
        &["init", "--quiet", "--initial-branch=main"][..],
        &["add", "README"],
        &["commit", "--quiet", "--message=First"],
    ] {
        let mut git = command();
        git.current_dir(work.path()).args(arguments);
        run_ok(git)?;
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    let mut git = command();
    git.args(["clone", "--quiet", "--bare"])
        .arg(work.path())
        .arg(path);
    run_ok(git).map(drop)
}
