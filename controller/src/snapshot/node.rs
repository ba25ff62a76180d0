//! What one node needs, and how it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use connectors::ConnectorId;
use proxy_common::distribution::{NodeUpdate, Policy, Workload};

use super::budget::{self, LeftOut};
use super::catalog::{Catalog, Entry};
use super::wire;
use crate::distribution::limits;
use crate::grants::{Grants, Pod, Policies, PolicyId, Review, Reviews, is_undecided, undecided};

/// Room in a message for what a difference has besides the state: what was removed.
const HEADROOM: usize = 1024 * 1024;

/// The pods of one node.
#[derive(Debug, Default)]
pub struct Node {
    pods: BTreeMap<String, Pod>,
    policies: Policies,
    /// What was said to be too much for one message.
    left_out: LeftOut,
}

impl Node {
    /// Adds a pod, or takes over its changes. Returns whether there are any.
    pub fn upsert(&mut self, pod: Pod) -> bool {
        let changed = self.pods.get(&pod.uid) != Some(&pod);
        if changed {
            self.pods.insert(pod.uid.clone(), pod);
        }
        changed
    }

    /// Removes the pod of this uid. Returns whether there was one.
    pub fn remove(&mut self, uid: &str) -> bool {
        self.pods.remove(uid).is_some()
    }

    /// Its pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Whether the node has no pods.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Whether the node has pods of a namespace.
    pub fn has_pods_of(&self, namespace: &str) -> bool {
        self.pods.values().any(|pod| pod.namespace == namespace)
    }

    /// Works out the node's state, and the reviews that it waits for.
    pub fn evaluate(
        &mut self,
        catalog: &Catalog,
        reviews: &Reviews,
    ) -> (NodeState, BTreeSet<Review>) {
        let mut grants = Grants::decide(self.pods.values(), catalog, reviews);
        let connectors = self.fitting(&mut grants, catalog);
        self.policies.update(grants.of_pods.values());
        let workloads = self
            .pods
            .values()
            .map(|pod| {
                let policy = grants.of_pods.get(&pod.uid);
                let policy = policy.map_or(0, |set| self.policies.id(set));
                let pending = grants.pending.contains(&pod.uid);
                (pod.uid.clone(), wire::workload(pod, policy, pending))
            })
            .collect();
        let state = NodeState {
            connectors,
            policies: self
                .policies
                .iter()
                .map(|(id, set)| (id, set.clone()))
                .collect(),
            workloads,
        };
        (state, grants.open)
    }

    /// The Connectors that are granted, and the stand-ins, as far as one message holds them; the
    /// grants of those that are left out are taken out.
    fn fitting(
        &mut self,
        grants: &mut Grants,
        catalog: &Catalog,
    ) -> BTreeMap<ConnectorId, Arc<Entry>> {
        let sets: BTreeSet<&BTreeSet<ConnectorId>> = grants.of_pods.values().collect();
        let granted: BTreeSet<ConnectorId> = sets.iter().copied().flatten().copied().collect();
        let namespaces: BTreeSet<&str> = self.pods.values().map(|it| &*it.namespace).collect();
        let mut connectors = namespaces
            .into_iter()
            .flat_map(|namespace| catalog.entries(namespace))
            .flat_map(|entry| {
                let id = entry.connector.id;
                let whole = granted.contains(&id).then(|| Arc::clone(entry));
                let is_open = granted.contains(&undecided(id));
                let stand_in = is_open.then(|| entry.undecided()).flatten();
                whole.into_iter().chain(stand_in.map(Arc::new))
            })
            .map(|entry| (entry.connector.id, entry))
            .collect();
        let policies: usize = sets.iter().map(|set| wire::policy_size(set.len())).sum();
        let workloads = self.pods.values().map(wire::workload_size).sum::<usize>();
        let room = limits::UPDATE.saturating_sub(HEADROOM + policies + workloads);
        let names: BTreeMap<ConnectorId, Arc<Entry>> = BTreeMap::clone(&connectors);
        let left_out = budget::fit(&mut connectors, room);
        if left_out != self.left_out {
            left_out.tell(&names);
            self.left_out = left_out;
        }
        for set in grants.of_pods.values_mut() {
            set.retain(|id| connectors.contains_key(id));
        }
        connectors
    }
}

/// What a host takes of a node's certificate, bytes: its name, and the headers of its constraint.
pub fn host_size(host: &str) -> usize {
    host.len() + 6
}

/// Everything that one node needs: the Connectors that its pods are granted, and no others.
#[derive(Clone, Default, PartialEq)]
pub struct NodeState {
    connectors: BTreeMap<ConnectorId, Arc<Entry>>,
    policies: BTreeMap<PolicyId, BTreeSet<ConnectorId>>,
    workloads: BTreeMap<String, Workload>,
}

impl NodeState {
    /// The message that carries all of it.
    pub fn full(&self, version: u64) -> NodeUpdate {
        NodeUpdate {
            full: true,
            ..changes(&Self::default(), self, version)
        }
    }

    /// The hosts of all Connectors that the node's workloads are granted, each once. The next one is
    /// always of the namespace with the least [`host_size`] so far: whoever takes the first of them
    /// takes as much of each.
    pub fn hosts(&self) -> Vec<&str> {
        let mut of_namespaces: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let decided = self.connectors.values().map(|entry| &entry.connector);
        for connector in decided.filter(|it| !is_undecided(it.id)) {
            let hosts = of_namespaces.entry(&connector.namespace).or_default();
            hosts.extend(connector.addresses().map(|address| address.host.as_str()));
        }
        let mut seen = BTreeSet::new();
        let mut turns: BTreeMap<_, _> = of_namespaces
            .into_iter()
            .map(|(namespace, hosts)| ((0, namespace), hosts.into_iter()))
            .collect();
        let mut hosts = Vec::new();
        while let Some(((size, namespace), mut of_namespace)) = turns.pop_first() {
            if let Some(host) = of_namespace.find(|host| !seen.contains(host)) {
                seen.insert(host);
                hosts.push(host);
                turns.insert((size + host_size(host), namespace), of_namespace);
            }
        }
        hosts
    }

    /// Whether any workload of the node is granted a Connector with this host.
    pub fn has_host(&self, host: &str) -> bool {
        let mut connectors = self.connectors.values().map(|entry| &entry.connector);
        connectors.any(|it| !is_undecided(it.id) && it.addresses().any(|it| it.host == host))
    }

    /// A workload of the node, by the uid of its pod.
    pub fn workload(&self, uid: &str) -> Option<&Workload> {
        self.workloads.get(uid)
    }

    /// The message that leads from this state to a newer one; `None` if they are the same.
    pub fn delta(&self, newer: &Self, version: u64) -> Option<NodeUpdate> {
        (self != newer).then(|| changes(self, newer, version))
    }
}

fn changes(older: &NodeState, newer: &NodeState, version: u64) -> NodeUpdate {
    let removed = gone(&older.connectors, &newer.connectors);
    NodeUpdate {
        version,
        full: false,
        connectors: changed(&older.connectors, &newer.connectors)
            .map(|(_, entry)| wire::connector(entry))
            .collect(),
        removed_connectors: removed.map(|id| id.0).collect(),
        policies: changed(&older.policies, &newer.policies)
            .map(|(id, set)| Policy {
                id: *id,
                connectors: set.iter().map(|id| id.0).collect(),
            })
            .collect(),
        removed_policies: gone(&older.policies, &newer.policies).copied().collect(),
        workloads: changed(&older.workloads, &newer.workloads)
            .map(|(_, workload)| workload.clone())
            .collect(),
        removed_workloads: gone(&older.workloads, &newer.workloads).cloned().collect(),
    }
}

/// What is new or different.
fn changed<'a, K: Ord, V: PartialEq>(
    older: &'a BTreeMap<K, V>,
    newer: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    newer
        .iter()
        .filter(|(key, value)| older.get(key) != Some(value))
}

/// What is there no longer.
fn gone<'a, K: Ord, V>(
    older: &'a BTreeMap<K, V>,
    newer: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    older.keys().filter(|key| !newer.contains_key(key))
}

/// One stream to an agent: first the whole state, then what changed since the last message.
#[derive(Default)]
pub struct Feed {
    sent: Option<Arc<NodeState>>,
    version: u64,
}

impl Feed {
    /// The message that brings the agent up to this state; `None` if it is there already.
    /// States in between that were never sent are skipped.
    pub fn next(&mut self, state: &Arc<NodeState>) -> Option<NodeUpdate> {
        let version = self.version + 1;
        let update = match &self.sent {
            None => state.full(version),
            Some(sent) => sent.delta(state, version)?,
        };
        self.version = version;
        self.sent = Some(Arc::clone(state));
        Some(update)
    }
}
