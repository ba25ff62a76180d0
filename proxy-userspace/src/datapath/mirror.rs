//! A map of the kernel together with what is known to be in it.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, MapData, MapError},
};

use super::DatapathError;

/// A hash map that this process alone writes: what is in it is known without asking, and
/// only what changes costs a system call.
pub(super) struct Mirror<K, V> {
    name: &'static str,
    map: BpfHashMap<MapData, K, V>,
    known: HashMap<K, V>,
}

impl<K: Pod + Eq + Hash, V: Pod + PartialEq> Mirror<K, V> {
    /// Starts with what is in the map already.
    pub(super) fn new(
        name: &'static str,
        map: BpfHashMap<MapData, K, V>,
    ) -> Result<Self, DatapathError> {
        let known = map
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|source| DatapathError::map(name, source))?;
        Ok(Self { name, map, known })
    }

    /// Adds or changes an entry; [`DatapathError::Full`] when there is no room for it.
    pub(super) fn put(
        &mut self,
        key: impl Borrow<K>,
        value: impl Borrow<V>,
    ) -> Result<(), DatapathError> {
        let (key, value) = (key.borrow(), value.borrow());
        if self.known.get(key) == Some(value) {
            return Ok(());
        }
        self.map
            .insert(key, value, 0)
            .map_err(|source| DatapathError::put(self.name, source))?;
        self.known.insert(*key, *value);
        Ok(())
    }

    /// Removes an entry, if there is one.
    pub(super) fn remove(&mut self, key: &K) -> Result<(), DatapathError> {
        if self.known.contains_key(key) {
            self.map
                .remove(key)
                .map_err(|source| DatapathError::map(self.name, source))?;
            self.known.remove(key);
        }
        Ok(())
    }

    /// Removes the entries whose keys are not wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(&K) -> bool) -> Result<(), DatapathError> {
        let gone: Vec<K> = self.keys().filter(|key| !wanted(key)).copied().collect();
        gone.iter().try_for_each(|key| self.remove(key))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.known.keys()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.known.values()
    }

    /// What is known to be under a key.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.known.get(key)
    }

    /// What the kernel has, for a process that does not write the map any more.
    pub(super) fn read(&self, key: &K) -> Result<Option<V>, DatapathError> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(DatapathError::map(self.name, source)),
        }
    }
}

/// Adds or changes entries. Returns the keys of those for which there is no room.
pub(super) fn put_all<K, V>(
    map: &mut Mirror<K, V>,
    wanted: &[(K, V)],
) -> Result<Vec<K>, DatapathError>
where
    K: Pod + Eq + Hash,
    V: Pod + PartialEq,
{
    let mut left_out = Vec::new();
    for (key, value) in wanted {
        match map.put(key, value) {
            Ok(()) => {}
            Err(DatapathError::Full { .. }) => left_out.push(*key),
            Err(error) => return Err(error),
        }
    }
    Ok(left_out)
}
