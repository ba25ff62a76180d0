//! The command: its start, the signals that are passed on to it, its end.

use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitCode, ExitStatus},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Command;

use super::{Bind, signals::Signals};

/// The running command.
pub(super) struct Child {
    process: tokio::process::Child,
    pid: Pid,
}

impl Child {
    /// Starts `command` in a cgroup, with files covered and variables set, and with the
    /// limit of open files that Postern was started with.
    pub(super) fn spawn(
        command: &[OsString],
        cgroup: Option<&Path>,
        binds: &[Bind],
        variables: &[(OsString, OsString)],
        open_files: u64,
    ) -> Result<Self> {
        let mut enter = Command::new("/proc/self/exe");
        enter
            .arg("enter")
            .args(["--parent", &std::process::id().to_string()])
            .args(["--open-files", &open_files.to_string()]);
        if let Some(cgroup) = cgroup {
            enter.arg("--cgroup").arg(cgroup);
        }
        for bind in binds {
            enter.arg("--bind").arg(&bind.source).arg(&bind.target);
        }
        enter
            .arg("--")
            .args(command)
            .envs(variables.iter().map(|(name, value)| (name, value)));
        let process = enter.spawn().context("cannot start the command")?;
        let pid = process
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .context("the command has no process id")?;
        Ok(Self {
            process,
            pid: Pid::from_raw(pid),
        })
    }

    /// Waits for the end of the command and passes signals on meanwhile.
    pub(super) async fn wait(&mut self, signals: &mut Signals) -> Result<ExitCode> {
        loop {
            tokio::select! {
                status = self.process.wait() => {
                    return Ok(exit_code(status.context("cannot wait for the command")?));
                }
                signal = signals.next() => {
                    // It may be gone already.
                    let _ = kill(self.pid, signal?);
                }
            }
        }
    }
}

/// The exit code of something that a signal ended: the shell's convention.
pub(super) fn signalled(signal: Signal) -> ExitCode {
    u8::try_from(128 + signal as i32).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let signalled = status.signal().and_then(|it| Signal::try_from(it).ok());
    match (status.code(), signalled) {
        (Some(code), _) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        (None, Some(signal)) => self::signalled(signal),
        (None, None) => ExitCode::FAILURE,
    }
}
