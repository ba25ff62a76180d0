//! Shows and measures a whole cluster: `cargo xtask demo --cluster` and `cargo xtask bench
//! chain` run this.

mod bench;
mod demo;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use minicluster::Programs;

/// A whole cluster in miniature.
#[derive(Parser)]
struct Arguments {
    /// Folder with `postern` and `postern-controller`.
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show the chain from `kubectl apply` to a pod's push
    Demo,
    /// Measure how long its links take
    Bench {
        /// How often each is measured
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match perform(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn perform(arguments: Arguments) -> Result<()> {
    let programs = Programs::of(&arguments.programs)?;
    match arguments.task {
        Task::Demo => demo::perform(programs).await,
        Task::Bench { rounds } => bench::perform(programs, rounds).await,
    }
}
