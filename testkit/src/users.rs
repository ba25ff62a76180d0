//! Password files.

use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run_ok_with_input;

/// One line of a password file that Docker's registry and nginx understand.
pub fn htpasswd(user: &str, password: &str) -> Result<String> {
    let mut command = Command::new("htpasswd");
    // From standard input, so that the password is on no command line.
    command.args(["-B", "-n", "-i", user]);
    let output = run_ok_with_input(command, password.as_bytes())?;
    let line = String::from_utf8(output.stdout).context("htpasswd wrote no text")?;
    Ok(format!("{}\n", line.trim()))
}
