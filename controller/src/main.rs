//! `postern-controller`: the cluster side of Postern.
//!
//! It has its command line so far, and says so when it is started: what it decides is in the
//! library of this crate, but it does not watch a cluster yet. `postern run` does not need
//! it.

use std::process::ExitCode;

use clap::Parser;

/// Reconciles Connectors and distributes credentials to the nodes.
#[derive(Parser)]
#[command(name = "postern-controller", version)]
struct Cli {}

fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    eprintln!(
        "postern-controller: this version has no cluster mode yet; use `postern run` with the \
         same manifests"
    );
    ExitCode::FAILURE
}
