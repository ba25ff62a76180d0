//! Objects in memory, and the log of their changes.
//!
//! One counter numbers every change of any object, as etcd does. The log is bounded: what
//! has fallen out of it can neither be watched from nor listed at.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use crate::resource::Collection;

/// Namespace (empty for cluster-wide objects) and name.
pub type Key = (String, String);

/// How many changes are kept by default.
pub const LOG_CAPACITY: usize = 100_000;

/// One change of one object.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its number.
    pub revision: u64,
    /// Where the object is stored.
    pub collection: Arc<Collection>,
    /// Its name.
    pub key: Key,
    /// The object before, none if it was created.
    pub before: Option<Arc<Value>>,
    /// The object after; for a deletion its last state, with the deletion's revision.
    pub after: Arc<Value>,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// All objects.
#[derive(Debug)]
pub struct Store {
    revision: u64,
    /// Changes up to this one are forgotten.
    compacted: u64,
    collections: BTreeMap<Arc<Collection>, BTreeMap<Key, Arc<Value>>>,
    log: VecDeque<Change>,
    capacity: usize,
}

/// The changes that were asked for are no longer known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// The oldest revision that can still be asked for.
    pub oldest: u64,
}

impl Store {
    /// An empty store that remembers `capacity` changes.
    pub fn new(capacity: usize) -> Self {
        Self { revision: 1, compacted: 0, collections: BTreeMap::new(), log: VecDeque::new(), capacity }
    }

    /// The number of the last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    pub fn get(&self, collection: &Collection, key: &Key) -> Option<&Arc<Value>> {
        self.collections.get(collection)?.get(key)
    }

    /// All objects of a collection, in the order of namespace and name.
    pub fn objects(&self, collection: &Collection) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.collections.get(collection).into_iter().flatten()
    }

    /// Every collection that has or had objects.
    pub fn collections(&self) -> impl Iterator<Item = &Arc<Collection>> {
        self.collections.keys()
    }

    /// Creates or replaces an object, which gets the next resourceVersion.
    pub fn put(&mut self, collection: &Collection, key: Key, object: Value) -> Arc<Value> {
        let object = self.stamp(object);
        let collection = self.intern(collection);
        let objects = self.collections.entry(Arc::clone(&collection)).or_default();
        let before = objects.insert(key.clone(), Arc::clone(&object));
        self.record(Change {
            revision: self.revision,
            collection,
            key,
            before,
            after: Arc::clone(&object),
            deleted: false,
        });
        object
    }

    /// Deletes an object and returns its last state.
    pub fn remove(&mut self, collection: &Collection, key: &Key) -> Option<Arc<Value>> {
        let before = self.collections.get_mut(collection)?.remove(key)?;
        let last = self.stamp((*before).clone());
        let collection = self.intern(collection);
        self.record(Change {
            revision: self.revision,
            collection,
            key: key.clone(),
            before: Some(before),
            after: Arc::clone(&last),
            deleted: true,
        });
        Some(last)
    }

    /// A collection as it was at a revision.
    pub fn at(&self, collection: &Collection, revision: u64) -> Result<BTreeMap<Key, Arc<Value>>, Compacted> {
        let mut objects = self.collections.get(collection).cloned().unwrap_or_default();
        if revision >= self.revision {
            return Ok(objects);
        }
        self.reachable(revision)?;
        let later = self.log.iter().rev().take_while(|change| change.revision > revision);
        for change in later.filter(|change| *change.collection == *collection) {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects)
    }

    /// The changes after a revision, oldest first.
    pub fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, Compacted> {
        self.reachable(revision)?;
        let start = self.log.partition_point(|change| change.revision <= revision);
        Ok(self.log.range(start..))
    }

    /// Forgets all changes so far: whoever asks for an older revision gets 410.
    pub fn compact(&mut self) {
        self.log.clear();
        self.compacted = self.revision;
    }

    fn reachable(&self, revision: u64) -> Result<(), Compacted> {
        if revision < self.compacted { Err(Compacted { oldest: self.compacted }) } else { Ok(()) }
    }

    fn stamp(&mut self, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        Arc::new(object)
    }

    fn intern(&self, collection: &Collection) -> Arc<Collection> {
        match self.collections.get_key_value(collection) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(collection.clone()),
        }
    }

    fn record(&mut self, change: Change) {
        self.log.push_back(change);
        while self.log.len() > self.capacity {
            if let Some(forgotten) = self.log.pop_front() {
                self.compacted = forgotten.revision;
            }
        }
    }
}
