//! More than one `connect()` on a socket, and more than one socket of a port.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use proxy_common::maps::{CREDENTIAL_REFUSE, CREDENTIAL_USABLE, Stats};

use super::{MAPPED, all_redirected, counted, redirected, start};
use crate::kernel::{
    probe::Probe,
    rig::{ADDRESS, POLICY, Rig, eventually, refused},
};

/// Somebody who is no Connector, at this port of the network's address.
fn server(rig: &Rig, port: u16) -> Result<Probe> {
    let mut server = Probe::start(&rig.sandbox, None)?;
    let bind = format!("bind s {ADDRESS}:{port}");
    server.play(&["socket s v4 stream", &bind, "listen s"])?;
    Ok(server)
}

#[test]
fn after_a_refusal_it_is_redirected() -> Result<()> {
    let (mut rig, mut probe) = start("kinds-refused")?;
    rig.credential(CREDENTIAL_REFUSE, 0)?;
    let refusal = format!("connect a 198.51.100.7:80 -> {}", refused());
    probe.play(&["socket a v4 stream", &refusal, &refusal])?;
    rig.credential(CREDENTIAL_USABLE, 0)?;
    probe.play(&["connect a 198.51.100.7:80"])?;
    redirected(&rig, &mut probe, "a", "198.51.100.7:80")?;
    let all = Stats {
        refused_cred: 2,
        connects: 3,
        ..all_redirected(1)
    };
    counted(&rig, &all)
}

#[test]
fn a_connected_socket_stays_connected() -> Result<()> {
    let (rig, mut probe) = start("kinds-isconn")?;
    probe.play(&[
        "socket a v4 stream",
        "connect a 198.51.100.7:80",
        "connect a 198.51.100.7:80 -> EISCONN",
        "connect a 192.0.2.1:80 -> EISCONN",
    ])?;
    redirected(&rig, &mut probe, "a", "198.51.100.7:80")?;
    // The kernel asks the programs about the first alone.
    counted(&rig, &all_redirected(1))
}

#[test]
fn first_redirected_then_untouched_and_redirected_again() -> Result<()> {
    let (rig, mut probe) = start("kinds-unspec")?;
    let _server = server(&rig, 9000)?;
    probe.play(&["socket a v4 stream", "connect a 198.51.100.7:80"])?;
    redirected(&rig, &mut probe, "a", "198.51.100.7:80")?;
    probe.play(&[
        "unconnect a",
        "peer a -> ENOTCONN",
        "connect a 192.0.2.1:9000",
        "peer a -> 192.0.2.1:9000",
        "unconnect a",
        "connect a 198.51.100.7:8080",
    ])?;
    redirected(&rig, &mut probe, "a", "198.51.100.7:8080")?;
    let all = Stats {
        connects: 3,
        untouched: 1,
        ..all_redirected(2)
    };
    counted(&rig, &all)
}

/// The socket remembers where it was redirected from, and by which port.
#[test]
fn a_server_at_the_listeners_port_is_not_taken_for_the_listener() -> Result<()> {
    let (rig, mut probe) = start("kinds-via-port")?;
    let (port, _) = rig.first()?.ports;
    let _server = server(&rig, port)?;
    probe.play(&["socket a v4 stream", "connect a 198.51.100.7:80"])?;
    redirected(&rig, &mut probe, "a", "198.51.100.7:80")?;
    probe.play(&[
        "unconnect a",
        &format!("connect a {ADDRESS}:{port}"),
        &format!("peer a -> {ADDRESS}:{port}"),
    ])?;
    let all = Stats {
        connects: 2,
        untouched: 1,
        ..all_redirected(1)
    };
    counted(&rig, &all)
}

/// The other way round no kernel connects: after a mapped address the socket stays one of IPv4.
#[test]
fn from_ipv6_to_a_mapped_address() -> Result<()> {
    let (rig, mut probe) = start("kinds-family-change")?;
    probe.play(&["socket a v6 stream", "connect a [2001:db8::7]:80"])?;
    redirected(&rig, &mut probe, "a", "[2001:db8::7]:80")?;
    probe.play(&["unconnect a", &format!("connect a {MAPPED}")])?;
    redirected(&rig, &mut probe, "a", MAPPED)?;
    counted(&rig, &all_redirected(2))
}

/// Two sockets of one port, as ports are used again while an upgrade is under way.
#[test]
fn flows_of_two_listeners_do_not_meet() -> Result<()> {
    let (mut rig, mut probe) = start("kinds-two-listeners")?;
    let id = rig.cgroup.id();
    let connect = |name: &str, port: u16| {
        [
            format!("socket {name} v4 stream"),
            format!("set {name} reuse"),
            format!("bind {name} 127.0.0.1:5201"),
            format!("connect {name} 198.51.100.7:{port}"),
        ]
    };
    probe.play(&connect("old", 80).each_ref().map(String::as_str))?;
    let path = rig.cgroup.path().to_owned();
    rig.serve(&path, POLICY)?;
    probe.play(&connect("new", 8080).each_ref().map(String::as_str))?;
    let flows = rig.flows_of(id)?;
    let via: BTreeSet<_> = flows.iter().map(|key| key.via_port).collect();
    ensure!(
        flows.len() == 2 && via.len() == 2 && flows.iter().all(|key| key.port == 5201),
        "{flows:?}"
    );
    probe.play(&["exchange new -> 198.51.100.7:8080", "close new"])?;
    ensure!(eventually(|| Ok(rig.flows_of(id)?.len() == 1))?);
    probe.play(&["exchange old -> 198.51.100.7:80"])?;
    counted(&rig, &all_redirected(2))
}

#[test]
fn a_socket_withdraws_no_flow_but_its_own() -> Result<()> {
    let (rig, mut probe) = start("kinds-own-flow")?;
    let _server = server(&rig, 9000)?;
    let id = rig.cgroup.id();
    probe.play(&[
        "socket a v4 stream",
        "set a reuse",
        "bind a 127.0.0.1:5202",
        "connect a 198.51.100.7:80",
        "unconnect a",
    ])?;
    ensure!(eventually(|| Ok(rig.flows_of(id)?.is_empty()))?);
    probe.play(&[
        "socket b v4 stream",
        "set b reuse",
        "bind b 127.0.0.1:5202",
        "connect b 198.51.100.7:80",
        // Both would have the same ends.
        "connect a 198.51.100.7:80 -> EADDRNOTAVAIL",
        "connect a 192.0.2.1:9000",
        "local a -> 127.0.0.1:5202",
        "set a reset",
        "close a",
    ])?;
    ensure!(rig.flows_of(id)?.len() == 1);
    probe.play(&["exchange b -> 198.51.100.7:80"])?;
    let all = Stats {
        connects: 4,
        redirected: 3,
        untouched: 1,
        flows: 2,
        ..Stats::default()
    };
    counted(&rig, &all)
}
