//! The state of the cluster behind one lock, and the bell that rings on every change.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::api::{Target, WriteOptions};
use crate::auth::Tokens;
use crate::crd;
use crate::resource::{Collection, Registry, Resource};
use crate::store::{Key, LOG_CAPACITY, Store};

/// Everything that the server knows.
#[derive(Debug)]
pub struct State {
    /// The objects.
    pub store: Store,
    /// What is served.
    pub registry: Registry,
    /// Who the bearers of tokens are.
    pub tokens: Tokens,
    /// Whether a pod on a node stays until its node confirms its end.
    pub graceful_pods: bool,
    /// Objects by the uid of an owner.
    pub(crate) dependents: HashMap<String, BTreeSet<(Collection, Key)>>,
    pub(crate) next_address: u32,
}

/// The state, shared by all connections.
#[derive(Debug)]
pub struct Cluster {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

impl Cluster {
    /// A cluster with the namespaces and roles that every cluster has.
    pub fn new(tokens: Tokens, graceful_pods: bool) -> Self {
        let mut state = State {
            store: Store::new(LOG_CAPACITY),
            registry: Registry::default(),
            tokens,
            graceful_pods,
            dependents: HashMap::new(),
            next_address: 10,
        };
        state.bootstrap();
        let revision = watch::Sender::new(state.store.revision());
        Self { state: Mutex::new(state), revision }
    }

    /// Looks at the state.
    pub fn read(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and tells all watches.
    pub fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (result, revision) = {
            let mut state = self.read();
            (change(&mut state), state.store.revision())
        };
        self.revision.send_replace(revision);
        result
    }

    /// Rings on every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

impl State {
    fn bootstrap(&mut self) {
        let rule = |all: &str| json!([{"apiGroups": [all], "resources": [all], "verbs": [all]}, {"nonResourceURLs": [all], "verbs": [all]}]);
        let read = json!([{"nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version"], "verbs": ["get"]}]);
        let reviews = json!([{"apiGroups": ["authorization.k8s.io", "authentication.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectreviews"], "verbs": ["create"]}]);
        let first: Vec<(&str, &str, &str, Value)> = vec![
            ("", "namespaces", "default", json!({})),
            ("", "namespaces", "kube-system", json!({})),
            ("rbac.authorization.k8s.io", "clusterroles", "cluster-admin", json!({"rules": rule("*")})),
            ("rbac.authorization.k8s.io", "clusterroles", "system:discovery", json!({"rules": read})),
            ("rbac.authorization.k8s.io", "clusterroles", "system:basic-user", json!({"rules": reviews})),
            ("rbac.authorization.k8s.io", "clusterrolebindings", "cluster-admin", bind("cluster-admin", "system:masters")),
            ("rbac.authorization.k8s.io", "clusterrolebindings", "system:discovery", bind("system:discovery", "system:authenticated")),
            ("rbac.authorization.k8s.io", "clusterrolebindings", "system:basic-user", bind("system:basic-user", "system:authenticated")),
        ];
        for (group, plural, name, mut object) in first {
            object["metadata"] = json!({"name": name});
            let Some(resource) = self.registry.find(group, "v1", plural) else { continue };
            let target = Target { resource, namespace: String::new(), name: String::new(), subresource: String::new() };
            let options = WriteOptions { manager: "kube-apiserver".to_owned(), ..WriteOptions::default() };
            // These objects are correct; the tests would notice a missing one.
            drop(self.create(&target, object, &options));
        }
    }

    /// Stores an object; every write goes through here.
    pub(crate) fn save(&mut self, resource: &Resource, key: Key, object: Value) -> Arc<Value> {
        for owner in owners(&object) {
            let dependent = (resource.collection.clone(), key.clone());
            self.dependents.entry(owner).or_default().insert(dependent);
        }
        let stored = self.store.put(&resource.collection, key, object);
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
            self.serve(&stored);
        }
        stored
    }

    /// Serves what a definition defines.
    fn serve(&mut self, definition: &Value) {
        let resources = crd::resources(definition);
        if let Some(first) = resources.first() {
            let (group, plural) = (first.group.clone(), first.plural.clone());
            self.registry.remove(&group, &plural);
        }
        for resource in resources {
            self.registry.insert(resource);
        }
    }
}

fn bind(role: &str, group: &str) -> Value {
    let api_group = "rbac.authorization.k8s.io";
    json!({
        "roleRef": {"apiGroup": api_group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": api_group, "kind": "Group", "name": group}],
    })
}

/// The uids of an object's owners.
pub(crate) fn owners(object: &Value) -> Vec<String> {
    let references = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    references.into_iter().flatten().filter_map(|owner| owner.get("uid")?.as_str()).map(str::to_owned).collect()
}
