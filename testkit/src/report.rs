//! The steps of a demo, and the table of what happened.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use crate::command::{describe, run_within};
use anyhow::{Result, bail};

/// How long one command of the demo may take, on a machine that is busy.
pub const COMMAND_LIMIT: Duration = Duration::from_mins(2);

/// The steps so far.
#[derive(Default)]
pub struct Report {
    rows: Vec<[String; 4]>,
}

const TITLES: [&str; 4] = ["step", "command", "expected", "got"];

impl Report {
    /// Adds a step and shows that it was taken.
    pub fn add(&mut self, step: &str, command: &str, expected: &str, got: &str) {
        println!("  {step}: {got}");
        self.rows
            .push([step, command, expected, got].map(str::to_owned));
    }

    /// Runs a command that has to fail for this reason.
    pub fn refused(&mut self, step: &str, command: Command, why: &str) -> Result<()> {
        let shown = describe(&command);
        let output = run_within(command, COMMAND_LIMIT)?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || !said.contains(why) {
            bail!(
                "{shown} was to be refused ({why}): {}, {}",
                output.status,
                said.trim()
            );
        }
        self.add(step, &shown, "refused", &format!("refused: {why}"));
        Ok(())
    }

    /// Runs a command that has to succeed.
    pub fn succeeds(&mut self, step: &str, command: Command) -> Result<()> {
        let shown = describe(&command);
        let output = run_within(command, COMMAND_LIMIT)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{shown} ended with {}: {}", output.status, said.trim());
        }
        self.add(step, &shown, "done", "done");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = TITLES.map(str::to_owned);
        let rows = || std::iter::once(&titles).chain(&self.rows);
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max();
        let widths = [0, 1, 2, 3].map(|column| width(column).unwrap_or(0));
        for (number, row) in rows().enumerate() {
            for (cell, width) in row.iter().zip(widths).take(3) {
                write!(f, "{cell:width$}  ")?;
            }
            writeln!(f, "{}", row[3])?;
            if number == 0 {
                let line = widths.map(|width| "-".repeat(width));
                writeln!(f, "{}", line.join("  "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut report = Report::default();
        report.add("push", "skopeo copy", "accepted", "accepted");
        let expected = "step  command      expected  got\n\
                        ----  -----------  --------  --------\n\
                        push  skopeo copy  accepted  accepted\n";
        assert_eq!(report.to_string(), expected);
    }
}
