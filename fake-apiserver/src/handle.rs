//! What a test can see of a running server and do to it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::api::{ListOptions, Target, WriteOptions, encode};
use crate::auth::Token;
use crate::cluster::Cluster;
use crate::error::{ApiError, Result};
use crate::faults::{Fault, Faults, Matching};
use crate::journal::{Entry, Journal};

/// How connections and watches are told to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) watches: u64,
    pub(crate) connections: u64,
    pub(crate) away: bool,
}

/// The server's other side; clones are the same server.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) epoch: watch::Sender<Epoch>,
}

impl Handle {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self {
            cluster: Arc::new(cluster),
            faults: Arc::default(),
            journal: Arc::default(),
            epoch: watch::Sender::new(Epoch::default()),
        }
    }

    /// Forgets the history: a watch or list from an older resourceVersion gets 410.
    pub fn compact(&self) {
        self.cluster.write(|state| state.store.compact());
    }

    /// The newest resourceVersion.
    pub fn revision(&self) -> u64 {
        self.cluster.read().store.revision()
    }

    /// Ends all running watches, as a server does that is rolled.
    pub fn drop_watches(&self) {
        self.epoch.send_modify(|epoch| epoch.watches += 1);
    }

    /// Cuts all connections in the middle of whatever they do.
    pub fn cut_connections(&self) {
        self.epoch.send_modify(|epoch| epoch.connections += 1);
    }

    /// Takes the server away: connections are cut and new ones are closed at once.
    pub fn set_away(&self, away: bool) {
        self.epoch.send_modify(|epoch| {
            epoch.connections += u64::from(away);
            epoch.away = away;
        });
    }

    /// Lets the next requests fail.
    pub fn fail_next(&self, times: usize, fault: Fault) {
        self.faults.fail(Matching::any(), fault, times);
    }

    /// Lets the next requests of a kind fail.
    pub fn fail_matching(&self, matching: Matching, times: usize, fault: Fault) {
        self.faults.fail(matching, fault, times);
    }

    /// Makes requests of a kind wait; a zero delay ends it.
    pub fn delay(&self, matching: Matching, delay: Duration) {
        self.faults.delay(matching, delay);
    }

    /// Forgets all faults and delays.
    pub fn clear_faults(&self) {
        self.faults.clear();
    }

    /// Makes a token valid.
    pub fn add_token(&self, token: &str, meaning: Token) {
        self.cluster.write(|state| state.tokens.insert(token, meaning));
    }

    /// Makes a token invalid.
    pub fn revoke_token(&self, token: &str) {
        self.cluster.write(|state| state.tokens.revoke(token));
    }

    /// All requests so far, oldest first.
    pub fn requests(&self) -> Vec<Entry> {
        self.journal.entries()
    }

    /// The requests that changed objects.
    pub fn writes(&self) -> Vec<Entry> {
        self.requests().into_iter().filter(Entry::is_write).collect()
    }

    /// Forgets all requests so far.
    pub fn clear_requests(&self) {
        self.journal.clear();
    }

    /// An object as it is stored, past authentication and the log. The API version is
    /// `v1` or `group/version`; the namespace is empty for cluster-wide resources.
    pub fn object(&self, api_version: &str, plural: &str, namespace: &str, name: &str) -> Result<Value> {
        let state = self.cluster.read();
        state.get(&target(&state, api_version, plural, namespace, name)?)
    }

    /// All objects of a resource, in one namespace or, with an empty one, in all.
    pub fn objects(&self, api_version: &str, plural: &str, namespace: &str) -> Result<Vec<Value>> {
        let state = self.cluster.read();
        let target = target(&state, api_version, plural, namespace, "")?;
        let list = state.list(&target, &ListOptions::default())?;
        Ok(list.items.iter().map(|object| encode(&target.resource, object)).collect())
    }

    /// Creates an object past HTTP, for tests that need many.
    pub fn create(&self, api_version: &str, plural: &str, namespace: &str, object: Value) -> Result<Value> {
        self.cluster.write(|state| {
            let target = target(state, api_version, plural, namespace, "")?;
            let options = WriteOptions { manager: "fake-apiserver".to_owned(), ..WriteOptions::default() };
            state.create(&target, object, &options).map(|written| written.object)
        })
    }
}

fn target(state: &crate::cluster::State, api_version: &str, plural: &str, namespace: &str, name: &str) -> Result<Target> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = state.registry.find(group, version, plural).ok_or_else(ApiError::no_such_path)?;
    Ok(Target { resource, namespace: namespace.to_owned(), name: name.to_owned(), subresource: String::new() })
}
