//! What the controller said about this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proxy_common::distribution::{NodeUpdate, Workload as WireWorkload};

use super::wire::{self, WireError};
use crate::{
    node::Granted,
    state::ConnectorId,
    workload::{PolicyId, pods::PodUid},
};

/// Why an update cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SnapshotError {
    /// The first update of a stream was not the whole state.
    #[error("the controller's first update is not the whole state")]
    NotFull,
    /// Versions have to grow.
    #[error("update {found} came after update {last}")]
    Order {
        /// Version of the update before.
        last: u64,
        /// Version of this one.
        found: u64,
    },
}

/// A pod of the node, as the controller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) policy: PolicyId,
    /// Empty until its status shows some.
    pub(super) ips: Vec<IpAddr>,
    pub(super) host_network: bool,
}

/// The state of the node.
#[derive(Default)]
pub(super) struct Snapshot {
    /// Version of the last update; `None` before the first.
    version: Option<u64>,
    connectors: BTreeMap<ConnectorId, Granted>,
    policies: BTreeMap<PolicyId, BTreeSet<ConnectorId>>,
    pods: BTreeMap<PodUid, Pod>,
}

impl Snapshot {
    /// Takes over an update. What could not be understood is left out and returned; all else
    /// is taken.
    pub(super) fn apply(&mut self, update: &NodeUpdate) -> Result<Vec<WireError>, SnapshotError> {
        match self.version {
            None if !update.full => return Err(SnapshotError::NotFull),
            // A new stream counts from the start.
            Some(last) if !update.full && update.version <= last => {
                let found = update.version;
                return Err(SnapshotError::Order { last, found });
            }
            _ => {}
        }
        if update.full {
            *self = Self::default();
        }
        self.version = Some(update.version);
        for id in &update.removed_connectors {
            self.connectors.remove(&ConnectorId(*id));
        }
        for id in &update.removed_policies {
            self.policies.remove(&PolicyId(*id));
        }
        for uid in &update.removed_workloads {
            self.pods.remove(&PodUid::from(uid.clone()));
        }
        let mut faults = Vec::new();
        for message in &update.connectors {
            match wire::granted(message) {
                Ok(granted) => {
                    self.connectors.insert(granted.connector.id, granted);
                }
                Err(fault) => {
                    // What it was before does not hold any more.
                    self.connectors.remove(&ConnectorId(message.id));
                    faults.push(fault);
                }
            }
        }
        for policy in &update.policies {
            if policy.id == 0 {
                faults.push(WireError::Zero("a policy"));
                continue;
            }
            let connectors = policy.connectors.iter().copied().map(ConnectorId);
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
        Ok(faults)
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

    /// What each policy grants, as far as all hosts of a Connector are among `hosts`.
    pub(super) fn grants(&self, hosts: &BTreeSet<String>) -> BTreeMap<PolicyId, Vec<Granted>> {
        let covered = |granted: &&Granted| {
            let mut addresses = granted.connector.addresses();
            addresses.all(|address| hosts.contains(&address.host))
        };
        self.policies
            .iter()
            .map(|(policy, connectors)| {
                let granted = connectors.iter().filter_map(|id| self.connectors.get(id));
                (*policy, granted.filter(covered).cloned().collect())
            })
            .collect()
    }
}

fn pod(message: &WireWorkload, ips: Vec<IpAddr>) -> Pod {
    Pod {
        namespace: message.namespace.clone(),
        name: message.name.clone(),
        policy: PolicyId(message.policy),
        ips,
        host_network: message.host_network,
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::distribution::{
        Address, Basic, Connector, Credential, Policy, credential::Kind,
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
            addresses: vec![Address {
                tls: true,
                host: host.into(),
                port: 443,
                path: String::new(),
            }],
            credential: Some(Credential {
                kind: Some(Kind::Basic(basic)),
            }),
            usable: true,
            generation: 1,
            revision: 7,
            ..Connector::default()
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
        assert_eq!(snapshot.apply(&full()), Ok(vec![]));
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
        assert_eq!(snapshot.apply(&update), Ok(vec![]));
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
        assert_eq!(snapshot.apply(&again), Ok(vec![]));
        assert!(granted(&snapshot, &all).is_empty());
        assert!(snapshot.pod(&PodUid::from("u".to_owned())).is_some());
    }

    #[test]
    fn a_stream_starts_with_the_whole_state_and_goes_forward() {
        let mut snapshot = Snapshot::default();
        let change = |version| NodeUpdate {
            version,
            ..NodeUpdate::default()
        };
        assert_eq!(snapshot.apply(&change(1)), Err(SnapshotError::NotFull));
        assert_eq!(snapshot.apply(&full()), Ok(vec![]));
        let order = SnapshotError::Order { last: 1, found: 1 };
        assert_eq!(snapshot.apply(&change(1)), Err(order));
        assert_eq!(snapshot.version(), Some(1));
    }

    #[test]
    fn a_connector_waits_until_the_authority_may_vouch_for_all_its_hosts() {
        let mut snapshot = Snapshot::default();
        let mut update = full();
        let further = Address {
            tls: true,
            host: "further.example".into(),
            port: 443,
            path: String::new(),
        };
        update.connectors[0].addresses.push(further);
        assert_eq!(snapshot.apply(&update), Ok(vec![]));
        assert_eq!(granted(&snapshot, &["one.example", "two.example"]), [2]);
        let all = ["further.example", "one.example", "two.example"];
        assert_eq!(granted(&snapshot, &all), [1, 2]);
        assert_eq!(snapshot.hosts(), hosts(&all));
    }

    #[test]
    fn what_is_not_understood_is_left_out_and_harms_nothing_else() {
        let mut snapshot = Snapshot::default();
        assert_eq!(snapshot.apply(&full()), Ok(vec![]));
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
        let faults = snapshot.apply(&update).expect("an update in order");
        let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].contains("team/c1") && texts[0].contains("protocol"));
        assert_eq!(granted(&snapshot, &["one.example", "two.example"]), [2]);
        assert!(snapshot.pod(&PodUid::from("v".to_owned())).is_some());
    }
}
