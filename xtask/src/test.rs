//! Runs every test of the workspace.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::run;
use crate::workspace::Workspace;

/// Builds and runs the tests; the arguments go to `cargo test`.
pub(crate) fn perform(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let started = Instant::now();
    let mut command = workspace.cargo(["test"]);
    if !arguments
        .iter()
        .any(|argument| argument.starts_with("-p") || argument == "--package")
    {
        command.args(["--workspace", "--exclude", "proxy-ebpf"]);
    }
    command.args(arguments);
    run::attached("test", &mut command)?;
    println!("test: ok ({} s)", started.elapsed().as_secs());
    Ok(())
}

/// A test that skips what it cannot do proves nothing, so all of them want root.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "{what} needs root: it loads eBPF programs and makes cgroups and namespaces; \
             run it as root, for example with `sudo -E env \"PATH=$PATH\" cargo xtask {what}`"
        );
    }
    Ok(())
}
