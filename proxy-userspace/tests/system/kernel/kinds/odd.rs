//! Addresses that mean something special, sockets that are not of TCP, and networks that lack
//! something.

use anyhow::{Result, ensure};
use proxy_common::maps::Stats;

use super::{MAPPED, V4, V6, all_redirected, counted, redirected, start};
use crate::{
    kernel::{
        probe::Probe,
        rig::{GRACE_NS, POLICY, Rig, refused},
    },
    support::ok,
};

/// A command in the rig's network.
fn inside(rig: &Rig, script: &str) -> Result<()> {
    let mut shell = rig.sandbox.command("sh");
    shell.args(["-ec", script]);
    ok(shell).map(drop)
}

#[test]
fn addresses_with_a_meaning_are_left_alone() -> Result<()> {
    let (rig, mut probe) = start("kinds-meaning")?;
    for (family, address, outcome) in [
        // No Connector has port 0.
        ("v4", "198.51.100.7:0", "ENETUNREACH"),
        // This host: nothing listens there.
        ("v4", "0.0.0.0:80", "ECONNREFUSED"),
        ("v6", "[::]:80", "ECONNREFUSED"),
        ("v4", "255.255.255.255:80", "ENETUNREACH"),
        ("v4", "224.0.0.1:80", "ENETUNREACH"),
        ("v6", "[fe80::7%1]:80", "ENETUNREACH"),
    ] {
        probe.play(&[
            &format!("socket a {family} stream"),
            &format!("connect a {address} -> {outcome}"),
        ])?;
    }
    let all = Stats {
        connects: 6,
        untouched: 6,
        ..Stats::default()
    };
    counted(&rig, &all)
}

#[test]
fn a_link_local_address_is_redirected_whatever_its_scope() -> Result<()> {
    let (mut rig, mut probe) = start("kinds-link-local")?;
    rig.redirect(&["fe80::7"], 0)?;
    probe.play(&[
        "socket a v6 stream",
        "connect a [fe80::7%1]:80",
        "exchange a -> [fe80::7]:80",
        // The scope is that of the connection.
        "peer a -> [fe80::7]:80",
    ])?;
    counted(&rig, &all_redirected(1))
}

#[test]
fn other_protocols_are_not_looked_at() -> Result<()> {
    let (rig, mut probe) = start("kinds-others")?;
    let path = std::env::temp_dir().join(format!("postern-test-{}", rig.cgroup.id()));
    let path = path.display().to_string();
    let mut server = Probe::start(&rig.sandbox, None)?;
    server.play(&[
        "socket s unix stream",
        &format!("bind s {path}"),
        "listen s",
    ])?;
    let unix = probe.play(&["socket a unix stream", &format!("connect a {path}")]);
    std::fs::remove_file(&path)?;
    unix?;
    for (socket, connect) in [
        ("v4 stream sctp", "198.51.100.7:80"),
        ("v4 dgram icmp", "198.51.100.7:80"),
        ("v4 raw icmp", "198.51.100.7:80"),
        ("vsock stream", "cid:1"),
    ] {
        // What the kernel does not have, nobody connects with; this network leads nowhere.
        let made = probe.ask(&format!("socket a {socket}"))?;
        if made == "ok" {
            let outcome = probe.ask(&format!("connect a {connect}"))?;
            ensure!(outcome != "ok", "{socket}");
        } else {
            ensure!(
                ["EPROTONOSUPPORT", "EAFNOSUPPORT", "EACCES"].contains(&made.as_str()),
                "{socket}: {made}"
            );
        }
    }
    counted(&rig, &Stats::default())
}

#[test]
fn without_ipv6_in_the_network_ipv4_is_redirected() -> Result<()> {
    let mut rig = Rig::tree("kinds-no-ipv6", &[0], GRACE_NS)?;
    inside(&rig, "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")?;
    let path = rig.cgroup.path().to_owned();
    rig.serve(&path, POLICY)?;
    ensure!(rig.first()?.ports.1 == 0, "no listener of IPv6");
    rig.redirect(&[V4, V6], 0)?;
    let mut probe = Probe::start(&rig.sandbox, Some(&path))?;
    let refusal = format!("connect a [2001:db8::7]:80 -> {}", refused());
    let mapped = format!("connect a {MAPPED}");
    probe.play(&["socket a v6 stream", &refusal, &mapped])?;
    redirected(&rig, &mut probe, "a", MAPPED)?;
    let all = Stats {
        connects: 2,
        refused_sock: 1,
        ..all_redirected(1)
    };
    counted(&rig, &all)
}

/// The listener cannot be reached, and nothing else is. Who waits gets there in the end.
#[test]
fn a_loopback_interface_that_is_down_lets_nothing_out() -> Result<()> {
    let (rig, mut probe) = start("kinds-lo-down")?;
    inside(&rig, "ip link set lo down")?;
    probe.play(&[
        "socket a v4 stream",
        "set a nonblocking",
        "connect a 198.51.100.7:80 -> EINPROGRESS",
        "socket b v6 stream",
        "connect b [2001:db8::7]:80 -> E*",
    ])?;
    ensure!(rig.seen().is_empty());
    inside(&rig, "ip link set lo up")?;
    probe.play(&["wait a", "peer a -> 198.51.100.7:80"])?;
    let stats = rig.stats()?;
    ensure!(stats.redirected == 2 && stats.connects == 2, "{stats}");
    Ok(())
}
