//! Which Connectors name an object.

use std::collections::{BTreeMap, BTreeSet};

use connectors::cluster::References;

use super::Key;

/// An object that Connectors name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dependency {
    Class(String),
    Secret(Key),
}

/// Both directions of who names what.
#[derive(Debug, Default)]
pub(super) struct Users {
    users: BTreeMap<Dependency, BTreeSet<Key>>,
    dependencies: BTreeMap<Key, BTreeSet<Dependency>>,
}

impl Users {
    /// Replaces what a Connector names.
    pub(super) fn set(&mut self, connector: &Key, names: &References<'_>) {
        self.clear(connector);
        let secret = |name: &str| Dependency::Secret(Key::new(&connector.namespace, name));
        let class = names.class.map(|name| Dependency::Class(name.to_owned()));
        let secrets = [names.secret, names.ca_secret].into_iter().flatten();
        let dependencies: BTreeSet<_> = class.into_iter().chain(secrets.map(secret)).collect();
        for dependency in &dependencies {
            let users = self.users.entry(dependency.clone()).or_default();
            users.insert(connector.clone());
        }
        self.dependencies.insert(connector.clone(), dependencies);
    }

    /// Forgets a Connector.
    pub(super) fn clear(&mut self, connector: &Key) {
        for dependency in self.dependencies.remove(connector).unwrap_or_default() {
            if let Some(users) = self.users.get_mut(&dependency) {
                users.remove(connector);
                if users.is_empty() {
                    self.users.remove(&dependency);
                }
            }
        }
    }

    /// The Connectors that name an object.
    pub(super) fn of(&self, dependency: &Dependency) -> BTreeSet<Key> {
        self.users.get(dependency).cloned().unwrap_or_default()
    }

    /// Whether any Connector names an object.
    pub(super) fn has(&self, dependency: &Dependency) -> bool {
        self.users.contains_key(dependency)
    }
}
