use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::Manifests;
use crate::standalone::{self, Mode, Options};

/// Runs a command whose connections to Connectors get their credential.
///
/// Ends with the command's exit code; 125 when Postern itself fails, 126 when the command
/// cannot be executed, 127 when it does not exist, 128+N when signal N ended it.
#[derive(Args)]
pub(super) struct Run {
    #[command(flatten)]
    manifests: Manifests,
    /// How connections come to Postern.
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    mode: ModeArg,
    /// Prints counters to standard error when the command has ended.
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    tuning: super::tuning::TuningArgs,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    /// transparent as root, forward otherwise
    Auto,
    /// eBPF redirects the command's connections; needs root
    Transparent,
    /// The command is pointed at a proxy by its environment
    Forward,
}

impl Run {
    pub(super) fn execute(self) -> Result<ExitCode> {
        // Only probes need what the Connectors were made of.
        let connectors = self.manifests.load()?.connectors;
        let mode = match self.mode {
            ModeArg::Transparent => Mode::Transparent,
            ModeArg::Forward => Mode::Forward,
            ModeArg::Auto if nix::unistd::geteuid().is_root() => Mode::Transparent,
            ModeArg::Auto => {
                eprintln!(
                    "postern: not root, so using --mode forward: only programs that honour \
                     proxy variables get a credential"
                );
                Mode::Forward
            }
        };
        standalone::run(Options {
            connectors,
            mode,
            command: self.command,
            stats: self.stats,
            tuning: self.tuning.into(),
        })
    }
}
