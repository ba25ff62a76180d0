//! What the kernel programs cost: `cargo xtask bench kernel` runs this.
//!
//! One thread makes connections and packets over the loopback of a network of its own, from
//! cgroups that the programs have more and less to do with. How much of the processor's time that
//! takes is measured with the kernel's statistics switched off; what the programs take of it, by
//! these statistics, in slices of their own.

mod figures;
#[path = "../common/series.rs"]
mod series;
mod traffic;
mod world;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use figures::Figures;
use world::{Caller, World};

/// Connections of one slice.
const CONNECTS: u32 = 2_000;
/// Packets of one slice.
const PACKETS: u32 = 10_000;

/// Measures the kernel programs; needs root.
#[derive(Parser)]
struct Arguments {
    /// How often each slice is measured
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Cargo passes this on
    #[arg(long, hide = true)]
    bench: bool,
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
    let mut figures = Figures::default();
    for _ in 0..arguments.rounds {
        round(&mut figures)?;
    }
    figures.print(arguments.rounds);
    Ok(())
}

/// Each kind of traffic once, so that a moment of noise meets all of them.
fn round(figures: &mut Figures) -> Result<()> {
    let mut world = World::new()?;
    figures.rate("no program", || world.connects(Caller::Outside, CONNECTS))?;
    world.attach()?;
    for (what, caller) in Caller::ALL {
        figures.rate(what, || world.connects(caller, CONNECTS))?;
    }
    for (what, caller) in Caller::ALL {
        let cost = world.cost(&["connect4", "flows"], |world| {
            world.connects(caller, CONNECTS).map(drop)
        })?;
        figures.connect(what, &cost, CONNECTS);
    }
    world.learn()?;
    for (what, traffic) in traffic::ALL {
        let cost = world.cost(&["dns_ingress"], |world| world.packets(traffic, PACKETS))?;
        figures.packet(what, &cost);
    }
    world
        .home()
        .context("cannot leave the cgroups of the measurement")
}
