//! What the controller knows of the cluster, and what follows from each change of it.
//!
//! A change is an object that came, changed or went. What follows is a status to write, and
//! nodes whose state is to be worked out anew; carrying that out is the caller's.

mod quota;
#[cfg(test)]
mod tests;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use connectors::cluster::{Objects, References};
use connectors::{DEFAULT_NAMESPACE, SecretData};
use k8s_openapi::jiff::Timestamp;
use proxy_common::api::{self, ConnectorStatus};

use crate::grants::{Pod, Review, Reviews};
use crate::kubernetes::ObjectVersion;
use crate::reconcile::reconcile;
use crate::snapshot::{Catalog, NoRandomness, Node, NodeState, SecretVersion};
use crate::status;

pub use quota::CONNECTORS_OF_A_NAMESPACE;

use quota::Quota;
use users::{Dependency, Users};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Key {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn of(object: &api::Connector) -> Self {
        let metadata = &object.metadata;
        let namespace = metadata.namespace.as_deref();
        Self::new(
            namespace.unwrap_or(DEFAULT_NAMESPACE),
            metadata.name.as_deref().unwrap_or_default(),
        )
    }
}

/// A Secret that some Connector names.
#[derive(Debug)]
pub struct HeldSecret {
    /// Its values.
    pub data: SecretData,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// What follows from a change.
#[derive(Debug, Default, PartialEq)]
pub struct Effects {
    /// Statuses to write; those that are right already are not in here.
    pub statuses: BTreeMap<Key, ConnectorStatus>,
    /// Nodes to evaluate anew.
    pub nodes: BTreeSet<String>,
}

/// What the controller knows of the cluster.
pub struct Model {
    connectors: BTreeMap<Key, api::Connector>,
    /// Why what is in `connectors` is an older state of the object, or nothing of it.
    unreadable: BTreeMap<Key, String>,
    quota: Quota,
    classes: BTreeMap<String, Arc<api::ConnectorClass>>,
    secrets: BTreeMap<Key, HeldSecret>,
    /// Connectors with certificates, of which time alone may make something else.
    dated: BTreeSet<Key>,
    /// Secrets that exist, but whose values are not known yet.
    awaited: BTreeSet<Key>,
    users: Users,
    catalog: Catalog,
    nodes: BTreeMap<String, Node>,
    reviews: Reviews,
}

impl Model {
    /// Of an empty cluster.
    pub fn new() -> Result<Self, NoRandomness> {
        Ok(Self {
            connectors: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            quota: Quota::default(),
            classes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            dated: BTreeSet::new(),
            awaited: BTreeSet::new(),
            users: Users::default(),
            catalog: Catalog::new()?,
            nodes: BTreeMap::new(),
            reviews: Reviews::default(),
        })
    }

    /// A Connector came or changed. `now` (RFC 3339) is the time of its transitions.
    pub fn upsert_connector(&mut self, object: api::Connector, now: &str) -> Effects {
        let key = Key::of(&object);
        self.unreadable.remove(&key);
        self.replace_connector(key, object, now)
    }

    /// A Connector came or changed whose `spec` cannot be read; `fault` says why. Nodes keep
    /// what they know of it, as not usable: without it, its connections would go out
    /// untouched. Of one that was never read there is no more than a status.
    pub fn upsert_unreadable(
        &mut self,
        mut object: api::Connector,
        fault: String,
        now: &str,
    ) -> Effects {
        let key = Key::of(&object);
        object.spec = match self.connectors.remove(&key) {
            Some(known) if known.metadata.uid == object.metadata.uid => known.spec,
            _ => api::ConnectorSpec::default(),
        };
        self.unreadable.insert(key.clone(), fault);
        self.replace_connector(key, object, now)
    }

    fn replace_connector(&mut self, key: Key, object: api::Connector, now: &str) -> Effects {
        self.users.set(&key, &References::of(&object));
        let created = object.metadata.creation_timestamp.as_deref();
        let moved = self.quota.insert(&key, created.unwrap_or_default());
        self.connectors.insert(key.clone(), object);
        self.drop_unused_secrets();
        self.reconcile(moved.into_iter().chain([key]), now)
    }

    /// A Connector went.
    pub fn remove_connector(&mut self, key: &Key, now: &str) -> Effects {
        self.connectors.remove(key);
        self.dated.remove(key);
        self.unreadable.remove(key);
        self.users.clear(key);
        self.drop_unused_secrets();
        let moved = self.quota.remove(key);
        let mut effects = self.reconcile(moved, now);
        if self.catalog.remove(&key.namespace, &key.name) {
            effects.nodes.append(&mut self.nodes_of(&key.namespace));
        }
        effects
    }

    /// Which state of a Connector is known, for as long as it exists.
    pub fn connector_version(&self, key: &Key) -> Option<ObjectVersion> {
        let metadata = &self.connectors.get(key)?.metadata;
        Some(ObjectVersion {
            uid: metadata.uid.clone()?,
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
        })
    }

    /// A status was written to this state of a Connector, which became another one by that.
    /// If something else is known of it in the meantime, that stays.
    pub fn wrote_status(&mut self, key: &Key, before: &ObjectVersion, after: ObjectVersion) {
        if self.connector_version(key).as_ref() == Some(before)
            && before.uid == after.uid
            && let Some(object) = self.connectors.get_mut(key)
        {
            object.metadata.resource_version = Some(after.resource_version);
        }
    }

    /// The namespaces that have Connectors.
    pub fn namespaces(&self) -> BTreeSet<String> {
        let keys = self.connectors.keys();
        keys.map(|key| key.namespace.clone()).collect()
    }

    /// A class came or changed.
    pub fn upsert_class(&mut self, class: Arc<api::ConnectorClass>, now: &str) -> Effects {
        let name = class.metadata.name.clone().unwrap_or_default();
        self.classes.insert(name.clone(), class);
        let users = self.users.of(&Dependency::Class(name));
        self.reconcile(users, now)
    }

    /// A class went.
    pub fn remove_class(&mut self, name: &str, now: &str) -> Effects {
        self.classes.remove(name);
        let users = self.users.of(&Dependency::Class(name.to_owned()));
        self.reconcile(users, now)
    }

    /// Whether some Connector names this Secret; others need not be fetched, and are not kept.
    pub fn wants_secret(&self, key: &Key) -> bool {
        self.users.has(&Dependency::Secret(key.clone()))
    }

    /// The version of a Secret that is held, by which a caller knows whether to fetch it.
    pub fn secret_version(&self, key: &Key) -> Option<SecretVersion<'_>> {
        self.secrets.get(key).map(HeldSecret::version)
    }

    /// A Secret exists whose values are not known yet. Until they come, or it goes, Connectors
    /// that name it are not usable, and nothing is said about them: a status would have to be
    /// taken back a moment later. Values that are held are of an older Secret, and are wiped.
    pub fn await_secret(&mut self, key: &Key, now: &str) -> Effects {
        self.secrets.remove(key);
        self.awaited.insert(key.clone());
        let users = self.users.of(&Dependency::Secret(key.clone()));
        self.reconcile(users, now)
    }

    /// A Secret came or changed.
    pub fn upsert_secret(&mut self, key: Key, secret: HeldSecret, now: &str) -> Effects {
        let users = self.users.of(&Dependency::Secret(key.clone()));
        if users.is_empty() {
            return Effects::default();
        }
        self.awaited.remove(&key);
        self.secrets.insert(key, secret);
        self.reconcile(users, now)
    }

    /// A Secret went.
    pub fn remove_secret(&mut self, key: &Key, now: &str) -> Effects {
        let was_awaited = self.awaited.remove(key);
        if self.secrets.remove(key).is_none() && !was_awaited {
            return Effects::default();
        }
        let users = self.users.of(&Dependency::Secret(key.clone()));
        self.reconcile(users, now)
    }

    /// Time has passed: certificates may have begun or expired.
    pub fn look_at_clock(&mut self, now: &str) -> Effects {
        self.reconcile(self.dated.clone(), now)
    }

    /// A pod of a node came or changed.
    pub fn upsert_pod(&mut self, node: &str, pod: Pod) -> Effects {
        let changed = self.nodes.entry(node.to_owned()).or_default().upsert(pod);
        Self::at(changed.then_some(node))
    }

    /// A pod of a node went, or ended.
    pub fn remove_pod(&mut self, node: &str, uid: &str) -> Effects {
        let Some(pods) = self.nodes.get_mut(node) else {
            return Effects::default();
        };
        let changed = pods.remove(uid);
        Self::at(changed.then_some(node))
    }

    /// A node went, with all its pods.
    pub fn remove_node(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// The nodes without any pod.
    pub fn nodes_without_pods(&self) -> impl Iterator<Item = &str> {
        let nodes = self.nodes.iter();
        nodes
            .filter(|(_, node)| node.is_empty())
            .map(|(name, _)| name.as_str())
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// A review was answered, for the first time or anew.
    pub fn answer(&mut self, review: Review, allowed: bool) -> Effects {
        let namespace = review.namespace.clone();
        let mut effects = Effects::default();
        if self.reviews.answer(review, allowed) {
            effects.nodes = self.nodes_of(&namespace);
        }
        effects
    }

    /// The reviews whose answers are held. When roles change they are asked again; until the
    /// new answers come, the old ones hold.
    pub fn reviews(&self) -> impl Iterator<Item = &Review> {
        self.reviews.iter()
    }

    /// Whether the answer of a review is held.
    pub fn has_answer(&self, review: &Review) -> bool {
        self.reviews.get(review).is_some()
    }

    /// Whether there are pods that a review is about.
    pub fn needs_review(&self, review: &Review) -> bool {
        self.pods_of(review).next().is_some()
    }

    /// The pods that a review is about.
    pub fn pods_of(&self, review: &Review) -> impl Iterator<Item = &Pod> {
        let pods = self.nodes.values().flat_map(Node::pods);
        pods.filter(|pod| {
            (&pod.namespace, &pod.service_account) == (&review.namespace, &review.service_account)
        })
    }

    /// Forgets the answers that no pod and no Connector needs any more.
    pub fn drop_unused_reviews(&mut self) {
        let pods = self.nodes.values().flat_map(Node::pods);
        let accounts: BTreeSet<_> = pods
            .map(|pod| (pod.namespace.clone(), pod.service_account.clone()))
            .collect();
        let connectors = &self.connectors;
        self.reviews.retain(|review| {
            let account = (review.namespace.clone(), review.service_account.clone());
            let connector = review.connector.as_deref();
            accounts.contains(&account)
                && connector
                    .is_none_or(|name| connectors.contains_key(&Key::new(&review.namespace, name)))
        });
    }

    /// The state of a node, and the reviews that it waits for.
    pub fn evaluate(&mut self, node: &str) -> (NodeState, BTreeSet<Review>) {
        match self.nodes.get_mut(node) {
            Some(pods) => pods.evaluate(&self.catalog, &self.reviews),
            None => Default::default(),
        }
    }

    fn reconcile(&mut self, keys: impl IntoIterator<Item = Key>, now: &str) -> Effects {
        let mut effects = Effects::default();
        let mut namespaces = BTreeSet::new();
        for key in keys {
            if let Some(status) = self.reconcile_one(&key, now, &mut namespaces) {
                effects.statuses.insert(key, status);
            }
        }
        for namespace in namespaces {
            effects.nodes.append(&mut self.nodes_of(&namespace));
        }
        effects
    }

    /// The status to write, if any; the namespace is added if its nodes have to be told.
    fn reconcile_one(
        &mut self,
        key: &Key,
        now: &str,
        namespaces: &mut BTreeSet<String>,
    ) -> Option<ConnectorStatus> {
        let object = self.connectors.get_mut(key)?;
        let names = References::of(object);
        let secret = |name: Option<&str>| self.secrets.get(&Key::new(&key.namespace, name?));
        let held = secret(names.secret);
        let objects = Objects {
            class: names.class.and_then(|name| self.classes.get(name)),
            secret: held.map(|it| &it.data),
            ca_secret: secret(names.ca_secret).map(|it| &it.data),
        };
        let waits = [names.secret, names.ca_secret]
            .into_iter()
            .flatten()
            .any(|name| self.awaited.contains(&Key::new(&key.namespace, name)));
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let id = self.catalog.id(&key.namespace, &key.name, uid);
        let mut outcome = reconcile(id, object, objects);
        if outcome.depends_on_time() {
            self.dated.insert(key.clone());
        } else {
            self.dated.remove(key);
        }
        if let Ok(now) = now.parse::<Timestamp>() {
            outcome.judge_time(now.into(), object.status.as_ref());
        }
        let fault = self.unreadable.get(key);
        if let Some(fault) = fault {
            outcome.refuse(fault);
        }
        let is_within = self.quota.admits(key);
        if !is_within {
            outcome.leave_out();
        }
        let version = held.map(HeldSecret::version);
        let resolution = outcome.resolution;
        if self
            .catalog
            .publish(&key.namespace, &key.name, resolution, version)
        {
            namespaces.insert(key.namespace.clone());
        }
        if waits && fault.is_none() && is_within {
            return None;
        }
        let generation = object.metadata.generation;
        let current = object.status.as_ref();
        let status = status::merge(current, &outcome.conditions, generation, now)?;
        // Until the watch shows what was written, this is what the next change starts from.
        object.status = Some(status.clone());
        Some(status)
    }

    /// The nodes that have pods of a namespace.
    fn nodes_of(&self, namespace: &str) -> BTreeSet<String> {
        let nodes = self.nodes.iter();
        nodes
            .filter(|(_, node)| node.has_pods_of(namespace))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Wipes the values of Secrets that no Connector names any more.
    fn drop_unused_secrets(&mut self) {
        let users = &self.users;
        let used = |key: &Key| users.has(&Dependency::Secret(key.clone()));
        self.secrets.retain(|key, _| used(key));
        self.awaited.retain(used);
    }

    fn at(node: Option<&str>) -> Effects {
        Effects {
            nodes: node.into_iter().map(str::to_owned).collect(),
            ..Effects::default()
        }
    }
}

impl HeldSecret {
    fn version(&self) -> SecretVersion<'_> {
        SecretVersion {
            uid: &self.uid,
            resource_version: &self.resource_version,
        }
    }
}
