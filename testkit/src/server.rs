//! A server process with a log file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::describe;
use crate::{net, spawner};

/// How long a server may take to serve. Generous, because the machine may be busy.
const START_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
/// How many of the log's last lines an error shows.
const SHOWN_LINES: usize = 30;

/// A running server; it is killed and waited for when the value is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a command and waits until `ready`, which gets the server's process id. What
    /// the command writes goes to the file `log`.
    pub fn start(command: &Command, log: &Path, ready: impl Fn(u32) -> bool) -> Result<Self> {
        let output =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().context("cannot share a log file")?;
        let child = spawner::spawn(command, |command| {
            command.stdin(Stdio::null()).stdout(output).stderr(errors);
        })?;
        let mut server = Self {
            child,
            log: log.to_owned(),
        };
        server.wait_until(ready).with_context(|| {
            format!(
                "{} does not serve; the end of its log:\n{}",
                describe(command),
                server.tail()
            )
        })?;
        Ok(server)
    }

    /// Like [`start`](Self::start) for a server that listens on a TCP port.
    pub fn listening(command: &Command, log: &Path, port: u16) -> Result<Self> {
        Self::start(command, log, |pid| net::listens(pid, port))
            .with_context(|| format!("nothing listens on port {port}"))
    }

    fn wait_until(&mut self, ready: impl Fn(u32) -> bool) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("cannot wait for a server")? {
                bail!("it ended with {status}");
            }
            if ready(self.pid()) {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        bail!("it is not ready after {} s", START_LIMIT.as_secs())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file with everything that it wrote.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
