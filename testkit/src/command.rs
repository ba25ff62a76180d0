//! Runs commands and explains their failures.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::TempDir;

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

/// Runs a command that may fail but must end: after `limit` it is asked to stop (SIGTERM),
/// then killed, and the error shows what it wrote until then.
pub fn run_within(mut command: Command, limit: Duration) -> Result<Output> {
    let files = TempDir::new("output")?;
    let (stdout, stderr) = (files.join("stdout"), files.join("stderr"));
    // Files, because somebody would have to read from pipes meanwhile.
    let create = |path| File::create(path).context("cannot write a file");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(create(&stdout)?)
        .stderr(create(&stderr)?)
        .spawn()
        .with_context(|| format!("cannot start {}", describe(&command)))?;
    let status = wait_within(&mut child, limit)?;
    let read = |path| fs::read(path).context("cannot read a file");
    let (stdout, stderr) = (read(stdout)?, read(stderr)?);
    let Some(status) = status else {
        stop(&mut child)?;
        bail!(
            "{} does not end within {} s\n{}{}",
            describe(&command),
            limit.as_secs(),
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr),
        );
    };
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

/// Asks a process to stop and kills it when it does not within ten seconds. Returns how it
/// ended.
pub fn stop(child: &mut Child) -> Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    // It may have ended by itself meanwhile; its number stays taken until we wait for it.
    kill(pid, Signal::SIGTERM).ok();
    if let Some(status) = wait_within(child, Duration::from_secs(10))? {
        return Ok(status);
    }
    child.kill().context("cannot kill a process")?;
    child.wait().context("cannot wait for a process")
}

fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        let status = child.try_wait().context("cannot wait for a process")?;
        if status.is_some() || Instant::now() > deadline {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The standard output of a command that has to succeed, without the last line break.
pub fn stdout_of(command: Command) -> Result<String> {
    let output = run_ok(command)?;
    let text = String::from_utf8(output.stdout).context("a command wrote no text")?;
    Ok(text.trim_end().to_owned())
}

/// The command as a user would type it.
pub fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(program).chain(command.get_args());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn an_error_shows_the_command_and_what_it_wrote() {
        let error = run_ok(sh("echo out; echo err >&2; exit 3"))
            .unwrap_err()
            .to_string();
        for part in ["sh -c", "exit status: 3", "out\n", "err\n"] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(stdout_of(sh("echo out")).unwrap(), "out");
        assert_eq!(run_ok_with_input(sh("cat"), b"in").unwrap().stdout, b"in");
    }

    #[test]
    fn a_command_that_does_not_end_is_stopped() {
        let output = run_within(sh("echo out; exit 3"), Duration::from_mins(1)).unwrap();
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(3), &b"out\n"[..])
        );
        let error = run_within(sh("echo out; exec sleep 1000"), Duration::from_millis(200));
        assert!(error.unwrap_err().to_string().contains("out\n"));
    }
}
