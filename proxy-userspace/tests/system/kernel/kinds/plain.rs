//! Sockets as most programs make them.

use anyhow::{Result, ensure};
use proxy_common::maps::{CREDENTIAL_REFUSE, CREDENTIAL_USABLE, Stats};

use super::{MAPPED, all_redirected, counted, redirected, start};
use crate::kernel::rig::refused;

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
    let refusal = format!("connect b 198.51.100.7:80 -> {}", refused());
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
