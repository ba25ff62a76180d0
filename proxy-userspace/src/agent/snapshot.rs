//! What the controller said about this node.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    iter,
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

/// What is added to the number of a Connector for the part of it that is refused because nobody
/// vouches for it. The controller's numbers are smaller, but for those of stand-ins, of which no
/// part is served; those of an older one may be any.
const UNSIGNED: u32 = 1 << 30;

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
    /// Which of them, and of those that were removed, stand in for what is not decided about.
    undecided: BTreeSet<ConnectorId>,
    /// The hosts of all Connectors that are granted.
    hosts: BTreeSet<String>,
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
                undecided: std::mem::take(&mut self.undecided),
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
            let id = ConnectorId(message.id);
            let mut before = self.removed.remove(&id);
            if message.undecided {
                self.undecided.insert(id);
            } else {
                self.undecided.remove(&id);
            }
            match wire::granted(message) {
                Ok((granted, more)) => {
                    self.connectors.insert(granted.connector.id, granted);
                    faults.extend(more);
                }
                Err(fault) => {
                    // What it was before does not hold any more, and must not be let out.
                    if let Some(granted) = self.connectors.get_mut(&id).or(before.as_mut()) {
                        granted.binding.usable = false;
                    }
                    self.connectors.extend(before.map(|before| (id, before)));
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
        if update.full || !update.connectors.is_empty() || !update.removed_connectors.is_empty() {
            self.hosts = self.granted_hosts();
        }
        faults
    }

    /// Version of the last update; `None` before the first.
    pub(super) fn version(&self) -> Option<u64> {
        self.version
    }

    /// How many Connectors the node's pods are granted.
    pub(super) fn connectors(&self) -> usize {
        self.decided().count()
    }

    /// How many stand in for what is not decided about.
    pub(super) fn undecided(&self) -> usize {
        self.connectors.len() - self.connectors()
    }

    /// The Connectors without those that only stand in for one.
    fn decided(&self) -> impl Iterator<Item = &Granted> {
        let all = self.connectors.iter();
        all.filter(|(id, _)| !self.undecided.contains(id))
            .map(|(_, granted)| granted)
    }

    /// Whether a policy grants something that another one does not.
    pub(super) fn grants_more(&self, policy: PolicyId, other: PolicyId) -> bool {
        let names = |policy| self.policies.get(&policy).or(self.retired.get(&policy));
        let granted = names(policy).into_iter().flatten();
        let is_known = |id| self.connectors.contains_key(id) || self.removed.contains_key(id);
        let mut granted = granted.filter(|id| is_known(id) && !self.undecided.contains(id));
        let others = names(other);
        granted.any(|id| others.is_none_or(|others| !others.contains(id)))
    }

    /// A pod of the node.
    pub(super) fn pod(&self, uid: &PodUid) -> Option<&Pod> {
        self.pods.get(uid)
    }

    /// The uid of a pod, by namespace and name.
    pub(super) fn uid(&self, name: &str) -> Option<&PodUid> {
        let (namespace, name) = name.split_once('/')?;
        let mut pods = self.pods.iter();
        let found = pods.find(|(_, pod)| (&*pod.namespace, &*pod.name) == (namespace, name));
        found.map(|(uid, _)| uid)
    }

    /// The hosts of all Connectors that are granted: those that are to be vouched for.
    pub(super) fn hosts(&self) -> &BTreeSet<String> {
        &self.hosts
    }

    fn granted_hosts(&self) -> BTreeSet<String> {
        self.decided()
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
        let (connectors, removed) = (&self.connectors, &self.removed);
        self.undecided
            .retain(|id| connectors.contains_key(id) || removed.contains_key(id));
        self.retired.len() < before
    }

    /// What each policy grants while the node's authority may vouch for `signed` alone. A
    /// policy that was replaced grants what it did, as far as that is still on the node: its
    /// pods are moved one by one, and must not be without any meanwhile. One that is held grants
    /// all that it did.
    pub(super) fn grants(&self, signed: &BTreeSet<String>) -> BTreeMap<PolicyId, Vec<Granted>> {
        let all = self.connectors.keys().chain(self.removed.keys());
        let mut numbers = Numbers(all.copied().collect());
        let mut signed = |all: &BTreeMap<ConnectorId, Granted>| -> BTreeMap<_, _> {
            all.iter()
                .map(|(id, granted)| (*id, as_far_as_signed(granted, signed, &mut numbers)))
                .collect()
        };
        let (connectors, removed) = (signed(&self.connectors), signed(&self.removed));
        self.retired
            .iter()
            .chain(&self.policies)
            .map(|(policy, ids)| {
                let is_retired = self.retired.contains_key(policy);
                let is_held = is_retired && self.held.contains(policy);
                let granted = ids.iter().filter_map(|id| {
                    // What stood in for an answer goes on to refuse until the pods have it.
                    let refuses = is_retired && self.undecided.contains(id);
                    let removed = || removed.get(id).filter(|_| is_held || refuses);
                    connectors.get(id).or_else(removed)
                });
                (*policy, granted.flatten().cloned().collect())
            })
            .collect()
    }
}

/// The numbers that stand for something.
struct Numbers(HashSet<ConnectorId>);

impl Numbers {
    /// One for the part of a Connector that is refused: it is nobody else's, and the same each time
    /// unless an older controller has given it to a Connector.
    fn of_unsigned(&mut self, id: ConnectorId) -> ConnectorId {
        let mut number = id.0 | UNSIGNED;
        while number == 0 || !self.0.insert(ConnectorId(number)) {
            number = number.wrapping_add(1);
        }
        ConnectorId(number)
    }
}

/// A Connector while the node's authority may vouch for `signed` alone. Addresses that nobody can
/// vouch for are refused, or left alone if the Connector fails open: all of them while that is so
/// for its own one, else the extensions in question. A Connector that is refused anyway is refused
/// at all of its addresses.
fn as_far_as_signed(
    granted: &Granted,
    signed: &BTreeSet<String>,
    numbers: &mut Numbers,
) -> Vec<Granted> {
    let connector = &granted.connector;
    let is_signed = |address: &Address| signed.contains(&address.host);
    let is_closed = connector.failure_policy == FailurePolicy::Closed;
    let is_refused = is_closed && !granted.binding.usable;
    if is_refused || connector.addresses().all(is_signed) {
        return vec![granted.clone()];
    }
    let refuse = |connector| Granted {
        connector,
        binding: Binding {
            usable: false,
            ..granted.binding
        },
    };
    if !is_signed(&connector.address) {
        let refused = is_closed.then(|| refuse(Arc::clone(connector)));
        return refused.into_iter().collect();
    }
    let (extensions, unsigned): (Vec<_>, Vec<_>) =
        connector.extensions.iter().cloned().partition(is_signed);
    let served = Granted {
        connector: Arc::new(Connector {
            extensions,
            ..Connector::clone(connector)
        }),
        binding: granted.binding,
    };
    let mut unsigned = unsigned.into_iter();
    let refused = unsigned.next().filter(|_| is_closed).map(|address| {
        refuse(Arc::new(Connector {
            id: numbers.of_unsigned(connector.id),
            address,
            extensions: unsigned.collect(),
            credential: None,
            ..Connector::clone(connector)
        }))
    });
    iter::once(served).chain(refused).collect()
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
mod tests;
