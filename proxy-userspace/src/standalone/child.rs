//! The command: its start, the signals that are passed on to it, its end.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitCode, ExitStatus},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpgrp, tcgetpgrp},
};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::Bind;

/// Signals that are meant for the command when Postern gets them.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Signals that may wait; the kernel merges those that wait longer.
const SIGNALS: usize = 16;

/// The running command.
pub(super) struct Child {
    process: tokio::process::Child,
    pid: Pid,
    signals: mpsc::Receiver<Signal>,
}

impl Child {
    /// Starts `command` in a cgroup, with files covered and variables set.
    pub(super) fn spawn(
        command: &[OsString],
        cgroup: Option<&Path>,
        binds: &[Bind],
        variables: &[(OsString, OsString)],
    ) -> Result<Self> {
        // Before the command exists: a signal in between would end Postern and leave it.
        let signals = signals()?;
        let mut enter = Command::new("/proc/self/exe");
        enter.arg("enter");
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
            signals,
        })
    }

    /// Waits for the end of the command and passes signals on meanwhile.
    pub(super) async fn wait(&mut self) -> Result<ExitCode> {
        loop {
            tokio::select! {
                status = self.process.wait() => {
                    return Ok(exit_code(status.context("cannot wait for the command")?));
                }
                Some(signal) = self.signals.recv() => {
                    if !reached_it_already(signal) {
                        // It may be gone already.
                        let _ = kill(self.pid, signal);
                    }
                }
            }
        }
    }
}

/// The shell's convention: 128 and the number of the signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A terminal sends these to its whole foreground group; twice would mean something else to
/// many programs.
fn reached_it_already(signal: Signal) -> bool {
    let from_terminal = matches!(signal, Signal::SIGINT | Signal::SIGQUIT | Signal::SIGWINCH);
    // The controlling terminal, wherever the standard streams lead.
    from_terminal
        && File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(&terminal) == Ok(getpgrp()))
}

/// The signals that this process ignores, one bit each (proc(5), `SigIgn`).
fn ignored_signals() -> u64 {
    fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

fn signals() -> Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(SIGNALS);
    let ignored = ignored_signals();
    for passed in PASSED_ON {
        // What nohup(1) or a shell in the background had ignored stays ignored, by the command
        // as well: a handler of ours would be reset to the default on its exec.
        if ignored & (1 << (passed as i32 - 1)) != 0 {
            continue;
        }
        let mut stream = signal(SignalKind::from_raw(passed as i32))
            .with_context(|| format!("cannot handle {passed}"))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && sender.send(passed).await.is_ok() {}
        });
    }
    Ok(receiver)
}
