//! Workloads learn from the name servers that they asked, and from nobody else.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::{Result, ensure};
use postern::datapath::map_address;

use super::{
    name_server::{address, question, reply},
    packets::{HOST, PORT, World, answer, hex},
    rig::POLICY,
};

/// Name servers of the network, and somebody who only says to be one.
const SERVER: &str = "127.0.0.53:53";
const THIRD: &str = "127.0.0.66:53";
/// Where the workload's socket is.
const HERE: &str = "127.0.0.1:5300";

/// What an answer brings about: whether it arrives, whether nobody asked for it, and how many
/// addresses it teaches.
type Outcome = [u64; 3];
const LEARNED: Outcome = [1, 0, 1];
const UNASKED: Outcome = [1, 1, 0];
const LOST: Outcome = [0, 0, 0];

/// The workload's socket, which has asked nobody.
fn start(name: &str) -> Result<World> {
    let mut world = World::new(name)?;
    world
        .workload
        .play(&["socket d v4 dgram", &format!("bind d {HERE}")])?;
    Ok(world)
}

/// Has a server send an answer with another address each time, and waits for what it brings
/// about.
fn answers(world: &mut World, server: &str, to: &str, outcome: Outcome) -> Result<()> {
    let n = u32::try_from(world.expected.answers)?;
    says(world, server, to, &answer(n)?, outcome)
}

fn says(
    world: &mut World,
    server: &str,
    to: &str,
    message: &[u8],
    [arrived, unasked, learned]: Outcome,
) -> Result<()> {
    let server: SocketAddr = server.parse()?;
    let family = if server.is_ipv4() { "v4" } else { "v6" };
    world.expected.arrived += arrived;
    world.expected.answers += arrived;
    world.expected.unasked += unasked;
    world.expected.learned += learned;
    world.sender.play(&[
        &format!("socket s {family} dgram"),
        &format!("bind s {server}"),
        &format!("packet s {to} {}", hex(message)?),
        "close s",
    ])?;
    world.settles()
}

#[test]
fn third_parties_teach_nothing() -> Result<()> {
    let mut world = start("asked-third")?;
    answers(&mut world, SERVER, HERE, UNASKED)?;
    world
        .workload
        .play(&[&format!("sendto d {SERVER} query")])?;
    answers(&mut world, SERVER, HERE, LEARNED)?;
    answers(&mut world, THIRD, HERE, UNASKED)?;
    answers(&mut world, SERVER, HERE, LEARNED)?;
    // To ask a server something else is not to ask it for a name.
    world.workload.play(&["sendto d 127.0.0.66:5353 query"])?;
    answers(&mut world, THIRD, HERE, UNASKED)?;
    // What one socket asked counts for no other.
    world
        .workload
        .play(&["close d", "socket d v4 dgram", &format!("bind d {HERE}")])?;
    answers(&mut world, SERVER, HERE, UNASKED)
}

#[test]
fn a_connected_socket_learns_from_its_peer() -> Result<()> {
    let mut world = start("asked-connected")?;
    world.workload.play(&[&format!("connect d {SERVER}")])?;
    answers(&mut world, SERVER, HERE, LEARNED)?;
    // The kernel has no socket for it, and none for whom the socket asks besides.
    answers(&mut world, THIRD, HERE, LOST)?;
    world.workload.play(&[&format!("sendto d {THIRD} query")])?;
    answers(&mut world, THIRD, HERE, LOST)?;
    answers(&mut world, SERVER, HERE, LEARNED)?;
    // No longer connected, it has asked the one that it sent something to.
    world
        .workload
        .play(&["unconnect d", &format!("local d -> {HERE}")])?;
    answers(&mut world, THIRD, HERE, LEARNED)?;
    answers(&mut world, SERVER, HERE, UNASKED)
}

#[test]
fn the_last_four_servers_are_known() -> Result<()> {
    let mut world = start("asked-four")?;
    let server = |n: u8| SocketAddr::from((Ipv4Addr::new(127, 0, 1, n), 53)).to_string();
    for n in 1..=5 {
        world
            .workload
            .play(&[&format!("sendto d {} query", server(n))])?;
    }
    answers(&mut world, &server(1), HERE, UNASKED)?;
    for n in 2..=5 {
        answers(&mut world, &server(n), HERE, LEARNED)?;
    }
    // Who is asked again takes the place of nobody.
    for n in [3, 5, 2, 4, 3] {
        world
            .workload
            .play(&[&format!("sendto d {} query", server(n))])?;
    }
    for n in 2..=5 {
        answers(&mut world, &server(n), HERE, LEARNED)?;
    }
    Ok(())
}

#[test]
fn servers_of_either_family_are_known() -> Result<()> {
    let mut world = World::new("asked-families")?;
    let to_v6 = format!("[::1]:{PORT}");
    world.workload.play(&[
        "socket d v6 dgram",
        &format!("bind d [::]:{PORT}"),
        "sendto d [::ffff:127.0.0.53]:53 query",
    ])?;
    answers(&mut world, SERVER, HERE, LEARNED)?;
    answers(&mut world, THIRD, HERE, UNASKED)?;
    answers(&mut world, "[::1]:53", &to_v6, UNASKED)?;
    world.workload.play(&["sendto d [::1]:53 query"])?;
    answers(&mut world, "[::1]:53", &to_v6, LEARNED)?;
    answers(&mut world, SERVER, HERE, LEARNED)
}

/// Its resolver asks anew after a while, and the agent resolves the names as well.
#[test]
fn what_was_asked_before_the_programs_came_is_not_known() -> Result<()> {
    let mut world = start("asked-before")?;
    let (id, path) = (world.rig.cgroup.id(), world.rig.cgroup.path().to_owned());
    let ask = format!("sendto d {SERVER} query");
    world.rig.datapath.withdraw(id)?;
    world.workload.play(&[&ask])?;
    world.rig.serve(&path, POLICY)?;
    world.rig.datapath.learn(id, &path)?;
    answers(&mut world, SERVER, HERE, UNASKED)?;
    world.workload.play(&[&ask])?;
    answers(&mut world, SERVER, HERE, LEARNED)
}

#[test]
fn addresses_of_no_host_are_not_learned() -> Result<()> {
    let mut world = start("asked-no-host")?;
    world.workload.play(&[&format!("connect d {SERVER}")])?;
    let mut all = Vec::new();
    for ip in [
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "ff02::1",
        "::ffff:0.0.0.0",
        "::ffff:239.1.2.3",
        "::ffff:255.255.255.255",
        "198.51.100.9",
        "2001:db8::9",
        "127.0.0.9",
    ] {
        all.push(ip.parse::<IpAddr>()?);
    }
    let records: Vec<_> = all.iter().map(|ip| address(HOST, *ip)).collect();
    let message = reply(&question(HOST)?, &records);
    says(&mut world, SERVER, HERE, &message, [1, 0, 3])?;
    let expected: BTreeSet<_> = all[8..].iter().map(|ip| map_address(*ip)).collect();
    ensure!(world.learned()? == expected);
    Ok(())
}
