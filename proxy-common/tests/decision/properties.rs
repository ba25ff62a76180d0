//! What holds in every world.

use proptest::prelude::*;
use proxy_common::{
    decision::{Reason, Verdict},
    maps::{
        CREDENTIAL_USABLE, Credential, Destination, DestinationKey, HostnameKey, Learned,
        LearnedKey, POLICY_ANY, Workload,
    },
};

use crate::world::{CGROUP, LISTENER_V4, LISTENER_V6, NOW, V4, V6, World};

/// Few enough that things are about each other.
fn an_address() -> impl Strategy<Value = [u8; 16]> {
    let mut loopback = V4;
    loopback[12..].copy_from_slice(&[127, 0, 0, 1]);
    prop_oneof![Just(V4), Just(V6), Just(loopback), Just([0; 16])]
}

fn a_port() -> impl Strategy<Value = u16> {
    prop::sample::select(&[0, 53, 80, 443, LISTENER_V4, LISTENER_V6][..])
}

fn a_policy() -> impl Strategy<Value = u32> {
    prop::sample::select(&[0, 1, POLICY_ANY][..])
}

/// Times around now, and its ends.
fn a_time() -> impl Strategy<Value = u64> {
    prop::sample::select(&[0, 1, NOW - 1, NOW, NOW + 1, u64::MAX][..])
}

prop_compose! {
    fn a_destination()(
        connector in 0..4u32,
        flags in 0..2u32,
    ) -> Destination {
        Destination { connector, flags }
    }
}

prop_compose! {
    fn a_workload()(
        policy in a_policy(),
        port_v4 in prop::sample::select(&[0, LISTENER_V4][..]),
        port_v6 in prop::sample::select(&[0, LISTENER_V6][..]),
        flags in 0..4u32,
    ) -> Workload {
        Workload { policy, port_v4, port_v6, flags, pad: 0 }
    }
}

prop_compose! {
    fn a_credential()(state in 0..5u32, not_after_ns in a_time()) -> Credential {
        Credential { generation: 1, revision: 1, not_after_ns, state, flags: 0 }
    }
}

prop_compose! {
    fn a_world()(
        levels in prop::array::uniform8(0..6u8),
        heartbeat_ns in a_time(),
        grace_ns in a_time(),
        cgroups in prop::collection::vec(prop::sample::select(&[0, 2, CGROUP][..]), 0..6),
        workloads in prop::collection::hash_map(
            prop::sample::select(&[2, CGROUP][..]), a_workload(), 0..3),
        destinations in prop::collection::vec(
            (a_policy(), an_address(), a_port(), a_destination()), 0..16),
        hostnames in prop::collection::vec(
            (1..4u64, a_policy(), a_port(), a_destination()), 0..16),
        learned in prop::collection::vec(
            (an_address(), prop::array::uniform4(0..4u64)), 0..4),
        credentials in prop::collection::hash_map(0..4u32, a_credential(), 0..4),
        bound_to_device in any::<bool>(),
    ) -> World {
        let mut world = World::new();
        let config = world.settings();
        config.levels = levels;
        config.heartbeat_ns = heartbeat_ns;
        config.grace_ns = grace_ns;
        world.cgroups = cgroups;
        world.workloads = workloads;
        world.destinations = destinations
            .into_iter()
            .map(|(policy, addr, port, value)| {
                (DestinationKey { policy, addr, port, pad: 0 }, value)
            })
            .collect();
        world.hostnames = hostnames
            .into_iter()
            .map(|(name, policy, port, value)| {
                (HostnameKey { name, policy, port, pad: 0 }, value)
            })
            .collect();
        world.learned = learned
            .into_iter()
            .map(|(addr, names)| {
                (LearnedKey { workload: CGROUP, addr }, Learned { names, seen_ns: 0 })
            })
            .collect();
        world.credentials = credentials;
        world.bound_to_device = bound_to_device;
        world
    }
}

/// Entries for an address and port, of whatever policy.
fn entries(world: &World, addr: [u8; 16], port: u16) -> Vec<Destination> {
    let by_address = world.destinations.iter();
    let by_address = by_address.filter(|(key, _)| key.addr == addr && key.port == port);
    let told = world.learned.iter().filter(|(key, _)| key.addr == addr);
    let told: Vec<u64> = told.flat_map(|(_, learned)| learned.names).collect();
    let by_name = world.hostnames.iter();
    let by_name = by_name.filter(|(key, _)| told.contains(&key.name) && key.port == port);
    let all = by_address
        .map(|(_, value)| value)
        .chain(by_name.map(|(_, value)| value));
    all.copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2_000)
    })]

    #[test]
    fn nothing_is_redirected_that_nobody_could_serve(
        world in a_world(),
        addr in an_address(),
        port in a_port(),
    ) {
        let decision = world.tcp(addr, port);
        prop_assert_eq!(decision.via_port != 0, decision.reason == Reason::Redirected);
        if decision.reason.verdict() != Verdict::Redirect {
            return Ok(());
        }
        let caller = decision.caller.expect("a workload");
        prop_assert!(world.cgroups.contains(&caller.cgroup_id));
        prop_assert_eq!(caller.workload, world.workloads[&caller.cgroup_id]);
        prop_assert_eq!(caller.workload.flags & 1, 0, "pending");
        prop_assert!(
            [caller.workload.port_v4, caller.workload.port_v6].contains(&decision.via_port)
        );
        prop_assert!(!world.bound_to_device);
        let config = world.config.expect("there is one");
        prop_assert!(NOW.saturating_sub(config.heartbeat_ns) <= config.grace_ns);
        let wanted = decision.wanted.expect("it is wanted");
        if wanted.connector != 0 {
            let credential = world.credentials[&wanted.connector];
            prop_assert_eq!(credential.state, CREDENTIAL_USABLE);
            prop_assert!(credential.not_after_ns == 0 || NOW <= credential.not_after_ns);
        }
    }

    #[test]
    fn what_no_connector_wants_is_left_alone(
        world in a_world(),
        addr in an_address(),
        port in a_port(),
    ) {
        let entries = entries(&world, addr, port);
        for decision in [world.tcp(addr, port), world.udp(addr, port)] {
            let alone = decision.reason.verdict() == Verdict::LeaveAlone;
            prop_assert!(alone || !entries.is_empty() && port != 0, "{:?}", decision);
            prop_assert!(alone || decision.caller.is_some());
        }
    }

    #[test]
    fn udp_is_never_redirected_and_refused_where_tcp_is_not_left_alone(
        world in a_world(),
        addr in an_address(),
        port in a_port(),
    ) {
        let (tcp, udp) = (world.tcp(addr, port).reason, world.udp(addr, port).reason);
        let expected = match tcp.verdict() {
            _ if port == 53 => Reason::Dns,
            Verdict::LeaveAlone => tcp,
            Verdict::Redirect | Verdict::Refuse => Reason::Udp,
        };
        prop_assert_eq!(udp, expected);
    }

    #[test]
    fn what_is_closed_is_never_left_alone(
        mut world in a_world(),
        addr in an_address(),
        port in a_port(),
    ) {
        // Whatever else fails: but for a Connector that is switched off.
        for destination in world.destinations.values_mut().chain(world.hostnames.values_mut()) {
            destination.flags = 0;
        }
        let decision = world.tcp(addr, port);
        if decision.wanted.is_some() {
            let alone = decision.reason.verdict() == Verdict::LeaveAlone;
            let by_rule = matches!(decision.reason, Reason::SwitchedOff | Reason::Listener);
            prop_assert_eq!(alone, by_rule, "{:?}", decision);
        }
    }
}
