//! Every kind of `connect()`: what the application sees of it, what the listener, and what is
//! counted. `docs/connect.md` is the table of all of them.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use proxy_common::maps::{CREDENTIAL_REFUSE, CREDENTIAL_USABLE, Stats};

use super::{
    probe::Probe,
    rig::{CONNECTOR, Rig, Seen, entries, refused},
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

#[test]
fn both_families_and_mapped_addresses() -> Result<()> {
    let (rig, mut probe) = start("kinds-families")?;
    for (family, dialled) in [
        ("v4", "198.51.100.7:80"),
        ("v6", "[2001:db8::7]:8080"),
        ("v6", MAPPED),
    ] {
        let socket = format!("socket a {family} stream");
        let connect = format!("connect a {dialled}");
        probe.play(&[&socket, &connect])?;
        let local = redirected(&rig, &mut probe, "a", dialled)?;
        ensure!(local.ip().is_loopback(), "{local}");
    }
    counted(&rig, &all_redirected(3))
}

#[test]
fn a_socket_for_ipv6_alone_gets_no_mapped_address() -> Result<()> {
    let (rig, mut probe) = start("kinds-v6only")?;
    probe.play(&[
        "socket a v6 stream",
        "set a v6only",
        // As without Postern: the kernel looks at this after the programs ran.
        &format!("connect a {MAPPED} -> ENETUNREACH"),
        "connect a [2001:db8::7]:80",
    ])?;
    redirected(&rig, &mut probe, "a", "[2001:db8::7]:80")?;
    let all = Stats {
        connects: 2,
        redirected: 2,
        flows: 1,
        ..Stats::default()
    };
    counted(&rig, &all)
}

#[test]
fn sockets_that_do_not_block() -> Result<()> {
    let (mut rig, mut probe) = start("kinds-nonblocking")?;
    probe.play(&[
        "socket a v4 stream",
        "set a nonblocking",
        "connect a 198.51.100.7:80 -> EINPROGRESS",
        "wait a",
        // The kernel's way to say that it is done.
        "connect a 198.51.100.7:80",
        "connect a 198.51.100.7:80 -> EISCONN",
        "peer a -> 198.51.100.7:80",
    ])?;
    rig.credential(CREDENTIAL_REFUSE, 0)?;
    let refusal = format!("connect b 198.51.100.7:80 -> {}", refused()?);
    probe.play(&["socket b v4 stream", "set b nonblocking", &refusal])?;
    rig.credential(CREDENTIAL_USABLE, 0)?;
    // The proxy is gone, its entries are not.
    rig.close_listeners();
    probe.play(&[
        "socket c v4 stream",
        "set c nonblocking",
        "connect c 198.51.100.7:80 -> EINPROGRESS",
        "wait c -> ECONNREFUSED",
    ])?;
    let all = Stats {
        connects: 3,
        redirected: 2,
        refused_cred: 1,
        flows: 2,
        ..Stats::default()
    };
    counted(&rig, &all)
}
