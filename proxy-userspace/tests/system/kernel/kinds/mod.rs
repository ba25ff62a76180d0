//! Every kind of `connect()`: what the application sees of it, what the listener, and what is
//! counted. `docs/connect.md` is the table of all of them.

mod again;
mod bound;
mod odd;
mod owners;
mod plain;
mod ways;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use proxy_common::maps::Stats;

use super::{
    probe::Probe,
    rig::{CONNECTOR, Rig, Seen},
};

/// Addresses that a Connector is at; no route leads there.
const V4: &str = "198.51.100.7";
const V6: &str = "2001:db8::7";
/// The first as sockets of the other family name it.
const MAPPED: &str = "[::ffff:198.51.100.7]:80";

/// A rig whose workload has its connections to [`V4`] and [`V6`] redirected, and a process of
/// the workload.
fn start(name: &str) -> Result<(Rig, Probe)> {
    let mut rig = Rig::new(name)?;
    rig.redirect(&[V4, V6], 0)?;
    let probe = Probe::start(&rig.sandbox, Some(rig.cgroup.path()))?;
    Ok((rig, probe))
}

/// Exchanges something over a connected socket: the application finds that it is connected
/// to what it dialled, and the listener got one connection, which is this one. The socket's own
/// address.
fn redirected(rig: &Rig, probe: &mut Probe, name: &str, dialled: &str) -> Result<SocketAddr> {
    let wanted = canonical(dialled)?;
    let exchange = format!("exchange {name} -> {wanted}");
    let peer = format!("peer {name} -> {dialled}");
    probe.play(&[&exchange, &peer])?;
    let local = probe.ask(&format!("local {name}"))?;
    let seen = rig.seen();
    let expected = Seen {
        workload: rig.cgroup.id(),
        dialled: wanted,
        connector: CONNECTOR,
        peer: canonical(&local)?,
    };
    ensure!(seen == [expected], "{dialled}: {seen:?}, not {expected:?}");
    Ok(expected.peer)
}

/// With an IPv4 address for a mapped one.
fn canonical(address: &str) -> Result<SocketAddr> {
    let address: SocketAddr = address.parse().with_context(|| address.to_owned())?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Asserts what was counted since the rig was made.
fn counted(rig: &Rig, expected: &Stats) -> Result<()> {
    let stats = rig.stats()?;
    ensure!(stats == *expected, "{stats}\ninstead of {expected}");
    Ok(())
}

/// That many connects, all redirected.
fn all_redirected(connects: u64) -> Stats {
    Stats {
        connects,
        redirected: connects,
        flows: connects,
        ..Stats::default()
    }
}
