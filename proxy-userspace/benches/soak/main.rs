//! Many connections, and many requests: `cargo xtask soak` runs this, and tests do the same with
//! fewer.
//!
//! Client (Python, h2load), proxy (`postern run`) and upstream (nginx) are processes of their own
//! in a network of their own.

#[path = "../../tests/system/soak/client.rs"]
mod client;
#[path = "../../tests/system/soak/idle.rs"]
mod idle;
#[path = "../../tests/system/soak/requests.rs"]
mod requests;
#[path = "../../tests/system/support.rs"]
#[expect(dead_code, reason = "the tests use the rest of it")]
mod support;

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use idle::Kind;

/// Requests before memory is looked at for the first time.
const WARM_UP: u64 = 50_000;
/// How much more memory there may be at the end, percent.
const MOST_GROWTH: f64 = 5.0;

/// Holds connections and makes requests; needs root.
#[derive(Parser)]
struct Arguments {
    #[arg(value_enum, default_value_t = Soak::All)]
    what: Soak,
    /// Connections to hold
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// For how long nothing happens, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=20))]
    pause: u64,
    /// Requests after the warm-up
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// Cargo passes this on
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Soak {
    /// Connections that are idle
    Idle,
    /// Requests, and the memory that they leave behind
    Requests,
    /// Both
    All,
}

fn main() -> ExitCode {
    match perform(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: &Arguments) -> Result<()> {
    if arguments.what != Soak::Requests {
        let pause = Duration::from_secs(arguments.pause);
        let wanted = arguments.connections;
        let held = idle::hold(Kind::Intercepted, wanted, pause)?;
        println!("{held}");
        ensure!(held.connections == wanted, "no more can be held here");
        // Two descriptors each: a process may not be able to have so many.
        println!("{}", idle::hold(Kind::PassedThrough, wanted, pause)?);
    }
    if arguments.what != Soak::Idle {
        let memory = requests::perform(WARM_UP, arguments.requests)?;
        println!("{memory}");
        let percent = memory.growth_percent();
        ensure!(
            percent <= MOST_GROWTH,
            "{percent:.1} % more memory, which is more than {MOST_GROWTH} %"
        );
    }
    Ok(())
}
