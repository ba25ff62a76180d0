//! What the loop decides: from changes and answers to requests, and to states of nodes.
//! Without input, output or a clock.

#[cfg(test)]
mod tests;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use connectors::cluster::References;
use kube::runtime::watcher::Event;
use proxy_common::api::{self, ConnectorStatus};

use super::change::{Change, RoleKey, RoleKind, Seen, Version};
use super::queue::{Job, Queue, Urgency};
use super::relist::Relist;
use crate::grants::{Pod, Review};
use crate::kubernetes::ObjectVersion;
use crate::model::{Effects, Key, Model};
use crate::nodes::Nodes;
use crate::snapshot::{NoRandomness, NodeState};

pub(super) use traffic::{Answer, Call, Failed};

/// How often a request may fail before nodes are told what there is without its answer.
pub(super) const PATIENCE: u32 = 5;

/// A status on its way to the API server.
#[derive(Debug)]
struct Write {
    /// What it was worked out from.
    version: ObjectVersion,
    status: ConnectorStatus,
    /// The request with this very status was sent.
    sent: bool,
    /// The object was another one by then: the watch will show it.
    stale: bool,
}

/// Whose answers a change of roles may change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Cluster,
    Namespace(String),
}

/// Everything the loop knows.
pub(super) struct State {
    model: Model,
    connectors: Relist<Key, ()>,
    classes: Relist<String, ()>,
    secrets: Relist<Key, Version>,
    /// Pods by uid, with their nodes.
    pods: Relist<String, String>,
    roles: BTreeMap<RoleKind, Relist<RoleKey, String>>,
    queue: Queue,
    /// Which version of a Secret was known when the request was sent that is under way.
    fetching: BTreeMap<Key, Version>,
    writes: BTreeMap<Key, Write>,
    /// What was written a short while ago. If somebody else undoes that, it is not written
    /// again at once: another version of the controller may think that it is right.
    recent: BTreeMap<Key, Write>,
    /// Whose statuses were written since that was asked for.
    written: Vec<Key>,
    /// Nodes to evaluate.
    dirty: BTreeSet<String>,
    /// States that nobody may see yet; `None` once everybody may.
    withheld: Option<BTreeMap<String, Arc<NodeState>>>,
    /// Secrets that the controller may not read: trying again does not help by itself.
    denied: BTreeSet<Key>,
    /// Whose roles changed since that was asked for.
    changed_roles: BTreeSet<Scope>,
}

impl State {
    /// Of an empty cluster.
    pub(super) fn new() -> Result<Self, NoRandomness> {
        let roles = RoleKind::ALL.map(|kind| (kind, Relist::default()));
        Ok(Self {
            model: Model::new()?,
            connectors: Relist::default(),
            classes: Relist::default(),
            secrets: Relist::default(),
            pods: Relist::default(),
            roles: roles.into(),
            queue: Queue::default(),
            fetching: BTreeMap::new(),
            writes: BTreeMap::new(),
            recent: BTreeMap::new(),
            written: Vec::new(),
            dirty: BTreeSet::new(),
            withheld: Some(BTreeMap::new()),
            denied: BTreeSet::new(),
            changed_roles: BTreeSet::new(),
        })
    }

    /// The namespaces that have Connectors.
    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        self.model.namespaces()
    }

    /// Whether the classes and Secrets are known that Connectors name.
    pub(super) fn knows_what_connectors_name(&self) -> bool {
        self.classes.is_filled() && self.secrets.is_filled()
    }

    /// Takes over what a watch shows. `now` (RFC 3339) is the time of transitions.
    pub(super) fn change(&mut self, change: Change, now: &str) {
        match change {
            Change::Connector(event) => self.connector(event, now),
            Change::Class(event) => self.class(event, now),
            Change::Secret(event) => self.secret(event, now),
            Change::Pod(event) => self.pod(event),
            Change::Role(kind, event) => self.role(kind, event),
        }
    }

    fn connector(&mut self, event: Event<(Key, Seen)>, now: &str) {
        match event {
            Event::Init => self.connectors.begin(),
            Event::InitApply((key, seen)) | Event::Apply((key, seen)) => {
                self.connectors.apply(key.clone(), ());
                let object = *seen.object;
                match seen.fault {
                    None => self.upsert_connector(&key, object, now),
                    Some(fault) => {
                        let effects = self.model.upsert_unreadable(object, fault, now);
                        self.follow_connector(&key, effects);
                    }
                }
            }
            Event::Delete((key, _)) => {
                self.connectors.remove(&key);
                self.remove_connector(&key, now);
            }
            Event::InitDone => {
                for (key, ()) in self.connectors.finish() {
                    self.remove_connector(&key, now);
                }
            }
        }
    }

    fn upsert_connector(&mut self, key: &Key, object: api::Connector, now: &str) {
        let names = References::of(&object);
        let secrets: Vec<Key> = [names.secret, names.ca_secret]
            .into_iter()
            .flatten()
            .map(|name| Key::new(&key.namespace, name))
            .collect();
        for secret in &secrets {
            let held = self.model.secret_version(secret).is_some();
            if !held && self.secrets.get(secret).is_some() {
                let effects = self.model.await_secret(secret, now);
                self.follow(effects);
            }
        }
        let effects = self.model.upsert_connector(object, now);
        self.follow_connector(key, effects);
        for secret in secrets {
            self.look_at_secret(secret, now);
        }
    }

    fn follow_connector(&mut self, key: &Key, effects: Effects) {
        if !effects.statuses.contains_key(key) {
            // It says what it should, or what it should say is not known yet.
            self.forget_write(key);
        }
        self.follow(effects);
    }

    fn remove_connector(&mut self, key: &Key, now: &str) {
        let effects = self.model.remove_connector(key, now);
        self.forget_write(key);
        self.follow(effects);
    }

    fn class(&mut self, event: Event<(String, Option<Arc<api::ConnectorClass>>)>, now: &str) {
        let effects = match event {
            Event::Init => return self.classes.begin(),
            Event::InitApply((name, Some(class))) | Event::Apply((name, Some(class))) => {
                self.classes.apply(name, ());
                self.model.upsert_class(class, now)
            }
            Event::InitApply((name, None))
            | Event::Apply((name, None))
            | Event::Delete((name, _)) => {
                self.classes.remove(&name);
                self.model.remove_class(&name, now)
            }
            Event::InitDone => {
                for (name, ()) in self.classes.finish() {
                    let effects = self.model.remove_class(&name, now);
                    self.follow(effects);
                }
                return;
            }
        };
        self.follow(effects);
    }

    fn secret(&mut self, event: Event<(Key, Version)>, now: &str) {
        match event {
            Event::Init => self.secrets.begin(),
            Event::InitApply((key, version)) | Event::Apply((key, version)) => {
                self.secrets.apply(key.clone(), version);
                self.look_at_secret(key, now);
            }
            Event::Delete((key, _)) => {
                self.secrets.remove(&key);
                self.look_at_secret(key, now);
            }
            Event::InitDone => {
                for (key, _) in self.secrets.finish() {
                    self.look_at_secret(key, now);
                }
            }
        }
    }

    /// Does what has to be done about a Secret, if any Connector names it.
    fn look_at_secret(&mut self, key: Key, now: &str) {
        if !self.model.wants_secret(&key) {
            return;
        }
        let Some(version) = self.secrets.get(&key) else {
            self.queue.cancel(&Job::Fetch(key.clone()));
            let effects = self.model.remove_secret(&key, now);
            return self.follow(effects);
        };
        let held = self.model.secret_version(&key);
        if held.is_some_and(|it| version.is(it.uid, it.resource_version)) {
            return;
        }
        // Another Secret of the same name: the values of the first one are gone.
        if held.is_none_or(|it| it.uid != version.uid) {
            let effects = self.model.await_secret(&key, now);
            self.follow(effects);
        }
        self.queue.push(Job::Fetch(key), Urgency::Urgent);
    }

    fn pod(&mut self, event: Event<(String, Option<(String, Pod)>)>) {
        match event {
            Event::Init => self.pods.begin(),
            Event::InitApply((uid, Some((node, pod)))) | Event::Apply((uid, Some((node, pod)))) => {
                self.pods.apply(uid, node.clone());
                let effects = self.model.upsert_pod(&node, pod);
                self.follow(effects);
            }
            Event::InitApply((uid, None)) | Event::Apply((uid, None)) | Event::Delete((uid, _)) => {
                if let Some(node) = self.pods.remove(&uid) {
                    let effects = self.model.remove_pod(&node, &uid);
                    self.follow(effects);
                }
            }
            Event::InitDone => {
                for (uid, node) in self.pods.finish() {
                    let effects = self.model.remove_pod(&node, &uid);
                    self.follow(effects);
                }
            }
        }
    }

    fn role(&mut self, kind: RoleKind, event: Event<(RoleKey, String)>) {
        let relist = self.roles.entry(kind).or_default();
        // Before the first list is complete nothing was asked.
        let counts = relist.is_filled();
        let changed: Vec<RoleKey> = match event {
            Event::Init => return relist.begin(),
            Event::InitApply((key, version)) | Event::Apply((key, version)) => {
                let before = relist.apply(key.clone(), version.clone());
                let changes = before.as_ref() != Some(&version);
                changes.then_some(key).into_iter().collect()
            }
            Event::Delete((key, _)) => {
                relist.remove(&key);
                vec![key]
            }
            Event::InitDone => relist.finish().into_iter().map(|(key, _)| key).collect(),
        };
        for (namespace, _) in changed.into_iter().filter(|_| counts) {
            let scope = namespace.map_or(Scope::Cluster, Scope::Namespace);
            self.ask_again(&scope);
            self.changed_roles.insert(scope);
        }
    }

    /// Asks again whatever may have another answer now.
    fn ask_again(&mut self, scope: &Scope) {
        let under_way = self.queue.under_way().filter_map(|job| match job {
            Job::Ask(review) => Some(review),
            _ => None,
        });
        let reviews: Vec<Review> = self
            .model
            .reviews()
            .chain(under_way)
            .filter(|review| scope.has(&review.namespace))
            .cloned()
            .collect();
        for review in reviews {
            self.queue.push(Job::Ask(review), Urgency::Again);
        }
    }

    /// Whose roles changed since this was called; each change wants a [`Self::recheck`] some
    /// time later.
    pub(super) fn take_changed_roles(&mut self) -> BTreeSet<Scope> {
        std::mem::take(&mut self.changed_roles)
    }

    /// Asks once more about the roles that changed: the API server that answered may not have
    /// heard of the change when it was asked at once.
    pub(super) fn recheck(&mut self, scopes: BTreeSet<Scope>) {
        for scope in scopes {
            self.ask_again(&scope);
        }
    }

    /// Tidies up, looks at certificates once more, which expire by themselves, and asks all
    /// reviews again: authorisation may depend on more than roles.
    pub(super) fn refresh(&mut self, nodes: &Nodes, now: &str) {
        let effects = self.model.look_at_clock(now);
        self.follow(effects);
        self.model.drop_unused_reviews();
        self.ask_again(&Scope::Cluster);
        if self.withheld.is_some() {
            return;
        }
        let idle: BTreeSet<String> = self.model.nodes_without_pods().map(str::to_owned).collect();
        let busy: BTreeSet<&str> = self
            .model
            .nodes()
            .filter(|it| !idle.contains(*it))
            .collect();
        let forgotten = nodes.retain(|node| busy.contains(node) || self.dirty.contains(node));
        for node in forgotten {
            self.model.remove_node(&node);
        }
    }

    fn forget_write(&mut self, key: &Key) {
        self.writes.remove(key);
        self.queue.cancel(&Job::Write(key.clone()));
    }

    fn follow(&mut self, mut effects: Effects) {
        self.dirty.append(&mut effects.nodes);
        for (key, status) in effects.statuses {
            let Some(version) = self.model.connector_version(&key) else {
                continue;
            };
            let write = Write {
                version,
                status,
                sent: false,
                stale: false,
            };
            let waiting = self.writes.get(&key);
            if waiting.is_some_and(|it| it.version == write.version && it.says_the_same(&write)) {
                continue;
            }
            let job = Job::Write(key.clone());
            if waiting.is_some_and(|it| it.stale) {
                // What it waits for has come.
                self.queue.cancel(&job);
            }
            let recent = self.recent.get(&key);
            let was_undone = recent.is_some_and(|it| it.says_the_same(&write));
            self.writes.insert(key, write);
            if !was_undone {
                self.queue.push(job, Urgency::Normal);
            }
        }
    }

    /// Pods that wait for the first answer of a review, by namespace and name; none if there is an
    /// answer that holds.
    pub(super) fn waiting_for(&self, review: &Review) -> Vec<String> {
        if self.model.has_answer(review) {
            return Vec::new();
        }
        let pods = self.model.pods_of(review);
        pods.map(|pod| format!("{}/{}", pod.namespace, pod.name))
            .collect()
    }

    /// Whose statuses were written since this was called; each wants a [`Self::rested`] some
    /// time later.
    pub(super) fn take_written(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.written)
    }

    /// It is a while ago that a status was written: what was held back since goes out.
    pub(super) fn rested(&mut self, key: Key) {
        self.recent.remove(&key);
        if self.writes.get(&key).is_some_and(|it| !it.sent) {
            self.queue.push(Job::Write(key), Urgency::Normal);
        }
    }

    /// Works out the states of the nodes that something changed for, and tells them. The
    /// first time that is held back until everything is known that they depend on: half of
    /// the truth would take away what running pods are granted.
    pub(super) fn publish(&mut self, nodes: &Nodes) {
        if !self.is_filled() {
            return;
        }
        for node in std::mem::take(&mut self.dirty) {
            let (state, open) = self.model.evaluate(&node);
            for review in open {
                self.queue.ensure(Job::Ask(review), Urgency::Urgent);
            }
            let state = Arc::new(state);
            match &mut self.withheld {
                Some(withheld) => drop(withheld.insert(node, state)),
                None => nodes.publish(&node, state),
            }
        }
        if self.withheld.is_some()
            && self.is_settled()
            && let Some(withheld) = self.withheld.take()
        {
            for (node, state) in withheld {
                nodes.publish(&node, state);
            }
            nodes.complete();
        }
    }

    /// Whether each watch has shown all there is.
    fn is_filled(&self) -> bool {
        self.connectors.is_filled()
            && self.classes.is_filled()
            && self.secrets.is_filled()
            && self.pods.is_filled()
            && self.roles.values().all(Relist::is_filled)
    }

    /// Whether all is known that nodes depend on, or was asked for in vain. What is known and
    /// looked at again holds nobody up: somewhere roles and Secrets change all the time.
    fn is_settled(&self) -> bool {
        self.queue.unsettled().all(|(job, failures)| match job {
            _ if failures >= PATIENCE => true,
            Job::Fetch(key) => {
                self.denied.contains(key) || self.model.secret_version(key).is_some()
            }
            Job::Ask(review) => self.model.has_answer(review),
            Job::Write(_) => true,
        })
    }
}

impl Version {
    fn is(&self, uid: &str, resource_version: &str) -> bool {
        (&*self.uid, &*self.resource_version) == (uid, resource_version)
    }
}

impl Scope {
    fn has(&self, namespace: &str) -> bool {
        match self {
            Self::Cluster => true,
            Self::Namespace(own) => own == namespace,
        }
    }
}

impl Write {
    /// Whether nothing but times would be different.
    fn says_the_same(&self, other: &Self) -> bool {
        let timeless = |status: &ConnectorStatus| {
            let mut status = status.clone();
            for condition in &mut status.conditions {
                condition.last_transition_time = None;
            }
            status
        };
        self.version.uid == other.version.uid && timeless(&self.status) == timeless(&other.status)
    }
}
