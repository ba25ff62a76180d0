//! Every reason, and what leads to it.

use proxy_common::{
    decision::{Reason, Transport, Verdict, Wanted},
    maps::{
        CREDENTIAL_BYPASS, CREDENTIAL_REFUSE, CREDENTIAL_USABLE, DESTINATION_FAIL_OPEN, POLICY_ANY,
        Stats, WORKLOAD_PENDING,
    },
};

use crate::world::{
    CGROUP, CONNECTOR, LEVEL, LISTENER_V4, LISTENER_V6, NOW, POLICY, PORT, V4, V6, World, wanted,
};

/// An IPv4 address in its v4-mapped form.
const fn mapped(ip: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = ip;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// What becomes of TCP to the address that is wanted once something is changed, and of UDP.
fn reasons(change: impl Fn(&mut World)) -> (Reason, Reason) {
    let mut world = World::new();
    change(&mut world);
    (world.tcp(V4, PORT).reason, world.udp(V4, PORT).reason)
}

#[test]
fn each_reason_has_its_cause() {
    use Reason::{
        BoundToDevice, CredentialExpired, CredentialRefused, CredentialUnknown, NoListener,
        NotEnrolled, Pending, PendingOpen, Redirected, Stale, StaleOpen, SwitchedOff, Udp,
        Unwanted,
    };
    let pending = |world: &mut World| world.entry().flags = WORKLOAD_PENDING;
    let open = |world: &mut World| world.want(V4, CONNECTOR, DESTINATION_FAIL_OPEN);
    let stale = |world: &mut World| world.settings().heartbeat_ns -= 1;

    assert_eq!(reasons(|_| {}), (Redirected, Udp));
    assert_eq!(reasons(|it| it.config = None), (NotEnrolled, NotEnrolled));
    assert_eq!(
        reasons(|it| it.workloads.clear()),
        (NotEnrolled, NotEnrolled)
    );
    assert_eq!(
        reasons(|it| it.settings().levels[0] = 0),
        (NotEnrolled, NotEnrolled)
    );
    assert_eq!(reasons(|it| it.destinations.clear()), (Unwanted, Unwanted));
    assert_eq!(reasons(|it| it.entry().policy += 1), (Unwanted, Unwanted));

    assert_eq!(
        reasons(|it| it.set_credential(CREDENTIAL_BYPASS, 0)),
        (SwitchedOff, SwitchedOff)
    );
    assert_eq!(
        reasons(|it| it.credentials.clear()),
        (CredentialUnknown, Udp)
    );
    for state in [CREDENTIAL_REFUSE, 0, 99] {
        assert_eq!(
            reasons(|it| it.set_credential(state, 0)),
            (CredentialRefused, Udp)
        );
    }
    assert_eq!(
        reasons(|it| it.set_credential(CREDENTIAL_USABLE, NOW - 1)),
        (CredentialExpired, Udp)
    );
    assert_eq!(
        reasons(|it| it.set_credential(CREDENTIAL_USABLE, NOW)),
        (Redirected, Udp)
    );
    // That is the proxy's to judge when there are several.
    assert_eq!(
        reasons(|it| {
            it.credentials.clear();
            it.want(V4, 0, 0);
        }),
        (Redirected, Udp)
    );

    assert_eq!(reasons(stale), (Stale, Udp));
    let ended = |world: &mut World| {
        world.settings().heartbeat_ns = 0;
        world.settings().grace_ns = u64::MAX;
    };
    assert_eq!(reasons(ended), (Stale, Udp));
    assert_eq!(reasons(|it| it.settings().heartbeat_ns = 0), (Stale, Udp));
    // A clock that another processor has read later.
    assert_eq!(
        reasons(|it| it.settings().heartbeat_ns = NOW + 1),
        (Redirected, Udp)
    );
    assert_eq!(reasons(open), (Redirected, Udp));
    assert_eq!(
        reasons(|it| {
            open(it);
            stale(it);
        }),
        (StaleOpen, StaleOpen)
    );

    assert_eq!(reasons(pending), (Pending, Udp));
    assert_eq!(
        reasons(|it| {
            pending(it);
            stale(it);
            it.credentials.clear();
        }),
        (Pending, Udp)
    );
    assert_eq!(
        reasons(|it| {
            pending(it);
            open(it);
        }),
        (PendingOpen, PendingOpen)
    );
    assert_eq!(
        reasons(|it| {
            pending(it);
            it.set_credential(CREDENTIAL_BYPASS, 0);
        }),
        (SwitchedOff, SwitchedOff)
    );
    assert_eq!(
        reasons(|it| {
            pending(it);
            it.destinations.clear();
        }),
        (Unwanted, Unwanted)
    );
    // Of which it is not known yet what it is granted.
    assert_eq!(
        reasons(|it| {
            pending(it);
            it.entry().policy = POLICY_ANY;
            let all = it.destinations.clone();
            it.destinations
                .extend(all.into_iter().map(|(mut key, value)| {
                    key.policy = POLICY_ANY;
                    (key, value)
                }));
        }),
        (Pending, Udp)
    );

    assert_eq!(reasons(|it| it.entry().port_v4 = 0), (NoListener, Udp));
    assert_eq!(reasons(|it| it.entry().port_v6 = 0), (Redirected, Udp));
    assert_eq!(
        reasons(|it| it.bound_to_device = true),
        (BoundToDevice, Udp)
    );
}

#[test]
fn name_servers_are_reached_over_udp_whoever_wants_them() {
    let mut world = World::new();
    for addr in [V4, V6] {
        world.want_port(addr, 53, wanted(CONNECTOR, 0));
    }
    for addr in [V4, V6] {
        assert_eq!(world.udp(addr, 53).reason, Reason::Dns);
        assert_eq!(world.tcp(addr, 53).reason, Reason::Redirected);
    }
}

#[test]
fn each_family_has_its_listener() {
    let world = World::new();
    let v4 = world.tcp(V4, PORT);
    assert_eq!((v4.reason, v4.via_port), (Reason::Redirected, LISTENER_V4));
    let v6 = world.tcp(V6, PORT);
    assert_eq!((v6.reason, v6.via_port), (Reason::Redirected, LISTENER_V6));
    let mut world = World::new();
    world.entry().port_v6 = 0;
    let v6 = world.tcp(V6, PORT);
    assert_eq!((v6.reason, v6.via_port), (Reason::NoListener, 0));
}

#[test]
fn the_listener_itself_is_left_alone() {
    let mut loopback_v6 = [0; 16];
    loopback_v6[15] = 1;
    for (addr, own, other) in [
        (mapped([127, 0, 0, 1]), LISTENER_V4, LISTENER_V6),
        (loopback_v6, LISTENER_V6, LISTENER_V4),
    ] {
        let mut world = World::new();
        for (addr, port) in [(addr, own), (addr, other), (V4, own)] {
            world.want_port(addr, port, wanted(CONNECTOR, 0));
        }
        assert_eq!(world.tcp(addr, own).reason, Reason::Listener);
        assert_eq!(world.tcp(addr, other).reason, Reason::Redirected);
        // Elsewhere it is a port like any other.
        assert_eq!(world.tcp(V4, own).reason, Reason::Redirected);
    }
}

#[test]
fn each_port_is_wanted_for_itself() {
    let mut world = World::new();
    world.told(V4, &[(11, wanted(CONNECTOR, 0))]);
    // The entry of the whole host is about no connection.
    assert_eq!(world.tcp(V4, 0).reason, Reason::Unwanted);
    for port in [80, PORT] {
        assert_eq!(world.tcp(V4, port).reason, Reason::Redirected);
    }
    assert_eq!(world.tcp(V4, PORT + 1).reason, Reason::Unwanted);
}

#[test]
fn nested_cgroups_count_as_the_workload() {
    let mut world = World::new();
    world.settings().levels = [1, LEVEL, 0, 0, 0, 0, 0, 0];
    let caller = world.tcp(V4, PORT).caller.expect("a workload");
    assert_eq!((caller.cgroup_id, caller.level), (CGROUP, LEVEL));
    assert_eq!(caller.workload.policy, POLICY);
    // Behind the first empty place, and below where the caller lives.
    world.settings().levels = [1, 0, LEVEL, 0, 0, 0, 0, 0];
    assert_eq!(world.tcp(V4, PORT).reason, Reason::NotEnrolled);
    world.settings().levels = [9, LEVEL, 0, 0, 0, 0, 0, 0];
    assert_eq!(world.tcp(V4, PORT).reason, Reason::NotEnrolled);
}

#[test]
fn what_the_workload_was_told_counts_like_the_address() {
    let told = mapped([198, 51, 100, 1]);
    let mut world = World::new();
    world.credentials.insert(5, world.credentials[&CONNECTOR]);
    world.told(told, &[(11, wanted(5, 0)), (12, wanted(CONNECTOR, 0))]);
    // Of the first host another port is wanted.
    world
        .hostnames
        .retain(|key, _| key.name != 11 || key.port != PORT);
    let decision = world.tcp(told, PORT);
    assert_eq!(decision.reason, Reason::Redirected);
    let wanted = Wanted {
        connector: CONNECTOR,
        fails_open: false,
        by_address: false,
        by_names: 0b10,
    };
    assert_eq!(decision.wanted, Some(wanted));
    assert_eq!(world.dialled.take().len(), 1);
    // Nobody wants it: it may be forgotten.
    assert_eq!(world.tcp(told, 9).reason, Reason::Unwanted);
    assert!(world.dialled.take().is_empty());
    // Told to another workload.
    world.entry().policy += 1;
    assert_eq!(world.tcp(told, PORT).reason, Reason::Unwanted);
}

#[test]
fn several_connectors_at_one_address_have_in_common_what_all_want() {
    let open = DESTINATION_FAIL_OPEN;
    let mut world = World::new();
    world.want(V4, CONNECTOR, open);
    world.told(V4, &[(11, wanted(CONNECTOR, open))]);
    let found = |world: &World| {
        let wanted = world.tcp(V4, PORT).wanted.expect("it is wanted");
        (wanted.connector, wanted.fails_open, wanted.by_names)
    };
    assert_eq!(found(&world), (CONNECTOR, true, 0b1));
    world.told(
        V4,
        &[(11, wanted(CONNECTOR, open)), (12, wanted(CONNECTOR, 0))],
    );
    assert_eq!(found(&world), (CONNECTOR, false, 0b11));
    world.told(V4, &[(11, wanted(5, open)), (12, wanted(CONNECTOR, open))]);
    assert_eq!(found(&world), (0, true, 0b11));
    world.told(V4, &[(11, wanted(0, open))]);
    assert_eq!(found(&world), (0, true, 0b1));
}

#[test]
fn connectors_at_two_ports_of_one_address_are_two() {
    let mut world = World::new();
    world.credentials.insert(5, world.credentials[&CONNECTOR]);
    world.set_credential(CREDENTIAL_REFUSE, 0);
    world.want_port(V4, 5000, wanted(5, 0));
    assert_eq!(world.tcp(V4, PORT).reason, Reason::CredentialRefused);
    assert_eq!(world.tcp(V4, 5000).reason, Reason::Redirected);
}

#[test]
fn only_tcp_and_udp_are_somebodys_business() {
    assert_eq!(Transport::of(1, 6), Some(Transport::Tcp));
    assert_eq!(Transport::of(1, 262), Some(Transport::Tcp), "MPTCP");
    assert_eq!(Transport::of(2, 17), Some(Transport::Udp));
    for (kind, protocol, what) in [
        (2, 136, "UDP-Lite"),
        (2, 1, "ping"),
        (2, 58, "ping of IPv6"),
        (3, 17, "raw"),
        (3, 255, "raw"),
        (5, 132, "SCTP"),
    ] {
        assert_eq!(Transport::of(kind, protocol), None, "{what}");
    }
}

#[test]
fn each_decision_is_counted_once() {
    for reason in Reason::ALL {
        let mut stats = Stats::default();
        stats.count(Transport::Tcp, reason);
        let parts = stats.untouched
            + stats.redirected
            + stats.bypassed
            + stats.refused_cred
            + stats.refused_stale
            + stats.refused_sock
            + stats.refused_mem
            + stats.refused_pending;
        let counted = !matches!(reason, Reason::NotEnrolled | Reason::Dns | Reason::Udp);
        assert_eq!((stats.connects, parts), (counted.into(), counted.into()));
        let refused = stats.refused_cred
            + stats.refused_stale
            + stats.refused_sock
            + stats.refused_mem
            + stats.refused_pending
            + stats.refused_udp;
        assert_eq!(refused == 1, reason.verdict() == Verdict::Refuse);
        assert_eq!(stats.redirected == 1, reason.verdict() == Verdict::Redirect);

        let mut stats = Stats::default();
        stats.count(Transport::Udp, reason);
        let expected = Stats {
            refused_udp: (reason == Reason::Udp).into(),
            ..Stats::default()
        };
        assert_eq!(stats, expected);
    }
}
