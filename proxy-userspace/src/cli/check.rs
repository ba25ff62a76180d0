use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::Manifests;

/// Validates manifests and probes each Connector once.
#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    manifests: Manifests,
}

impl Check {
    pub(super) fn execute(self) -> Result<ExitCode> {
        self.manifests.load()?;
        Ok(ExitCode::SUCCESS)
    }
}
