//! An emulated machine from its start to its end.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Files;
use super::emulator::Emulator;

/// Longest time that all tests may take.
const LIMIT: Duration = Duration::from_mins(30);
const POLL: Duration = Duration::from_millis(200);
/// The file system is in memory as well.
const MEMORY: &str = "3G";
/// The kernel's console is the first serial port. One that cannot go on restarts, which ends
/// the machine. Timers may be late when the host is busy, which is no fault of the machine's;
/// what protects real processors from each other's programs costs time.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 no_timer_check mitigations=off";

pub(super) struct Machine<'a> {
    pub(super) emulator: &'a Emulator,
    pub(super) kernel: &'a Path,
    pub(super) files: &'a Files,
}

/// What is left of a machine.
pub(super) struct Ended {
    pub(super) console: String,
    pub(super) results: String,
    pub(super) seconds: u64,
    /// Whether it ended by itself.
    pub(super) in_time: bool,
}

impl Machine<'_> {
    /// Runs it until it ends, or for as long as it may.
    pub(super) fn run(&self) -> Result<Ended> {
        let started = Instant::now();
        let files = self.files;
        let mut command = self.emulator.command();
        // Hardware virtualisation would need rights that a virtual machine seldom has.
        command.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", MEMORY]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.arg("-kernel").arg(self.kernel);
        command.arg("-initrd").arg(&files.image);
        command.args(["-append", COMMAND_LINE]);
        for output in [&files.console, &files.results] {
            fs::write(output, "").with_context(|| format!("cannot write {}", output.display()))?;
            command
                .arg("-serial")
                .arg(format!("file:{}", output.display()));
        }
        let mut child = testkit::spawn(&command, |command| {
            command.stdin(Stdio::null());
        })?;
        let mut in_time = true;
        while child
            .try_wait()
            .context("cannot wait for a machine")?
            .is_none()
        {
            if started.elapsed() > LIMIT {
                in_time = false;
                child.kill().context("cannot end a machine")?;
                child.wait().context("cannot wait for a machine")?;
                break;
            }
            thread::sleep(POLL);
        }
        Ok(Ended {
            console: text(&files.console)?,
            results: text(&files.results)?,
            seconds: started.elapsed().as_secs(),
            in_time,
        })
    }
}

/// What came over a serial port.
fn text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
}
