//! What a request through the proxy costs, beside other proxies that add the same header:
//! `cargo xtask bench http` runs this.
//!
//! Everything is in a network of its own. Each proxy has the same processor to itself, with one
//! thread; load (wrk, one thread) and upstream share the other one. So a proxy that takes less
//! of a processor than load and upstream together is measured by what it takes, and the table
//! has both. The upstream answers 100 bytes to requests that carry the credential, 401 to
//! others, and counts; rates are its counts within a window in which all connections are open.

mod figures;
mod load;
mod peers;
mod processor;
mod upstream;
mod world;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use figures::{Figures, Handshakes, Pulls};
use world::{Kept, Scheme, Way, World};

/// Connections at a time where each request has a new one.
const NEW_CONNECTIONS: u32 = 50;

/// Measures requests through the proxy and its peers; needs root and two processors.
#[derive(Parser)]
struct Arguments {
    /// How often each slice is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections at a time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 50, 100, 200, 1000])]
    connections: Vec<u32>,
    /// With TLS on both sides, or without
    #[arg(long, value_enum, value_delimiter = ',')]
    schemes: Vec<Scheme>,
    /// What is between load and upstream
    #[arg(long, value_enum, value_delimiter = ',')]
    ways: Vec<Way>,
    /// Another build of postern, to compare with in the same run
    #[arg(long)]
    before: Option<PathBuf>,
    /// Without new connections for each request, handshakes and large answers
    #[arg(long)]
    kept_only: bool,
    /// Cargo passes this on
    #[arg(long, hide = true)]
    bench: bool,
}

impl Way {
    fn is_peer(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy | Self::Envoy)
    }
}

fn main() -> ExitCode {
    match perform(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: Arguments) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut ways = all_or(arguments.ways);
    if arguments.before.is_some() {
        ways.push(Way::Before);
    }
    let schemes = all_or(arguments.schemes);
    let mut world = World::new(&ways, arguments.before.as_deref())?;
    let mut figures = Figures::default();
    for scheme in &schemes {
        for connections in &arguments.connections {
            // One after the other, so that a moment of noise meets all of them.
            for _ in 0..arguments.rounds {
                for way in &ways {
                    let slice = world.slice(*way, *scheme, *connections, Kept::Always)?;
                    figures.add(*scheme, *connections, *way, slice);
                }
            }
        }
    }
    figures.print("kept", arguments.rounds);
    let mut errors = figures.errors();
    if !arguments.kept_only {
        errors += rare(&mut world, &ways, &schemes, arguments.rounds)?;
    }
    ensure!(errors == 0, "{errors} requests or connections failed");
    Ok(())
}

/// New connections for each request, and large answers; how much of it failed.
fn rare(world: &mut World, ways: &[Way], schemes: &[Scheme], rounds: usize) -> Result<u64> {
    let (mut figures, mut pulls) = (Figures::default(), Pulls::default());
    for scheme in schemes {
        for _ in 0..rounds {
            for way in ways {
                let slice = world.slice(*way, *scheme, NEW_CONNECTIONS, Kept::Never)?;
                figures.add(*scheme, NEW_CONNECTIONS, *way, slice);
            }
            for way in ways {
                pulls.add(*scheme, *way, world.pull(*way, *scheme)?);
            }
        }
    }
    figures.print("new for each request", rounds);
    let mut errors = figures.errors();
    if schemes.contains(&Scheme::Tls) {
        errors += handshakes(world, ways, rounds)?;
    }
    pulls.print();
    Ok(errors)
}

/// Handshakes in full and resumed ones; how many failed.
fn handshakes(world: &mut World, ways: &[Way], rounds: usize) -> Result<u64> {
    let mut errors = 0;
    for (name, resumed) in [("in full", false), ("resumed", true)] {
        let mut figures = Handshakes::default();
        for _ in 0..rounds {
            // These clients bring no credential of their own.
            for way in ways.iter().filter(|way| **way != Way::Direct) {
                figures.add(*way, world.handshakes(*way, resumed)?);
            }
        }
        figures.print(name);
        errors += figures.errors();
    }
    Ok(errors)
}

fn all_or<T: ValueEnum + Clone>(chosen: Vec<T>) -> Vec<T> {
    if chosen.is_empty() {
        T::value_variants().to_vec()
    } else {
        chosen
    }
}
