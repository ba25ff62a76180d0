//! A process that makes sockets and connections as it is told, step by step, in a cgroup and
//! a network of the test's choice.
//!
//! It is this test program once more: threads cannot be moved to another cgroup one by one,
//! and a process that other tests run in must not move. What it understands is in [`steps`].

mod steps;
mod uring;

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use testkit::Sandbox;

use steps::Steps;

/// Set in the environment of a process that is a probe.
const PROBE: &str = "POSTERN_TEST_PROBE";
/// In front of each answer: the test runner writes to the same stream.
const MARK: &str = "probe> ";

/// A probe that waits for its next step.
pub(super) struct Probe {
    child: Child,
    steps: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Probe {
    /// One in the sandbox's network and, if it is told one, in a cgroup.
    pub(super) fn start(sandbox: &Sandbox, cgroup: Option<&Path>) -> Result<Self> {
        let this = env::current_exe().context("this program has no path")?;
        let mut command = sandbox.command(this);
        as_probe(&mut command);
        let mut child = testkit::spawn(&command, |command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        })?;
        let mut probe = Self {
            steps: child.stdin.take().context("no input")?,
            answers: BufReader::new(child.stdout.take().context("no output")?),
            child,
        };
        if let Some(cgroup) = cgroup {
            probe.play(&[&format!("join {}", cgroup.display())])?;
        }
        Ok(probe)
    }

    /// Takes one step; its answer.
    pub(super) fn ask(&mut self, step: &str) -> Result<String> {
        writeln!(self.steps, "{step}")?;
        let mut line = String::new();
        while self.answers.read_line(&mut line)? > 0 {
            if let Some((_, answer)) = line.split_once(MARK) {
                return Ok(answer.trim_end().to_owned());
            }
            line.clear();
        }
        bail!("the probe ended at: {step}")
    }

    /// Takes these steps. A line is a step, ` -> ` and the answer that it has to have, with a
    /// `*` at its end for anything more; without that the answer has to be `ok`.
    pub(super) fn play(&mut self, lines: &[&str]) -> Result<()> {
        for line in lines {
            let (step, expected) = line.split_once(" -> ").unwrap_or((line, "ok"));
            let answer = self.ask(step)?;
            let fits = match expected.strip_suffix('*') {
                Some(beginning) => answer.starts_with(beginning),
                None => answer == expected,
            };
            ensure!(fits, "{step}: {answer} instead of {expected}");
        }
        Ok(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a command of this program the one of a probe.
fn as_probe(command: &mut Command) {
    command
        .args([
            "--exact",
            "kernel::probe::takes_steps",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(PROBE, "1");
}

/// Answers steps until there are no more.
fn serve() -> Result<()> {
    let mut steps = Steps::default();
    for line in std::io::stdin().lines() {
        println!("\n{MARK}{}", steps.take(&line?));
    }
    Ok(())
}

/// The life of a probe; when nobody wants one, a test of it.
#[test]
fn takes_steps() -> Result<()> {
    if env::var_os(PROBE).is_some() {
        return serve();
    }
    let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = server.local_addr()?;
    let mut steps = Steps::default();
    for (step, answer) in [
        ("peer a", "no socket a"),
        ("sing a", "no such step: sing a"),
        ("socket a v4 stream", "ok"),
        (&format!("connect a {address}"), "ok"),
        (&format!("connect a {address}"), "EISCONN"),
        ("peer a", &address.to_string()),
    ] {
        let said = steps.take(step);
        ensure!(said == answer, "{step}: {said} instead of {answer}");
    }
    Ok(())
}
