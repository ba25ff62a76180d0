//! Runs commands: quietly with progress, attached to the terminal, or for their output.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::iter;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How many of the last lines a failure shows.
const KEPT_LINES: usize = 40;
/// How often the line on a terminal is drawn again.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a log file gets a line.
const REPORT: Duration = Duration::from_secs(10);

/// Runs a command that takes a while; shows how long it runs and the last line it wrote.
/// Its output is shown only when it fails.
pub(crate) fn step(label: &str, command: &mut Command) -> Result<()> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(command))?;

    // Bounded, so that a talkative command waits for us instead of filling the memory.
    let (sender, lines) = mpsc::sync_channel(256);
    for pipe in [
        child.stdout.take().map(boxed),
        child.stderr.take().map(boxed),
    ] {
        let sender = sender.clone();
        thread::spawn(move || pipe.map(|pipe| forward_lines(pipe, &sender)));
    }
    drop(sender);

    let mut progress = Progress::new(label, started);
    let mut kept = VecDeque::with_capacity(KEPT_LINES);
    loop {
        match lines.recv_timeout(REDRAW) {
            Ok(line) => {
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.show(kept.back().map_or("", String::as_str));
    }

    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {command:?}"))?;
    progress.finish(if status.success() { "done" } else { "FAILED" });
    if !status.success() {
        for line in &kept {
            eprintln!("    {line}");
        }
        bail!("{label}: {} ended with {status}", describe(command));
    }
    Ok(())
}

/// Runs a command whose output the user wants to see as it comes.
pub(crate) fn attached(label: &str, command: &mut Command) -> Result<()> {
    println!("{label}: {}", describe(command));
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("{label}: {} ended with {status}", describe(command));
    }
    Ok(())
}

/// Runs a command for what it writes to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| cannot_start(command))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}: {}",
            describe(command),
            output.status,
            reason.trim()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} wrote something that is no text", describe(command)))
}

/// The same for a command whose messages the user wants to see as they come.
pub(crate) fn output_shown(label: &str, command: &mut Command) -> Result<String> {
    println!("{label}: {}", describe(command));
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| cannot_start(command))?;
    if !output.status.success() {
        bail!(
            "{label}: {} ended with {}",
            describe(command),
            output.status
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} wrote something that is no text", describe(command)))
}

/// Whether a command runs and succeeds; what it writes is thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The command as a user would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let words = iter::once(program).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start {}", describe(command))
}

fn boxed<R: Read + Send + 'static>(pipe: R) -> Box<dyn Read + Send> {
    Box::new(pipe)
}

fn forward_lines(pipe: Box<dyn Read + Send>, sender: &mpsc::SyncSender<String>) {
    for line in BufReader::new(pipe).split(b'\n').map_while(io::Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if !line.is_empty() && sender.send(line).is_err() {
            return;
        }
    }
}

/// One line that says what runs and for how long.
struct Progress<'a> {
    label: &'a str,
    started: Instant,
    reported: Instant,
    terminal: bool,
}

impl<'a> Progress<'a> {
    fn new(label: &'a str, started: Instant) -> Self {
        let terminal = io::stdout().is_terminal();
        if !terminal {
            println!("{label} …");
        }
        Self {
            label,
            started,
            reported: started,
            terminal,
        }
    }

    fn show(&mut self, last: &str) {
        let seconds = self.started.elapsed().as_secs();
        if self.terminal {
            let last: String = last
                .trim()
                .chars()
                .filter(|c| !c.is_control())
                .take(60)
                .collect();
            print!("\r\x1b[2K{} … {seconds} s  {last}", self.label);
            io::stdout().flush().ok();
        } else if self.reported.elapsed() >= REPORT {
            self.reported = Instant::now();
            println!("  {seconds} s  {}", last.trim());
        }
    }

    fn finish(&self, outcome: &str) {
        let seconds = self.started.elapsed().as_secs_f32();
        if self.terminal {
            println!("\r\x1b[2K{} … {outcome} ({seconds:.1} s)", self.label);
        } else {
            println!("  {outcome} ({seconds:.1} s)");
        }
    }
}
