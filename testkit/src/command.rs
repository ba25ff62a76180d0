//! Runs commands and explains their failures.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command that has to succeed; the error shows what it wrote.
pub fn run_ok(mut command: Command) -> Result<Output> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", describe(&command)))?;
    check(&command, output)
}

/// Like [`run_ok`] for a command that reads `input`.
pub fn run_ok_with_input(mut command: Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", describe(&command)))?;
    // The inputs are small enough for a pipe, so this cannot wait for the output to be read.
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input)
            .with_context(|| format!("cannot write to {}", describe(&command)))?;
    }
    let output = child
        .wait_with_output()
        .context("cannot wait for a command")?;
    check(&command, output)
}

/// The standard output of a command that has to succeed, without the last line break.
pub fn stdout_of(command: Command) -> Result<String> {
    let output = run_ok(command)?;
    let text = String::from_utf8(output.stdout).context("a command wrote no text")?;
    Ok(text.trim_end().to_owned())
}

/// The command as a user would type it.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn check(command: &Command, output: Output) -> Result<Output> {
    if !output.status.success() {
        bail!(
            "{} ended with {}\n{}{}",
            describe(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }
    Ok(output)
}
