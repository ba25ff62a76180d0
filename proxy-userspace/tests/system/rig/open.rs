//! A connection of a pod that stays open.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// An open HTTP/1.1 connection.
pub(crate) struct Open {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// An answer on an [`Open`] connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) closes: bool,
    pub(crate) body: String,
}

impl Open {
    /// A command that passes on what it reads and answers what it gets.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            requests: child.stdin.take().context("no input")?,
            answers: BufReader::new(child.stdout.take().context("no output")?),
            child,
        })
    }

    pub(crate) fn get(&mut self, host: &str) -> Result<Answer> {
        write!(self.requests, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.answers.read_line(&mut head)?;
            ensure!(read > 0, "the connection ended after {head:?}");
        }
        let head = head.to_ascii_lowercase();
        let field = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
        };
        let length: usize = field("content-length:").context("no length")?.parse()?;
        let mut body = vec![0; length];
        self.answers.read_exact(&mut body)?;
        Ok(Answer {
            status: head.split(' ').nth(1).context("no status")?.parse()?,
            closes: field("connection:").is_some_and(|value| value == "close"),
            body: String::from_utf8(body)?,
        })
    }

    /// Waits for the end of the connection.
    pub(crate) fn ended(mut self) -> Result<()> {
        let mut rest = String::new();
        self.answers.read_to_string(&mut rest)?;
        ensure!(rest.is_empty(), "{rest}");
        let status = self.child.wait()?;
        ensure!(status.code() != Some(124), "it stayed open");
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
