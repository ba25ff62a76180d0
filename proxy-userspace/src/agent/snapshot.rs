//! What the controller said about this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use proxy_common::{
    distribution::{NodeUpdate, Workload as WireWorkload},
    maps::POLICY_ANY,
};

use super::wire::{self, WireError};
use crate::{
    node::{Binding, Granted},
    state::{Address, Connector, ConnectorId, FailurePolicy},
    workload::{PolicyId, pods::PodUid},
};

/// A pod of the node, as the controller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) policy: PolicyId,
    /// Empty until its status shows some.
    pub(super) ips: Vec<IpAddr>,
    pub(super) host_network: bool,
    /// It may be granted more: not all is known yet.
    pub(super) pending: bool,
}

/// The state of the node.
#[derive(Default)]
pub(super) struct Snapshot {
    /// Version of the last update; `None` before the first.
    version: Option<u64>,
    connectors: BTreeMap<ConnectorId, Granted>,
    policies: BTreeMap<PolicyId, BTreeSet<ConnectorId>>,
    /// Policies that the controller has replaced, until no pod is under them any more.
    retired: BTreeMap<PolicyId, BTreeSet<ConnectorId>>,
    /// Connectors that the controller took away from the node, as long as `held` may name them.
    removed: BTreeMap<ConnectorId, Granted>,
    /// Policies that pods keep, replaced or not, until it is known anew what they are granted.
    held: BTreeSet<PolicyId>,
    pods: BTreeMap<PodUid, Pod>,
}

impl Snapshot {
    /// Takes over an update. What could not be understood is returned; it is refused as far
    /// as it is known what it is, and all else is taken.
    pub(super) fn apply(&mut self, update: &NodeUpdate) -> Vec<WireError> {
        if update.full {
            let mut retired = std::mem::take(&mut self.retired);
            retired.append(&mut self.policies);
            let mut removed = std::mem::take(&mut self.removed);
            removed.append(&mut self.connectors);
            *self = Self {
                retired,
                removed,
                held: std::mem::take(&mut self.held),
                ..Self::default()
            };
        }
        self.version = Some(update.version);
        for id in &update.removed_connectors {
            self.removed
                .extend(self.connectors.remove_entry(&ConnectorId(*id)));
        }
        for id in &update.removed_policies {
            self.retired
                .extend(self.policies.remove_entry(&PolicyId(*id)));
        }
        for uid in &update.removed_workloads {
            self.pods.remove(&PodUid::from(uid.clone()));
        }
        let mut faults = Vec::new();
        for message in &update.connectors {
            self.removed.remove(&ConnectorId(message.id));
            match wire::granted(message) {
                Ok((granted, fault)) => {
                    self.connectors.insert(granted.connector.id, granted);
                    faults.extend(fault);
                }
                Err(fault) => {
                    // What it was before does not hold any more.
                    self.connectors.remove(&ConnectorId(message.id));
                    faults.push(fault);
                }
            }
        }
        for policy in &update.policies {
            if let Err(fault) = wire::policy(policy.id) {
                faults.push(fault);
                continue;
            }
            let connectors = policy.connectors.iter().copied().map(ConnectorId);
            self.retired.remove(&PolicyId(policy.id));
            self.policies
                .insert(PolicyId(policy.id), connectors.collect());
        }
        for message in &update.workloads {
            let ips = wire::pod_addresses(message).unwrap_or_else(|fault| {
                faults.push(fault);
                Vec::new()
            });
            self.pods
                .insert(PodUid::from(message.pod_uid.clone()), pod(message, ips));
        }
        faults
    }

    /// Version of the last update; `None` before the first.
    pub(super) fn version(&self) -> Option<u64> {
        self.version
    }

    /// How many Connectors the node's pods are granted.
    pub(super) fn connectors(&self) -> usize {
        self.connectors.len()
    }

    /// A pod of the node.
    pub(super) fn pod(&self, uid: &PodUid) -> Option<&Pod> {
        self.pods.get(uid)
    }

    /// The hosts of all Connectors.
    pub(super) fn hosts(&self) -> BTreeSet<String> {
        self.connectors
            .values()
            .flat_map(|granted| granted.connector.addresses())
            .map(|address| address.host.clone())
            .collect()
    }

    /// Policies that pods keep until it is known anew what they are granted, with the Connectors
    /// that they name. The hosts of those are vouched for until the authority is replaced.
    pub(super) fn hold(&mut self, policies: BTreeSet<PolicyId>) {
        self.held = policies;
    }

    /// Forgets the policies that no pod is under any more; says whether there were any.
    pub(super) fn forget_retired(&mut self) -> bool {
        let before = self.retired.len();
        self.retired.retain(|policy, _| self.held.contains(policy));
        let named: BTreeSet<_> = self.retired.values().flatten().collect();
        self.removed.retain(|id, _| named.contains(id));
        self.retired.len() < before
    }

    /// What each policy grants while the node's authority may vouch for `signed` alone. A
    /// policy that was replaced grants what it did, as far as that is still on the node: its
    /// pods are moved one by one, and must not be without any meanwhile. One that is held grants
    /// all that it did.
    pub(super) fn grants(&self, signed: &BTreeSet<String>) -> BTreeMap<PolicyId, Vec<Granted>> {
        let signed = |all: &BTreeMap<ConnectorId, Granted>| -> BTreeMap<ConnectorId, Granted> {
            all.iter()
                .filter_map(|(id, granted)| Some((*id, as_far_as_signed(granted, signed)?)))
                .collect()
        };
        let (connectors, removed) = (signed(&self.connectors), signed(&self.removed));
        self.retired
            .iter()
            .chain(&self.policies)
            .map(|(policy, ids)| {
                let is_held = self.held.contains(policy) && self.retired.contains_key(policy);
                let granted = ids.iter().filter_map(|id| {
                    let removed = || removed.get(id).filter(|_| is_held);
                    connectors.get(id).or_else(removed)
                });
                (*policy, granted.cloned().collect())
            })
            .collect()
    }
}

/// Addresses that nobody can vouch for yet are left out. While that is so for the Connector's
/// own address, the whole Connector is refused, or left alone if it fails open.
fn as_far_as_signed(granted: &Granted, signed: &BTreeSet<String>) -> Option<Granted> {
    let connector = &granted.connector;
    let is_signed = |address: &Address| signed.contains(&address.host);
    if connector.addresses().all(is_signed) {
        return Some(granted.clone());
    }
    if is_signed(&connector.address) {
        let extensions = connector.extensions.iter().filter(|it| is_signed(it));
        let connector = Connector {
            extensions: extensions.cloned().collect(),
            ..Connector::clone(connector)
        };
        return Some(Granted {
            connector: Arc::new(connector),
            binding: granted.binding,
        });
    }
    (connector.failure_policy == FailurePolicy::Closed).then(|| Granted {
        connector: Arc::clone(connector),
        binding: Binding {
            usable: false,
            ..granted.binding
        },
    })
}

/// A policy that cannot be is none, of which it is not known yet what it grants.
fn pod(message: &WireWorkload, ips: Vec<IpAddr>) -> Pod {
    let is_possible = message.policy != POLICY_ANY;
    Pod {
        namespace: message.namespace.clone(),
        name: message.name.clone(),
        policy: PolicyId(if is_possible { message.policy } else { 0 }),
        ips,
        host_network: message.host_network,
        pending: message.pending || !is_possible,
    }
}

#[cfg(test)]
mod tests {
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

        // An address more does not take the others away.
        let grants = snapshot.grants(&hosts(&["one.example"]));
        let [one, two] = grants[&PolicyId(5)].as_slice() else {
            panic!("{grants:?}");
        };
        assert!(one.binding.usable && one.connector.extensions.is_empty());
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
        assert_eq!(snapshot.hosts(), hosts(&all));
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
    fn what_is_not_understood_is_left_out_and_harms_nothing_else() {
        let mut snapshot = Snapshot::default();
        assert_eq!(snapshot.apply(&full()), vec![]);
        let mut unknown = connector(1, "one.example", "x");
        unknown.protocol = 99;
        let mut no_port = connector(3, "three.example", "x");
        no_port.addresses[0].port = 65_536;
        let mut odd = workload("v", 5);
        odd.ips = vec!["nowhere".into()];
        let update = NodeUpdate {
            version: 2,
            connectors: vec![unknown, no_port],
            workloads: vec![odd],
            ..NodeUpdate::default()
        };
        let faults = snapshot.apply(&update);
        let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].contains("team/c1") && texts[0].contains("protocol"));
        let grants = snapshot.grants(&hosts(&["one.example", "two.example"]));
        let usable = |it: &Granted| (it.connector.id.0, it.binding.usable);
        let found: Vec<_> = grants[&PolicyId(5)].iter().map(usable).collect();
        assert_eq!(found, [(1, false), (2, true)]);
        assert!(snapshot.pod(&PodUid::from("v".to_owned())).is_some());
    }
}
