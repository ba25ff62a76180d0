use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::standalone::{Bind, Plan, enter};

/// The last step of `postern run`, between its fork and the command: enters the cgroup and a
/// mount namespace of its own, and becomes the command.
#[derive(Args)]
pub(super) struct Enter {
    /// Process id of Postern.
    #[arg(long)]
    parent: i32,
    /// Soft limit of open files.
    #[arg(long)]
    open_files: u64,
    /// Directory of the cgroup to enter.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// File to show in place of another, as SOURCE and TARGET.
    #[arg(long, num_args = 2, value_names = ["SOURCE", "TARGET"])]
    bind: Vec<PathBuf>,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Enter {
    pub(super) fn execute(self) -> Result<ExitCode> {
        let binds = self
            .bind
            .chunks_exact(2)
            .map(|pair| Bind {
                source: pair[0].clone(),
                target: pair[1].clone(),
            })
            .collect();
        let (program, arguments) = self.command.split_first().context("no command given")?;
        let plan = Plan {
            parent: self.parent,
            open_files: self.open_files,
            cgroup: self.cgroup,
            binds,
        };
        enter(&plan, program, arguments)
    }
}
