//! Sockets and processes of different cgroups. The kernel runs the programs of the cgroup that
//! the *socket* was made in; they look at the cgroup of the process that *calls*.

use anyhow::{Result, ensure};
use postern::telemetry::Counters;
use proxy_common::maps::{Stats, Workload};

use super::{V4, all_redirected, counted, redirected, start};
use crate::kernel::{
    probe::Probe,
    rig::{GRACE_NS, POLICY, Rig, id, wanted},
};

#[test]
fn a_socket_older_than_the_membership_is_not_seen() -> Result<()> {
    let (rig, _) = start("kinds-before")?;
    let mut probe = Probe::start(&rig.sandbox, None)?;
    probe.play(&[
        "socket old v4 stream",
        &format!("join {}", rig.cgroup.path().display()),
        // No program runs: there is no route.
        "connect old 198.51.100.7:80 -> ENETUNREACH",
    ])?;
    counted(&rig, &Stats::default())?;
    probe.play(&["socket new v4 stream", "connect new 198.51.100.7:80"])?;
    redirected(&rig, &mut probe, "new", "198.51.100.7:80")?;
    counted(&rig, &all_redirected(1))
}

#[test]
fn a_process_that_left_is_no_workload() -> Result<()> {
    let (rig, mut probe) = start("kinds-after")?;
    let outside = rig.cgroup.path().join("..");
    probe.play(&[
        "socket a v4 stream",
        &format!("join {}", outside.display()),
        // The programs run, and find nobody.
        "connect a 198.51.100.7:80 -> ENETUNREACH",
    ])?;
    counted(&rig, &Stats::default())
}

/// Two workloads, both granted; the second has the listener's port of the first in its entry, as
/// it can happen by chance in network namespaces of their own.
fn two(name: &str) -> Result<(Rig, [Probe; 2])> {
    const SECOND: u32 = POLICY + 1;
    let mut rig = Rig::tree(name, &[1], GRACE_NS)?;
    let (a, b) = (rig.below("a")?, rig.below("b")?);
    rig.serve(&a, POLICY)?;
    let (port_v4, port_v6) = rig.first()?.ports;
    let entry = Workload {
        policy: SECOND,
        port_v4,
        port_v6,
        flags: 0,
        pad: 0,
    };
    rig.datapath.enrol(id(&b)?, entry)?;
    let mut both = wanted(POLICY, &[V4], &[80], 0)?;
    both.extend(wanted(SECOND, &[V4], &[80], 0)?);
    rig.datapath.set_destinations(&both)?;
    let probes = [
        Probe::start(&rig.sandbox, Some(&a))?,
        Probe::start(&rig.sandbox, Some(&b))?,
    ];
    Ok((rig, probes))
}

/// Hands a socket of one process to another.
fn hand_over(rig: &Rig, from: &mut Probe, to: &mut Probe, socket: &str) -> Result<()> {
    let path = std::env::temp_dir().join(format!("postern-test-{}", rig.cgroup.id()));
    let path = path.display();
    to.play(&["socket channel unix dgram", &format!("bind channel {path}")])?;
    from.play(&[
        "socket channel unix dgram",
        &format!("connect channel {path}"),
        &format!("pass {socket} channel"),
    ])?;
    let received = to.play(&[&format!("receive {socket} channel")]);
    std::fs::remove_file(path.to_string())?;
    received
}

#[test]
fn a_socket_from_another_workload_connects_for_who_calls() -> Result<()> {
    let (rig, [mut a, mut b]) = two("kinds-passed")?;
    a.play(&["socket s v4 stream"])?;
    hand_over(&rig, &mut a, &mut b, "s")?;
    // At the listener of the first, as the second: nobody's flow.
    b.play(&["connect s 198.51.100.7:80", "exchange s -> ECONNRESET"])?;
    ensure!(rig.seen().is_empty());
    ensure!(Counters::read(&rig.counters.unknown_flows) == 1);
    counted(&rig, &all_redirected(1))
}

#[test]
fn a_connection_from_another_workload_stays_its_own() -> Result<()> {
    let (rig, [mut a, mut b]) = two("kinds-passed-open")?;
    a.play(&["socket s v4 stream", "connect s 198.51.100.7:80"])?;
    hand_over(&rig, &mut a, &mut b, "s")?;
    b.play(&["peer s -> 198.51.100.7:80", "exchange s -> 198.51.100.7:80"])?;
    let seen = rig.seen();
    let owner = id(&rig.below("a")?)?;
    ensure!(seen.len() == 1 && seen[0].workload == owner, "{seen:?}");
    counted(&rig, &all_redirected(1))
}
