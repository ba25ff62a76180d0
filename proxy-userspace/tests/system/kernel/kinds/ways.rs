//! Other ways to connect, and other processes and threads that use the socket.

use std::fs;

use anyhow::{Result, bail, ensure};

use super::{all_redirected, counted, redirected, start};
use crate::kernel::rig::{Rig, eventually};

#[test]
fn tcp_fast_open() -> Result<()> {
    let (rig, mut probe) = start("kinds-fastopen")?;
    probe.play(&[
        "socket a v4 stream",
        "set a fastopen",
        // Nothing is sent before there is something to send.
        "connect a 198.51.100.7:80",
    ])?;
    redirected(&rig, &mut probe, "a", "198.51.100.7:80")?;
    probe.play(&[
        "socket b v4 stream",
        "fastopen b 198.51.100.7:8080 hello",
        "peer b -> 198.51.100.7:8080",
        "read b -> 198.51.100.7:8080",
        "socket c v6 stream",
        "fastopen c [2001:db8::7]:80 hello",
        "peer c -> [2001:db8::7]:80",
        "read c -> [2001:db8::7]:80",
    ])?;
    counted(&rig, &all_redirected(3))
}

/// The programs see the first of its subflows.
#[test]
fn multipath_tcp() -> Result<()> {
    let (rig, mut probe) = start("kinds-mptcp")?;
    let made = probe.ask("socket a v4 stream mptcp")?;
    if made != "ok" {
        // Not built in: then there is no switch either.
        ensure!(made == "EPROTONOSUPPORT" && !fs::exists("/proc/sys/net/mptcp/enabled")?);
        return Ok(());
    }
    probe.play(&["connect a 198.51.100.7:80", "exchange a -> 198.51.100.7:80"])?;
    let seen = rig.seen();
    ensure!(
        seen.len() == 1 && seen[0].workload == rig.cgroup.id(),
        "{seen:?}"
    );
    // Its own address is of the connection, which remembers nothing: the listener shows.
    let (port, _) = rig.first()?.ports;
    let peer = probe.ask("peer a")?;
    ensure!(peer == format!("127.0.0.1:{port}"), "{peer}");
    counted(&rig, &all_redirected(1))
}

#[test]
fn io_uring() -> Result<()> {
    let (rig, mut probe) = start("kinds-uring")?;
    let mut connects = 0;
    // The second is made by a worker thread of the kernel.
    for step in ["uring", "uring-async"] {
        probe.play(&["socket a v4 stream"])?;
        match probe.ask(&format!("{step} a 198.51.100.7:80"))?.as_str() {
            "ok" => {
                redirected(&rig, &mut probe, "a", "198.51.100.7:80")?;
                connects += 1;
            }
            // Switched off on this machine: nobody connects this way.
            "EPERM" => {
                let switch = fs::read_to_string("/proc/sys/kernel/io_uring_disabled")?;
                ensure!(switch.trim() != "0", "{switch}");
            }
            // Built without it: then there is no switch either.
            "ENOSYS" => ensure!(!fs::exists("/proc/sys/kernel/io_uring_disabled")?),
            other => bail!("{step}: {other}"),
        }
    }
    counted(&rig, &all_redirected(connects))
}

#[test]
fn a_second_thread_and_a_child() -> Result<()> {
    let (rig, mut probe) = start("kinds-thread")?;
    probe.play(&[
        "thread socket a v4 stream",
        "thread connect a 198.51.100.7:80",
    ])?;
    redirected(&rig, &mut probe, "a", "198.51.100.7:80")?;
    probe.play(&[
        "child socket a v4 stream; connect a 198.51.100.7:80; peer a; exchange a \
         -> ok; ok; 198.51.100.7:80; 198.51.100.7:80",
    ])?;
    let seen = rig.seen();
    ensure!(
        seen.len() == 1 && seen[0].workload == rig.cgroup.id(),
        "{seen:?}"
    );
    probe.play(&[
        // A socket that is not closed on exec: made here, connected there, and used here.
        "socket b v4 stream",
        "heir b inherit it; connect it 198.51.100.7:8080; peer it -> ok; ok; 198.51.100.7:8080",
    ])?;
    redirected(&rig, &mut probe, "b", "198.51.100.7:8080")?;
    counted(&rig, &all_redirected(3))
}

#[test]
fn a_copy_of_the_descriptor() -> Result<()> {
    let (rig, mut probe) = start("kinds-dup")?;
    probe.play(&[
        "socket a v4 stream",
        "dup a b",
        "connect b 198.51.100.7:80",
        "close b",
    ])?;
    redirected(&rig, &mut probe, "a", "198.51.100.7:80")?;
    counted(&rig, &all_redirected(1))
}

#[test]
fn every_end_of_a_connection_removes_its_flow() -> Result<()> {
    let (rig, mut probe) = start("kinds-ends")?;
    let connect = ["socket a v4 stream", "connect a 198.51.100.7:80"];
    probe.play(&connect)?;
    ensure!(rig.flows_of(rig.cgroup.id())?.len() == 1);
    // Half of it goes on.
    probe.play(&["send a hello", "half-close a", "read a -> 198.51.100.7:80"])?;
    probe.play(&["close a"])?;
    ensure!(no_flows(&rig)?, "closed");
    probe.play(&connect)?;
    probe.play(&["set a reset", "close a"])?;
    ensure!(no_flows(&rig)?, "reset");
    probe.play(&connect)?;
    probe.play(&["unconnect a"])?;
    ensure!(no_flows(&rig)?, "disconnected");
    probe.play(&connect)?;
    drop(probe);
    ensure!(no_flows(&rig)?, "killed");
    counted(&rig, &all_redirected(4))
}

/// Whether there come to be no flows: the listener may have to do its part first.
fn no_flows(rig: &Rig) -> Result<bool> {
    eventually(|| Ok(rig.flows_of(rig.cgroup.id())?.is_empty()))
}
