//! What one node needs, and how it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use connectors::ConnectorId;
use proxy_common::distribution::{NodeUpdate, Policy, Workload};

use super::catalog::{Catalog, Entry};
use super::wire;
use crate::grants::{Grants, Pod, Policies, PolicyId, Review, Reviews};

/// The pods of one node.
#[derive(Debug, Default)]
pub struct Node {
    pods: BTreeMap<String, Pod>,
    policies: Policies,
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
        let grants = Grants::decide(self.pods.values(), catalog, reviews);
        self.policies.update(grants.of_pods.values());
        let workloads = self
            .pods
            .values()
            .map(|pod| {
                let policy = grants.of_pods.get(&pod.uid);
                let policy = policy.map_or(0, |set| self.policies.id(set));
                (pod.uid.clone(), wire::workload(pod, policy))
            })
            .collect();
        let granted: BTreeSet<ConnectorId> = grants.of_pods.into_values().flatten().collect();
        let namespaces: BTreeSet<&str> = self.pods.values().map(|it| &*it.namespace).collect();
        let connectors = namespaces
            .into_iter()
            .flat_map(|namespace| catalog.entries(namespace))
            .filter(|entry| granted.contains(&entry.connector.id))
            .map(|entry| (entry.connector.id, Arc::clone(entry)))
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

    /// The hosts of all Connectors that the node's workloads are granted.
    pub fn hosts(&self) -> BTreeSet<&str> {
        self.connectors
            .values()
            .flat_map(|entry| entry.connector.addresses())
            .map(|address| address.host.as_str())
            .collect()
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
