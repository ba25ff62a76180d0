//! What it costs to be passed through: `cargo xtask bench splice` runs this.
//!
//! A client downloads from a server in a network of its own: directly, redirected by `postern run`,
//! and through haproxy, one after the other in each round. Client, proxy and server are processes
//! of their own. The proxy has a processor for itself, and the two others share one on every way:
//! were three processes to share two, what a proxy takes would be missing at the ends, and a stream
//! through any of them would look slow.

mod peer;
#[path = "../common/series.rs"]
mod series;
mod world;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

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
    /// Gigabits per second of the server that is not as fast as it can
    #[arg(long, default_value_t = 5)]
    gigabits: u64,
    /// Short connections of one slice, one after the other
    #[arg(long, default_value_t = 2_000)]
    connections: u64,
    /// Another `postern` to compare with, say of an earlier revision
    #[arg(long)]
    before: Option<PathBuf>,
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
        /// How fast it may come, bytes per second; 0 for as fast as it can
        rate: u64,
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
            rate,
            proxy,
        }) => {
            let load = Load {
                connections,
                bytes,
                rate,
            };
            peer::measure(address, &load, proxy)
        }
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
    let world = World::new(arguments.before.clone())?;
    let stream = |rate| Load {
        connections: 1,
        bytes: arguments.bytes,
        rate,
    };
    let kinds = [
        ("as fast as it can".to_owned(), stream(0)),
        (
            format!("{} Gbit/s", arguments.gigabits),
            stream(arguments.gigabits * 125_000_000),
        ),
    ];
    let short = Load {
        connections: arguments.connections,
        bytes: 100,
        rate: 0,
    };
    let gibibytes = arguments.bytes as f64 / GIBIBYTE;
    let mut streams = kinds.map(|(what, load)| (what, load, Figures::default()));
    let mut many = Figures::default();
    let ways = Way::ALL.into_iter().filter(|(_, way)| world.has(*way));
    for _ in 0..arguments.rounds {
        for (_, load, figures) in &mut streams {
            for (what, way) in ways.clone() {
                let took = world.client(way, load)?;
                series(&mut figures.rate, what).push(gibibytes / took.seconds);
                series(&mut figures.cost, what).push(took.proxy / gibibytes);
            }
        }
        for (what, way) in ways.clone() {
            let took = world.client(way, &short)?;
            let connections = short.connections as f64;
            series(&mut many.rate, what).push(connections / took.seconds);
            series(&mut many.cost, what).push(took.proxy / connections * 1e6);
        }
    }
    println!("{} rounds: median (least to most)\n", arguments.rounds);
    println!("| server | way | GiB/s | ratio | processor time of the proxy, s per GiB |");
    println!("|---|---|---|---|---|");
    for (what, _, figures) in &streams {
        for row in figures.rows(2, 3) {
            println!("| {what} {row}");
        }
    }
    println!("\n| way | connections/s | ratio | processor time of the proxy, µs each |");
    println!("|---|---|---|---|");
    for row in many.rows(0, 0) {
        println!("{row}");
    }
    Ok(())
}

/// How fast the ways were, and what they cost.
#[derive(Default)]
struct Figures {
    rate: Vec<Series>,
    cost: Vec<Series>,
}

impl Figures {
    /// Cells of a table, with so many decimals; the first way is what the others are compared with.
    fn rows(&self, rate: usize, cost: usize) -> impl Iterator<Item = String> {
        let direct = self.rate.first().map_or(f64::NAN, Series::median);
        let pairs = self.rate.iter().zip(&self.cost);
        pairs.enumerate().map(move |(n, (one, spent))| {
            let cost = if n == 0 {
                "–".to_owned()
            } else {
                spent.show(cost)
            };
            let ratio = one.median() / direct;
            format!(
                "| {} | {} | {ratio:.3} | {cost} |",
                one.what,
                one.show(rate)
            )
        })
    }
}
