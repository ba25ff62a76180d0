//! Short rounds of what `cargo xtask soak` does for longer, and with more.

mod client;
mod idle;
mod requests;

use std::time::Duration;

use anyhow::{Result, ensure};

use idle::{Kind, hold};

fn are_held(kind: Kind, descriptors_each: usize) -> Result<()> {
    const CONNECTIONS: usize = 2_000;
    let held = hold(kind, CONNECTIONS, Duration::from_secs(1))?;
    println!("{held}");
    ensure!(held.connections == CONNECTIONS, "{held}");
    ensure!(held.requests >= 2 * CONNECTIONS as u64, "{held}");
    ensure!(held.descriptors >= CONNECTIONS * descriptors_each, "{held}");
    Ok(())
}

#[test]
fn two_thousand_idle_connections_are_held_and_used_again() -> Result<()> {
    are_held(Kind::Intercepted, 1)
}

#[test]
fn two_thousand_that_are_passed_through_are_as_well() -> Result<()> {
    are_held(Kind::PassedThrough, 2)
}

/// Less than a KiB for each request: there is more noise in so few than a leak can be told from.
#[test]
fn requests_over_both_versions_leave_little_behind() -> Result<()> {
    const MOST_KIB: u64 = 16 * 1024;
    let memory = requests::perform(requests::ROUND, 2 * requests::ROUND)?;
    println!("{memory}");
    ensure!(memory.growth() < MOST_KIB, "{memory}");
    Ok(())
}
