//! A program below `postern run` that does as it is told.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use testkit::{TempDir, command};

/// What the program says when it has done what it was told.
pub(crate) const END: &str = "-- end --";

pub(crate) struct Client {
    postern: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    errors: PathBuf,
}

impl Client {
    /// Starts `postern run` of a program that reads lines.
    pub(crate) fn start(run: &Command, files: &TempDir) -> Result<Self> {
        let errors = files.join("errors");
        let log = File::create(&errors).context("cannot write a log file")?;
        let mut postern = testkit::spawn(run, |command| {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log);
        })?;
        let input = postern.stdin.take();
        let output = postern.stdout.take().context("no output")?;
        Ok(Self {
            postern,
            input,
            output: BufReader::new(output),
            errors,
        })
    }

    /// The process that is the proxy.
    pub(crate) fn proxy(&self) -> u32 {
        self.postern.id()
    }

    /// Has the program do something; what it says.
    pub(crate) fn tell(&mut self, line: &str) -> Result<String> {
        let told = self.input.as_mut().map(|input| writeln!(input, "{line}"));
        let mut text = String::new();
        loop {
            let read = self.output.read_line(&mut text)?;
            ensure!(
                read > 0 && matches!(told, Some(Ok(()))),
                "the client ended: {text}{}",
                fs::read_to_string(&self.errors)?
            );
            if let Some(text) = text.strip_suffix(&format!("{END}\n")) {
                return Ok(text.trim().to_owned());
            }
        }
    }

    /// Waits for its end; what Postern counted is among what it wrote.
    pub(crate) fn finish(mut self) -> Result<Output> {
        self.input = None;
        let status = self.postern.wait().context("cannot wait for Postern")?;
        let output = Output {
            status,
            stdout: Vec::new(),
            stderr: fs::read(&self.errors)?,
        };
        ensure!(status.success(), "{output:?}");
        Ok(output)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.input = None;
        // So that it cleans up. Fails only if it has been waited for.
        command::stop(&mut self.postern).ok();
    }
}
