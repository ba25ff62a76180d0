use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::datapath::unload;

/// Removes what agents have left in the kernel.
///
/// For when Postern is taken off a node: its programs and maps stay when the agent ends, so
/// that the next one can take over. Refuses while an agent runs. Afterwards connections reach
/// Connectors directly and without a credential.
#[derive(Args)]
pub(super) struct Unload {
    #[command(flatten)]
    pins: super::Pins,
}

impl Unload {
    pub(super) fn execute(self) -> Result<ExitCode> {
        let removed = unload(&self.pins.pins)?;
        if removed.is_empty() {
            println!("nothing is pinned below {}", self.pins.pins.display());
        }
        for unloaded in removed {
            println!("removed {unloaded}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
