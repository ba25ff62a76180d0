//! How many Connectors of a namespace are told to nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::Key;

/// Connectors of one namespace that nodes are told of; the newest beyond it are not.
pub const CONNECTORS_OF_A_NAMESPACE: usize = 1000;

/// The Connectors of each namespace, oldest first.
#[derive(Debug, Default)]
pub(super) struct Quota {
    namespaces: BTreeMap<String, BTreeSet<(String, String)>>,
    /// The time of each, RFC 3339.
    created: BTreeMap<Key, String>,
}

impl Quota {
    /// A Connector exists. Returns whose place may have changed by that.
    pub(super) fn insert(&mut self, key: &Key, created: &str) -> BTreeSet<Key> {
        if self.created.get(key).is_some_and(|it| it == created) {
            return BTreeSet::new();
        }
        let mut moved = self.remove(key);
        self.created.insert(key.clone(), created.to_owned());
        let names = self.namespaces.entry(key.namespace.clone()).or_default();
        names.insert((created.to_owned(), key.name.clone()));
        moved.append(&mut self.at_the_limit(&key.namespace));
        moved
    }

    /// A Connector went. Returns whose place may have changed by that.
    pub(super) fn remove(&mut self, key: &Key) -> BTreeSet<Key> {
        let Some(created) = self.created.remove(key) else {
            return BTreeSet::new();
        };
        if let Some(names) = self.namespaces.get_mut(&key.namespace) {
            names.remove(&(created, key.name.clone()));
            if names.is_empty() {
                self.namespaces.remove(&key.namespace);
            }
        }
        self.at_the_limit(&key.namespace)
    }

    /// Whether nodes are told of a Connector.
    pub(super) fn admits(&self, key: &Key) -> bool {
        let (Some(names), Some(created)) =
            (self.namespaces.get(&key.namespace), self.created.get(key))
        else {
            return true;
        };
        if names.len() <= CONNECTORS_OF_A_NAMESPACE {
            return true;
        }
        let first_out = names.iter().nth(CONNECTORS_OF_A_NAMESPACE);
        first_out.is_none_or(|(time, name)| (created, &key.name) < (time, name))
    }

    /// The last one that is told and the first one that is not.
    fn at_the_limit(&self, namespace: &str) -> BTreeSet<Key> {
        let names = self.namespaces.get(namespace).into_iter().flatten();
        names
            .skip(CONNECTORS_OF_A_NAMESPACE - 1)
            .take(2)
            .map(|(_, name)| Key::new(namespace, name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key::new("team", &format!("c{number:04}"))
    }

    fn time(number: usize) -> String {
        format!("2026-01-01T{:02}:{:02}:00Z", number / 60, number % 60)
    }

    #[test]
    fn the_newest_beyond_the_limit_are_left_out_in_whatever_order_they_come() {
        let all = CONNECTORS_OF_A_NAMESPACE + 2;
        let mut quota = Quota::default();
        let mut told = BTreeSet::new();
        // The newest first, as a list may show them.
        for number in (0..all).rev() {
            let mut moved = quota.insert(&key(number), &time(number));
            moved.insert(key(number));
            for key in moved {
                if quota.admits(&key) {
                    told.insert(key);
                } else {
                    told.remove(&key);
                }
            }
        }
        let expected: BTreeSet<_> = (0..CONNECTORS_OF_A_NAMESPACE).map(key).collect();
        assert!(told == expected);
        // One goes, and the oldest of the others takes its place.
        let moved = quota.remove(&key(7));
        assert!(moved.contains(&key(CONNECTORS_OF_A_NAMESPACE)));
        assert!(quota.admits(&key(CONNECTORS_OF_A_NAMESPACE)));
        assert!(!quota.admits(&key(CONNECTORS_OF_A_NAMESPACE + 1)));
    }

    #[test]
    fn namespaces_have_a_limit_each() {
        let mut quota = Quota::default();
        for number in 0..CONNECTORS_OF_A_NAMESPACE {
            quota.insert(&key(number), "2026");
        }
        let other = Key::new("other", "new");
        quota.insert(&other, "2027");
        assert!(quota.admits(&other));
    }
}
