//! kubectl, on the node.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use testkit::TempDir;
use testkit::command::{run_ok_with_input, stdout_of};

/// How to start kubectl, for a cluster and a user.
#[derive(Debug)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    files: TempDir,
}

impl Kubectl {
    pub(crate) fn new(kubeconfig: &str) -> Result<Self> {
        let files = TempDir::new("kubectl")?;
        let kubeconfig = files.write("kubeconfig", kubeconfig)?;
        Ok(Self { kubeconfig, files })
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// Turns the beginning of a command into kubectl.
    pub(crate) fn complete(&self, mut kubectl: Command, arguments: &[&str]) -> Command {
        kubectl
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(self.files.join("cache"))
            .args(arguments)
            .env_remove("KUBECONFIG");
        kubectl
    }
}

/// Runs a kubectl that has to succeed, and returns what it wrote.
pub fn output(command: Command) -> Result<String> {
    stdout_of(command)
}

/// The same with text on its standard input.
pub fn feed(command: Command, input: &str) -> Result<()> {
    run_ok_with_input(command, input.as_bytes()).map(drop)
}
