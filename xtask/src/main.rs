//! `cargo xtask`: everything a developer or a CI job does with this repository.
//!
//! Each command that needs more than cargo first runs the set-up, which installs what is
//! missing and nothing else, so that any of them works on a fresh machine.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

mod apt;
mod bench;
mod build;
mod cluster;
mod demo;
mod fuzz;
mod kernels;
mod lint;
mod manifests;
mod run;
mod setup;
mod test;
#[path = "../../proxy-userspace/build/toolchain.rs"]
#[expect(dead_code, reason = "a build script uses the rest of it")]
mod toolchain;
mod workspace;

/// Set-up, build, demo, test and lint of Postern.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing on this machine, and only that
    Setup,
    /// Build both binaries, optimised
    Build,
    /// Show the main job on real input, and that no secret leaks; needs root
    Demo {
        /// In a cluster of one node with real pods instead of `postern run`
        #[arg(long)]
        cluster: bool,
    },
    /// Measure; needs root
    Bench {
        /// What to measure
        what: Bench,
        /// How often [default: 20; 5 for http]
        #[arg(long)]
        rounds: Option<usize>,
        /// More arguments for the benchmark of http
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Hold many connections, and make many requests; needs root
    Soak {
        /// What of it
        #[arg(value_enum, default_value_t = Soak::All)]
        what: Soak,
        /// Connections to hold
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
        /// Requests to make
        #[arg(long, default_value_t = 1_000_000)]
        requests: u64,
    },
    /// Check format, style and dependencies
    Lint,
    /// Feed a parser made-up input, looking for any that it does not survive
    Fuzz {
        /// Which one: a folder of fuzz/corpus
        target: String,
        /// How many inputs
        #[arg(long, default_value_t = 10_000_000)]
        cases: u64,
    },
    /// Write the manifests that are made from code
    Manifests {
        /// Change nothing, and fail if something would change
        #[arg(long)]
        check: bool,
    },
    /// Run all tests; needs root
    Test {
        /// The kernel tests alone, on kernels of Debian instead of the running one
        #[arg(long)]
        kernel: Option<kernels::Choice>,
        /// Arguments for `cargo test`; with --kernel parts of the names of tests
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Bench {
    /// How soon a new Secret is used, and a new pod is served
    Chain,
    /// What the kernel programs cost a connection and a packet
    Kernel,
    /// What it costs to be passed through, beside haproxy
    Splice,
    /// What a request through the proxy costs, beside Envoy, haproxy and nginx
    Http,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Soak {
    /// Connections that are idle
    Idle,
    /// Requests, and the memory that they leave behind
    Requests,
    /// Both
    All,
}

impl Soak {
    /// What the program calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Requests => "requests",
            Self::All => "all",
        }
    }
}

impl Bench {
    /// How often it measures if nobody says otherwise.
    fn rounds(self) -> usize {
        match self {
            Self::Chain | Self::Kernel | Self::Splice => 20,
            Self::Http => 5,
        }
    }
}

fn main() -> ExitCode {
    match perform(&Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: &Task) -> Result<()> {
    let workspace = Workspace::locate()?;
    match task {
        Task::Setup => setup::perform(&workspace),
        Task::Build => {
            setup::perform(&workspace)?;
            build::all(&workspace).map(drop)
        }
        Task::Demo { cluster } => {
            test::require_root("demo")?;
            setup::perform(&workspace)?;
            if *cluster {
                let programs = build::all(&workspace)?;
                cluster::perform(&workspace, &programs, &["demo"])
            } else {
                demo::perform(&build::postern(&workspace)?)
            }
        }
        Task::Bench {
            what,
            rounds,
            arguments,
        } => {
            test::require_root("bench")?;
            setup::perform(&workspace)?;
            let rounds = rounds.unwrap_or_else(|| what.rounds()).to_string();
            match what {
                Bench::Chain => {
                    let programs = build::all(&workspace)?;
                    cluster::perform(&workspace, &programs, &["bench", "--rounds", &rounds])
                }
                Bench::Kernel => bench::perform(&workspace, "kernel", &rounds, arguments),
                Bench::Splice => bench::perform(&workspace, "splice", &rounds, arguments),
                Bench::Http => {
                    setup::envoy::ensure(&workspace)?;
                    bench::perform(&workspace, "http", &rounds, arguments)
                }
            }
        }
        Task::Soak {
            what,
            connections,
            requests,
        } => {
            test::require_root("soak")?;
            setup::perform(&workspace)?;
            let arguments = [
                what.name().to_owned(),
                format!("--connections={connections}"),
                format!("--requests={requests}"),
            ];
            bench::soak(&workspace, &arguments)
        }
        Task::Lint => {
            setup::perform(&workspace)?;
            lint::perform(&workspace)
        }
        Task::Fuzz { target, cases } => {
            setup::perform(&workspace)?;
            fuzz::perform(&workspace, target, *cases)
        }
        // Without the set-up: it needs nothing but cargo.
        Task::Manifests { check } => manifests::perform(&workspace, *check),
        Task::Test { kernel, arguments } => {
            test::require_root("test")?;
            setup::perform(&workspace)?;
            match kernel {
                Some(kernel) => kernels::perform(&workspace, *kernel, arguments),
                None => test::perform(&workspace, arguments),
            }
        }
    }
}
