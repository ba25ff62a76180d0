//! Sockets that are bound before they connect, to addresses, ports and devices.

use anyhow::{Result, ensure};
use proxy_common::maps::Stats;

use super::{MAPPED, all_redirected, counted, redirected, start};
use crate::{
    kernel::rig::{ADDRESS, refused},
    support::ok,
};

#[test]
fn a_bound_address_and_port_stay() -> Result<()> {
    let (rig, mut probe) = start("kinds-bound")?;
    for (family, bound, dialled, source) in [
        ("v4", "192.0.2.1:0", "198.51.100.7:80", "192.0.2.1:"),
        ("v4", "192.0.2.1:5101", "198.51.100.7:80", "192.0.2.1:5101"),
        ("v4", "0.0.0.0:5102", "198.51.100.7:80", "127.0.0.1:5102"),
        ("v4", "127.0.0.1:5103", "198.51.100.7:80", "127.0.0.1:5103"),
        ("v4", "127.1.2.3:0", "198.51.100.7:80", "127.1.2.3:"),
        ("v6", "[::]:5104", "[2001:db8::7]:80", "[::1]:5104"),
        ("v6", "[::]:5105", MAPPED, "127.0.0.1:5105"),
        ("v6", "[::1]:0", "[2001:db8::7]:80", "[::1]:"),
        ("v6", "[::ffff:192.0.2.1]:0", MAPPED, "192.0.2.1:"),
    ] {
        probe.play(&[
            &format!("socket a {family} stream"),
            &format!("bind a {bound}"),
            &format!("connect a {dialled}"),
        ])?;
        let local = redirected(&rig, &mut probe, "a", dialled)?.to_string();
        ensure!(local.starts_with(source), "{bound}: {local}");
    }
    counted(&rig, &all_redirected(9))
}

#[test]
fn a_port_that_is_chosen_late_is_the_one_of_the_flow() -> Result<()> {
    let (rig, mut probe) = start("kinds-late-port")?;
    probe.play(&[
        "socket a v4 stream",
        "set a late-port",
        &format!("bind a {ADDRESS}:0"),
        &format!("local a -> {ADDRESS}:0"),
        "connect a 198.51.100.7:80",
    ])?;
    let local = redirected(&rig, &mut probe, "a", "198.51.100.7:80")?;
    ensure!(local.port() != 0);
    counted(&rig, &all_redirected(1))
}

#[test]
fn a_mark_is_left_alone() -> Result<()> {
    let (rig, mut probe) = start("kinds-mark")?;
    probe.play(&[
        "socket a v4 stream",
        "set a mark 1337",
        "connect a 198.51.100.7:80",
    ])?;
    redirected(&rig, &mut probe, "a", "198.51.100.7:80")?;
    counted(&rig, &all_redirected(1))
}

/// It would not fail on loopback, it would hang.
#[test]
fn a_socket_bound_to_a_device_is_refused() -> Result<()> {
    let (rig, mut probe) = start("kinds-device")?;
    let commands = "ip link add pt0 type veth peer name pt1 && ip link set pt0 up && \
                    ip address add fe80::1/64 dev lo nodad";
    let mut shell = rig.sandbox.command("sh");
    shell.args(["-c", commands]);
    ok(shell)?;
    let refused = refused();
    for device in ["pt0", "lo"] {
        probe.play(&[
            "socket a v4 stream",
            &format!("set a device {device}"),
            &format!("connect a 198.51.100.7:80 -> {refused}"),
            "socket a v6 stream",
            &format!("set a device {device}"),
            &format!("connect a [2001:db8::7]:80 -> {refused}"),
        ])?;
    }
    // A link-local address is one of a device.
    probe.play(&[
        "socket a v6 stream",
        "bind a [fe80::1%1]:0",
        &format!("connect a [2001:db8::7]:80 -> {refused}"),
        // What nobody wants is not refused: nothing listens there.
        "socket a v4 stream",
        "set a device lo",
        "connect a 127.0.0.1:9 -> ECONNREFUSED",
    ])?;
    let all = Stats {
        connects: 6,
        untouched: 1,
        refused_sock: 5,
        ..Stats::default()
    };
    counted(&rig, &all)
}

/// A source that the network does not have, for who may use such: nothing comes back to it.
#[test]
fn a_source_from_elsewhere_gets_no_answer() -> Result<()> {
    let (rig, mut probe) = start("kinds-transparent")?;
    for option in ["freebind", "transparent"] {
        probe.play(&[
            "socket a v4 stream",
            &format!("set a {option}"),
            "set a nonblocking",
            "bind a 203.0.113.9:0",
        ])?;
        let outcome = probe.ask("connect a 198.51.100.7:80")?;
        let expected: &[_] = match option {
            // There is no way from there; kernels call it differently.
            "freebind" => &["ENETUNREACH", "EINVAL"],
            // On its way, and so is what the listener answers.
            _ => &["EINPROGRESS"],
        };
        ensure!(expected.contains(&outcome.as_str()), "{option}: {outcome}");
        ensure!(rig.seen().is_empty(), "{option}");
    }
    let stats = rig.stats()?;
    ensure!(stats.connects == 2 && stats.redirected == 2, "{stats}");
    Ok(())
}
