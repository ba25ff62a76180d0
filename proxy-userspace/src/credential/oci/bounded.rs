//! A map that forgets what was not used for longest.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// At most `capacity` entries; inserting one more evicts the least recently used.
pub(super) struct Bounded<K, V> {
    entries: HashMap<K, (V, u64)>,
    capacity: usize,
    uses: u64,
}

impl<K: Eq + Hash + Clone, V: Clone> Bounded<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            capacity: capacity.max(1),
            uses: 0,
        }
    }

    pub(super) fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.uses += 1;
        let (value, used) = self.entries.get_mut(key)?;
        *used = self.uses;
        Some(value.clone())
    }

    /// Looks through all entries for one to evict, which happens only when the map is full.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            let oldest = self.entries.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&oldest);
            }
        }
        self.uses += 1;
        self.entries.insert(key, (value, self.uses));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_entry_makes_room() {
        let mut map = Bounded::new(2);
        map.insert("a".to_owned(), 1);
        map.insert("b".to_owned(), 2);
        assert_eq!(map.get("a"), Some(1));
        map.insert("c".to_owned(), 3);
        assert_eq!(
            (map.get("a"), map.get("b"), map.get("c")),
            (Some(1), None, Some(3))
        );
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn replacing_an_entry_evicts_nothing() {
        let mut map = Bounded::new(2);
        map.insert("a".to_owned(), 1);
        map.insert("b".to_owned(), 2);
        map.insert("b".to_owned(), 3);
        assert_eq!((map.get("a"), map.get("b")), (Some(1), Some(3)));
    }
}
