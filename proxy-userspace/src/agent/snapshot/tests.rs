//! Updates, one after the other.

use proxy_common::distribution::{
    self as wire, Basic, Connector, Credential, Policy, credential::Kind,
};
use secrecy::ExposeSecret;

use super::*;
use crate::state;

fn connector(id: u32, host: &str, password: &str) -> Connector {
    let basic = Basic {
        username: "me".into(),
        password: password.into(),
    };
    Connector {
        id,
        namespace: "team".into(),
        name: format!("c{id}"),
        addresses: vec![wire_address(host)],
        credential: Some(Credential {
            kind: Some(Kind::Basic(basic)),
        }),
        usable: true,
        generation: 1,
        revision: 7,
        ..Connector::default()
    }
}

fn wire_address(host: &str) -> wire::Address {
    wire::Address {
        tls: true,
        host: host.into(),
        port: 443,
        path: String::new(),
    }
}

fn workload(uid: &str, policy: u32) -> WireWorkload {
    WireWorkload {
        pod_uid: uid.into(),
        namespace: "team".into(),
        name: "pod".into(),
        policy,
        ips: vec!["192.0.2.7".into()],
        ..WireWorkload::default()
    }
}

fn full() -> NodeUpdate {
    NodeUpdate {
        version: 1,
        full: true,
        connectors: vec![
            connector(1, "one.example", "old"),
            connector(2, "two.example", "x"),
        ],
        policies: vec![Policy {
            id: 5,
            connectors: vec![1, 2, 9],
        }],
        workloads: vec![workload("u", 5)],
        ..NodeUpdate::default()
    }
}

#[test]
fn the_number_of_all_policies_is_none_of_them() {
    let mut update = full();
    update.policies.push(Policy {
        id: POLICY_ANY,
        connectors: vec![1],
    });
    update.workloads = vec![workload("u", POLICY_ANY)];
    let mut snapshot = Snapshot::default();
    let faults = snapshot.apply(&update);
    assert_eq!(faults, [WireError::Any]);
    let grants = snapshot.grants(&hosts(&["one.example"]));
    assert!(!grants.contains_key(&PolicyId(POLICY_ANY)));
    let pod = snapshot.pod(&PodUid::from("u".to_owned())).expect("a pod");
    assert_eq!((pod.policy, pod.pending), (PolicyId(0), true));
}

fn hosts(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn granted(snapshot: &Snapshot, names: &[&str]) -> Vec<u32> {
    let mut grants = snapshot.grants(&hosts(names));
    let granted = grants.remove(&PolicyId(5)).unwrap_or_default();
    granted.iter().map(|it| it.connector.id.0).collect()
}

#[test]
fn an_update_changes_what_it_names_and_a_full_one_everything() {
    let mut snapshot = Snapshot::default();
    assert_eq!(snapshot.apply(&full()), vec![]);
    let all = ["one.example", "two.example"];
    assert_eq!(granted(&snapshot, &all), [1, 2]);

    let mut rotated = connector(1, "one.example", "new");
    rotated.generation = 2;
    let update = NodeUpdate {
        version: 2,
        connectors: vec![rotated],
        removed_connectors: vec![2],
        removed_workloads: vec!["u".into()],
        ..NodeUpdate::default()
    };
    assert_eq!(snapshot.apply(&update), vec![]);
    assert_eq!(granted(&snapshot, &all), [1]);
    let grants = snapshot.grants(&hosts(&all));
    let only = &grants[&PolicyId(5)][0];
    assert_eq!((only.binding.generation, only.binding.revision), (2, 7));
    let Some(state::Credential::Basic { password, .. }) = &only.connector.credential else {
        panic!("not Basic");
    };
    assert_eq!(password.expose_secret(), "new");
    assert_eq!(snapshot.pod(&PodUid::from("u".to_owned())), None);

    let again = NodeUpdate {
        policies: vec![],
        ..full()
    };
    assert_eq!(snapshot.apply(&again), vec![]);
    assert!(snapshot.forget_retired());
    assert!(granted(&snapshot, &all).is_empty());
    assert!(snapshot.pod(&PodUid::from("u".to_owned())).is_some());
}

#[test]
fn what_nobody_vouches_for_is_refused_and_disturbs_nothing_else() {
    let mut snapshot = Snapshot::default();
    let mut update = full();
    update.connectors[0]
        .addresses
        .push(wire_address("further.example"));
    let mut open = connector(3, "three.example", "x");
    open.failure_policy = wire::FailurePolicy::Open.into();
    update.connectors.push(open);
    update.policies[0].connectors.push(3);
    assert_eq!(snapshot.apply(&update), vec![]);

    // An address more does not take the others away, and is not let out.
    let grants = snapshot.grants(&hosts(&["one.example"]));
    let [one, further, two] = grants[&PolicyId(5)].as_slice() else {
        panic!("{grants:?}");
    };
    assert!(one.binding.usable && one.connector.extensions.is_empty());
    assert!(!further.binding.usable && further.connector.credential.is_none());
    assert_eq!(further.connector.address.host, "further.example");
    assert_ne!(further.connector.id, one.connector.id);
    assert_eq!(further.connector.to_string(), one.connector.to_string());
    // The kernel refuses the second, and leaves the third alone.
    assert_eq!(two.connector.id, ConnectorId(2));
    assert!(!two.binding.usable);

    let all = [
        "further.example",
        "one.example",
        "three.example",
        "two.example",
    ];
    let grants = snapshot.grants(&hosts(&all));
    assert!(grants[&PolicyId(5)].iter().all(|it| it.binding.usable));
    assert_eq!(grants[&PolicyId(5)].len(), 3);
    assert_eq!(*snapshot.hosts(), hosts(&all));
}

/// Older controllers give out any number.
#[test]
fn what_is_refused_of_a_connector_is_never_taken_for_another() {
    let ids = [1, 1 | UNSIGNED, (1 | UNSIGNED) + 1, u32::MAX];
    let host = |id| format!("of-{id}.example");
    let connectors = ids.iter().map(|&id| {
        let mut connector = connector(id, &host(id), "x");
        let further = format!("further-{id}.example");
        connector.addresses.push(wire_address(&further));
        connector
    });
    let update = NodeUpdate {
        connectors: connectors.collect(),
        policies: vec![Policy {
            id: 5,
            connectors: ids.to_vec(),
        }],
        ..full()
    };
    let mut snapshot = Snapshot::default();
    assert_eq!(snapshot.apply(&update), vec![]);
    let signed: BTreeSet<_> = ids.iter().map(|&id| host(id)).collect();
    let grants = &snapshot.grants(&signed)[&PolicyId(5)];
    let numbers: BTreeSet<_> = grants.iter().map(|it| it.connector.id.0).collect();
    assert_eq!(grants.len(), 2 * ids.len());
    assert_eq!(numbers.len(), grants.len(), "{numbers:?}");
    assert!(!numbers.contains(&0), "that of several Connectors");
    for it in grants {
        let is_own = ids.contains(&it.connector.id.0);
        assert_eq!(it.binding.usable, is_own, "{}", it.connector.id.0);
    }
}

#[test]
fn a_replaced_policy_lasts_until_its_pods_have_moved() {
    let mut snapshot = Snapshot::default();
    assert_eq!(snapshot.apply(&full()), vec![]);
    let all = ["one.example", "two.example"];
    let replaced = NodeUpdate {
        version: 2,
        removed_connectors: vec![2],
        removed_policies: vec![5],
        policies: vec![Policy {
            id: 6,
            connectors: vec![1],
        }],
        workloads: vec![workload("u", 6)],
        ..NodeUpdate::default()
    };
    let again = NodeUpdate {
        version: 1,
        full: true,
        connectors: vec![connector(1, "one.example", "old")],
        ..replaced.clone()
    };
    for update in [replaced, again] {
        assert_eq!(snapshot.apply(&update), vec![]);
        // Without what is deleted.
        assert_eq!(granted(&snapshot, &all), [1]);
        assert!(snapshot.grants(&hosts(&all)).contains_key(&PolicyId(6)));
    }
    assert!(snapshot.forget_retired() && !snapshot.forget_retired());
    let policies: Vec<_> = snapshot.grants(&hosts(&all)).into_keys().collect();
    assert_eq!(policies, [PolicyId(6)]);
}

#[test]
fn a_policy_that_is_held_keeps_what_it_grants() {
    let all = ["one.example", "two.example"];
    let narrowed = NodeUpdate {
        version: 2,
        removed_connectors: vec![2],
        removed_policies: vec![5],
        ..NodeUpdate::default()
    };
    let anew = NodeUpdate {
        version: 1,
        full: true,
        connectors: vec![connector(1, "one.example", "old")],
        ..NodeUpdate::default()
    };
    for update in [narrowed, anew] {
        let mut snapshot = Snapshot::default();
        assert_eq!(snapshot.apply(&full()), vec![]);
        assert_eq!(snapshot.apply(&update), vec![]);
        snapshot.hold(BTreeSet::from([PolicyId(5)]));
        for _ in 0..2 {
            assert_eq!(granted(&snapshot, &all), [1, 2]);
            assert!(!snapshot.forget_retired());
        }
        // The answer is there.
        snapshot.hold(BTreeSet::new());
        assert_eq!(granted(&snapshot, &all), [1]);
        assert!(snapshot.forget_retired());
        assert!(granted(&snapshot, &all).is_empty() && snapshot.removed.is_empty());
    }
}

#[test]
fn what_was_not_decided_about_stays_refused_until_the_pods_have_moved() {
    let all = ["one.example", "two.example"];
    let mut undecided = full();
    undecided.connectors[1].undecided = true;
    let decided = NodeUpdate {
        version: 2,
        connectors: vec![connector(3, "two.example", "x")],
        removed_connectors: vec![2],
        removed_policies: vec![5],
        policies: vec![Policy {
            id: 6,
            connectors: vec![1, 3],
        }],
        workloads: vec![workload("u", 6)],
        ..NodeUpdate::default()
    };
    let mut snapshot = Snapshot::default();
    assert_eq!(snapshot.apply(&undecided), vec![]);
    assert_eq!(snapshot.apply(&decided), vec![]);
    let grants = snapshot.grants(&hosts(&all));
    let usable = |policy| -> Vec<bool> {
        let granted = grants[&PolicyId(policy)].iter();
        granted.map(|it| it.binding.usable).collect()
    };
    assert_eq!(usable(5), [true, false]);
    assert_eq!(usable(6), [true, true]);
    assert!(snapshot.forget_retired());
    assert!(snapshot.removed.is_empty());
}

#[test]
fn what_is_not_decided_about_is_refused_and_not_vouched_for() {
    let mut update = full();
    update.connectors[1].undecided = true;
    let further = wire_address("further.example");
    update.connectors[1].addresses.push(further);
    let three = connector(3, "three.example", "x");
    update.connectors.push(three);
    update.policies.push(Policy {
        id: 6,
        connectors: vec![1, 3],
    });
    let mut snapshot = Snapshot::default();
    assert_eq!(snapshot.apply(&update), vec![]);
    assert_eq!(*snapshot.hosts(), hosts(&["one.example", "three.example"]));
    assert_eq!(snapshot.connectors(), 2);
    for signed in [&["one.example"][..], &["one.example", "two.example"]] {
        let grants = snapshot.grants(&hosts(signed));
        let [one, two] = grants[&PolicyId(5)].as_slice() else {
            panic!("{grants:?}");
        };
        assert!(one.binding.usable && !two.binding.usable);
        assert_eq!(two.connector.addresses().count(), 2, "{signed:?}");
    }

    // A stand-in is nothing that could be lost.
    let more = |policy, other| snapshot.grants_more(PolicyId(policy), PolicyId(other));
    assert!(!more(5, 6) && more(6, 5));
    assert!(more(5, 0) && !more(0, 5) && !more(5, 5));
    let full = NodeUpdate {
        policies: vec![],
        connectors: vec![],
        ..full()
    };
    assert_eq!(snapshot.apply(&full), vec![]);
    snapshot.hold(BTreeSet::from([PolicyId(5)]));
    snapshot.forget_retired();
    assert!(snapshot.grants_more(PolicyId(5), PolicyId(0)));
    assert_eq!(snapshot.undecided, BTreeSet::from([ConnectorId(2)]));
    snapshot.hold(BTreeSet::new());
    snapshot.forget_retired();
    assert!(snapshot.undecided.is_empty());
}

#[test]
fn what_is_not_understood_is_left_out_and_harms_nothing_else() {
    let mut snapshot = Snapshot::default();
    assert_eq!(snapshot.apply(&full()), vec![]);
    let mut unknown = connector(1, "one.example", "x");
    unknown.protocol = 99;
    let mut no_address = connector(2, "two.example", "x");
    no_address.addresses.clear();
    let mut no_port = connector(3, "three.example", "x");
    no_port.addresses[0].port = 65_536;
    let mut odd = workload("v", 5);
    odd.ips = vec!["nowhere".into()];
    let update = NodeUpdate {
        version: 2,
        connectors: vec![unknown, no_address, no_port],
        policies: vec![Policy {
            id: 5,
            connectors: vec![1, 2, 3],
        }],
        workloads: vec![odd],
        ..NodeUpdate::default()
    };
    let faults = snapshot.apply(&update);
    let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    assert!(texts[0].contains("team/c1") && texts[0].contains("protocol"));
    let grants = snapshot.grants(&hosts(&["one.example", "two.example"]));
    let usable = |it: &Granted| (it.connector.id.0, it.binding.usable);
    let found: Vec<_> = grants[&PolicyId(5)].iter().map(usable).collect();
    assert_eq!(found, [(1, false), (2, false), (3, false)]);
    // After a lost stream as well.
    let again = NodeUpdate {
        full: true,
        ..update
    };
    assert_eq!(snapshot.apply(&again).len(), 4);
    let grants = snapshot.grants(&hosts(&["two.example"]));
    let found: Vec<_> = grants[&PolicyId(5)].iter().map(usable).collect();
    assert_eq!(found, [(1, false), (2, false), (3, false)]);
    assert!(snapshot.pod(&PodUid::from("v".to_owned())).is_some());
}
