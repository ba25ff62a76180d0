//! What it costs to be passed through: `cargo xtask bench splice` runs this.
//!
//! A client downloads from a server in a network of its own: directly, redirected by `postern run`,
//! and through haproxy, one after the other in each round. Client, proxy and server are processes
//! of their own.

mod peer;
#[path = "../common/series.rs"]
mod series;
mod world;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use peer::Load;
use series::{Series, series};
use world::{Way, World};

const GIBIBYTE: f64 = 1_073_741_824.0;

/// Measures connections that are passed through; needs root.
#[derive(Parser)]
struct Arguments {
    /// How often each way is measured
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Bytes of one download
    #[arg(long, default_value_t = 2 * 1024 * 1024 * 1024)]
    bytes: u64,
    /// Short connections of one slice, one after the other
    #[arg(long, default_value_t = 1_000)]
    connections: u64,
    /// Cargo passes this on
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program does as a process of the measurement.
#[derive(Subcommand)]
enum Role {
    /// Sends as much as it is asked for
    Server { address: SocketAddr },
    /// Asks for it, and prints what it took: seconds, and seconds of the proxy's processor time
    Client {
        address: SocketAddr,
        /// How often
        connections: u64,
        /// How much each time
        bytes: u64,
        /// Process id of the proxy; 0 for none, 1 for the parent
        proxy: u32,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.role {
        None => perform(&arguments),
        Some(Role::Server { address }) => peer::serve(address),
        Some(Role::Client {
            address,
            connections,
            bytes,
            proxy,
        }) => peer::measure(address, &Load { connections, bytes }, proxy),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
fn perform(arguments: &Arguments) -> Result<()> {
    let world = World::new()?;
    let stream = Load {
        connections: 1,
        bytes: arguments.bytes,
    };
    let short = Load {
        connections: arguments.connections,
        bytes: 100,
    };
    let gibibytes = stream.bytes as f64 / GIBIBYTE;
    let [mut throughput, mut cost, mut rate] = [(); 3].map(|()| Vec::<Series>::new());
    for _ in 0..arguments.rounds {
        for (what, way) in Way::ALL {
            let took = world.client(way, &stream)?;
            series(&mut throughput, what).push(gibibytes / took.seconds);
            series(&mut cost, what).push(took.proxy / gibibytes);
        }
        for (what, way) in Way::ALL {
            let took = world.client(way, &short)?;
            series(&mut rate, what).push(short.connections as f64 / took.seconds);
        }
    }
    println!("{} rounds: median (least to most)\n", arguments.rounds);
    println!("| way | GiB/s | ratio | CPU seconds of the proxy per GiB |\n|---|---|---|---|");
    let ratio = |all: &[Series], one: &Series| one.median() / all[0].median();
    for (one, cost) in throughput.iter().zip(&cost) {
        let (what, ratio) = (one.what, ratio(&throughput, one));
        println!(
            "| {what} | {} | {ratio:.3} | {} |",
            one.show(2),
            cost.show(3)
        );
    }
    println!("\n| way | connections/s | ratio |\n|---|---|---|");
    for one in &rate {
        let (what, ratio) = (one.what, ratio(&rate, one));
        println!("| {what} | {} | {ratio:.3} |", one.show(0));
    }
    Ok(())
}
