//! Workloads that use up what there is, and who suffers: they themselves.

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, MapData};
use postern::telemetry::Counters;
use proxy_common::maps::{
    FLOWS_PER_WORKLOAD, FlowCount, FlowKey, MAX_FLOWS, Origin, Stats, WorkloadKey,
};

use super::{
    probe::Probe,
    rig::{ADDRESS, CONNECTOR, GRACE_NS, POLICY, Rig, eventually},
};

/// A workload that floods and one that does not, with a process of each.
struct World {
    rig: Rig,
    loud: u64,
    calm: u64,
    flooder: Probe,
    bystander: Probe,
}

impl World {
    fn new(name: &str) -> Result<Self> {
        let mut rig = Rig::tree(name, &[1], GRACE_NS)?;
        rig.redirect(&["198.51.100.7"], 0)?;
        let (loud, calm) = (rig.below("loud")?, rig.below("calm")?);
        Ok(Self {
            flooder: Probe::start(&rig.sandbox, Some(&loud))?,
            bystander: Probe::start(&rig.sandbox, Some(&calm))?,
            loud: rig.serve(&loud, POLICY)?,
            calm: rig.serve(&calm, POLICY)?,
            rig,
        })
    }

    fn limit(&self) -> Result<Array<MapData, i64>> {
        Ok(self.rig.map("FLOW_LIMIT")?.try_into()?)
    }

    /// The other workload connects and is served.
    fn bystander_is_served(&mut self) -> Result<()> {
        self.bystander.play(&[
            "socket a v4 stream",
            "connect a 198.51.100.7:80",
            "exchange a -> 198.51.100.7:80",
            "close a",
        ])
    }
}

/// Open connections of a workload, as the kernel counts them.
fn open(rig: &Rig, cgroup_id: u64) -> Result<i64> {
    let counts: HashMap<MapData, WorkloadKey, FlowCount> = rig.map("FLOW_COUNTS")?.try_into()?;
    Ok(counts.get(&WorkloadKey { cgroup_id }, 0)?.open)
}

/// A made-up flow.
fn flow(workload: u64, n: usize) -> Result<(FlowKey, Origin)> {
    let mut addr = [0; 16];
    addr[10..].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
    addr[..8].copy_from_slice(&(n as u64 / 65_536).to_be_bytes());
    let key = FlowKey {
        workload,
        addr,
        port: u16::try_from(n % 65_536)?,
        via_port: 1,
        pad: [0; 2],
    };
    let origin = Origin {
        workload,
        addr,
        connector: CONNECTOR,
        port: 80,
        via_port: 1,
    };
    Ok((key, origin))
}

#[test]
fn who_abandons_connections_uses_up_its_own_share() -> Result<()> {
    const SHARE: i64 = 50;
    // The backlog has room for them.
    const FLOOD: i64 = 150;
    let mut world = World::new("flood-connects")?;
    let share = world.limit()?.get(&0, 0)?;
    ensure!(share == i64::try_from(FLOWS_PER_WORKLOAD)?, "{share}");
    // So that a small machine can fill it.
    world.limit()?.set(0, SHARE, 0)?;

    let flood = format!("flood 198.51.100.7:80 {FLOOD}");
    world.flooder.play(&[&flood])?;
    ensure!(open(&world.rig, world.loud)? == SHARE);
    let published = i64::try_from(world.rig.flows_of(world.loud)?.len())?;
    ensure!(published == SHARE, "{published}");
    let stats = world.rig.stats()?;
    let lost = u64::try_from(FLOOD - SHARE)?;
    let expected = Stats {
        connects: u64::try_from(FLOOD)?,
        redirected: u64::try_from(FLOOD)?,
        flows: u64::try_from(SHARE)?,
        flows_lost: lost,
        ..Stats::default()
    };
    ensure!(stats == expected, "{stats}");

    // The listener resets what is too much, of this workload alone.
    for _ in 0..10 {
        world.bystander_is_served()?;
    }
    ensure!(eventually(|| Ok(open(&world.rig, world.calm)? == 0))?);
    let too_many = [
        "socket late v4 stream",
        // The reset may be there before connect() is back.
        "connect late 198.51.100.7:80 -> *",
        "exchange late -> E*",
    ];
    world.flooder.play(&too_many)?;
    let reset = || Counters::read(&world.rig.counters.unknown_flows);
    ensure!(eventually(|| Ok(reset() == lost + 1))?, "{}", reset());

    // What is closed makes room.
    world.flooder.play(&[
        "set flood-0 reset",
        "close flood-0",
        "socket next v4 stream",
        "connect next 198.51.100.7:80",
        "exchange next -> 198.51.100.7:80",
    ])?;
    drop(world.flooder);
    // The listener closes its ends as well.
    ensure!(eventually(|| Ok(world
        .rig
        .flows_of(world.loud)?
        .is_empty()))?);
    // An entry goes before it is counted.
    ensure!(eventually(|| Ok(open(&world.rig, world.loud)? == 0))?);
    Ok(())
}

/// It takes more workloads than a node has, each with its whole share.
#[test]
fn a_full_map_resets_new_connections_and_no_others() -> Result<()> {
    let mut world = World::new("flood-map")?;
    world
        .bystander
        .play(&["socket before v4 stream", "connect before 198.51.100.7:80"])?;
    let mut flows = world.rig.flows()?;
    for n in 1..MAX_FLOWS {
        let (key, origin) = flow(u64::MAX, n)?;
        flows.insert(key, origin, 0)?;
    }
    let (key, origin) = flow(u64::MAX, MAX_FLOWS)?;
    let full = flows.insert(key, origin, 0).err();
    full.context("there is room for more")?;

    world.bystander.play(&[
        "socket a v4 stream",
        // The reset may be there before connect() is back.
        "connect a 198.51.100.7:80 -> *",
        "exchange a -> E*",
        // Nobody's flow gave way.
        "exchange before -> 198.51.100.7:80",
        "close before",
    ])?;
    let stats = world.rig.stats()?;
    ensure!(stats.flows == 1 && stats.flows_lost == 1, "{stats}");
    world.bystander_is_served()?;
    ensure!(eventually(|| Ok(open(&world.rig, world.calm)? == 0))?);
    Ok(())
}

#[test]
fn who_comes_back_starts_anew() -> Result<()> {
    let mut world = World::new("flood-anew")?;
    let connect = ["socket a v4 stream", "connect a 198.51.100.7:80"];
    world.flooder.play(&connect)?;
    ensure!(open(&world.rig, world.loud)? == 1);
    world.rig.datapath.withdraw(world.loud)?;
    // It is uncounted, and so is its end.
    world
        .flooder
        .play(&["exchange a -> 198.51.100.7:80", "close a"])?;
    ensure!(eventually(|| Ok(world
        .rig
        .flows_of(world.loud)?
        .is_empty()))?);
    let path = world.rig.below("loud")?;
    world.rig.serve(&path, POLICY)?;
    ensure!(open(&world.rig, world.loud)? == 0);
    world.flooder.play(&connect)?;
    ensure!(open(&world.rig, world.loud)? == 1);
    // Enrolled anew, as after a change of its grants: what is open still counts.
    world.rig.serve(&path, POLICY)?;
    ensure!(open(&world.rig, world.loud)? == 1);
    Ok(())
}

#[test]
fn who_dials_a_listener_is_reset_and_strangers_cannot() -> Result<()> {
    let mut world = World::new("flood-listener")?;
    let (v4, v6) = world.rig.first()?.ports;
    let mut neighbour = Probe::start(&world.rig.sandbox, None)?;
    let mut resets = 0;
    // The workload itself, another one, and a process that is none, all in its network.
    for probe in [&mut world.flooder, &mut world.bystander, &mut neighbour] {
        for (family, address) in [
            ("v4", format!("127.0.0.1:{v4}")),
            ("v6", format!("[::1]:{v6}")),
            ("v6", format!("[::ffff:127.0.0.1]:{v4}")),
        ] {
            probe.play(&[
                &format!("socket a {family} stream"),
                // The reset may be there before connect() is back.
                &format!("connect a {address} -> *"),
                "exchange a -> E*",
            ])?;
            resets += 1;
        }
        // Not at an address that others can reach.
        probe.play(&[
            "socket a v4 stream",
            &format!("connect a {ADDRESS}:{v4} -> ECONNREFUSED"),
        ])?;
    }
    ensure!(Counters::read(&world.rig.counters.unknown_flows) == resets);
    ensure!(Counters::read(&world.rig.counters.accepted) == 0);
    let stats = world.rig.stats()?;
    ensure!(stats.connects == 8 && stats.untouched == 8, "{stats}");
    Ok(())
}
