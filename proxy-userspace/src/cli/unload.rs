use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use crate::datapath::{Unloaded, unload};

/// Removes what agents have left in the kernel.
///
/// For when Postern is taken off a node: its programs and maps stay when the agent ends, so
/// that the next one can take over. Refuses while an agent runs. Afterwards connections reach
/// Connectors directly and without a credential.
#[derive(Args)]
pub(super) struct Unload {
    /// Directory on a BPF file system in which agents pin their maps and links.
    #[arg(long, value_name = "PATH", default_value = "/sys/fs/bpf/postern")]
    pins: PathBuf,
}

impl Unload {
    pub(super) fn execute(self) -> Result<ExitCode> {
        let removed = unload(&self.pins)?;
        if removed.is_empty() {
            println!("nothing is pinned below {}", self.pins.display());
        }
        for Unloaded {
            directory,
            links,
            maps,
        } in removed
        {
            println!(
                "removed {}: {links} links, {maps} maps",
                directory.display()
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
