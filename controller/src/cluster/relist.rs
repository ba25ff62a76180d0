//! What a watch has shown so far, so that a list that replaces it shows what went meanwhile.

use std::collections::{BTreeMap, BTreeSet};

/// The objects of one watch: a note of each, by its key.
#[derive(Debug)]
pub(super) struct Relist<K, V> {
    known: BTreeMap<K, V>,
    /// What the running list has shown; `None` outside of one.
    listed: Option<BTreeSet<K>>,
    filled: bool,
}

impl<K, V> Default for Relist<K, V> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            listed: None,
            filled: false,
        }
    }
}

impl<K: Clone + Ord, V> Relist<K, V> {
    /// A list begins; one that was under way is forgotten.
    pub(super) fn begin(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// An object was shown. Returns the note that there was of it.
    pub(super) fn apply(&mut self, key: K, note: V) -> Option<V> {
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        self.known.insert(key, note)
    }

    /// An object went. Returns the note that there was of it.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        if let Some(listed) = &mut self.listed {
            listed.remove(key);
        }
        self.known.remove(key)
    }

    /// The list is complete. Returns what it did not show.
    pub(super) fn finish(&mut self) -> Vec<(K, V)> {
        self.filled = true;
        let Some(listed) = self.listed.take() else {
            return Vec::new();
        };
        let known = std::mem::take(&mut self.known);
        let (kept, gone) = known.into_iter().partition(|(key, _)| listed.contains(key));
        self.known = kept;
        BTreeMap::into_iter(gone).collect()
    }

    /// Whether there was a whole list.
    pub(super) fn is_filled(&self) -> bool {
        self.filled
    }

    /// The note of an object.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.known.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(keys: &[&'static str]) -> Relist<&'static str, u32> {
        let mut relist = Relist::default();
        relist.begin();
        for key in keys {
            relist.apply(*key, 1);
        }
        assert_eq!(relist.finish(), []);
        relist
    }

    #[test]
    fn a_list_shows_what_went_meanwhile() {
        let mut relist = filled(&["a", "b", "c"]);
        relist.begin();
        assert_eq!(relist.apply("b", 2), Some(1));
        assert_eq!(relist.apply("d", 2), None);
        assert_eq!(relist.finish(), [("a", 1), ("c", 1)]);
        assert_eq!((relist.get(&"b"), relist.get(&"a")), (Some(&2), None));
    }

    #[test]
    fn a_list_that_fails_half_way_removes_nothing() {
        let mut relist = filled(&["a", "b"]);
        relist.begin();
        relist.apply("a", 1);
        relist.begin();
        relist.apply("b", 1);
        relist.apply("a", 1);
        assert_eq!(relist.finish(), []);
    }

    #[test]
    fn a_watch_removes_what_it_says_and_no_more() {
        let mut relist = filled(&["a", "b"]);
        assert_eq!(relist.remove(&"a"), Some(1));
        assert_eq!(relist.remove(&"a"), None);
        assert_eq!(relist.apply("c", 3), None);
        assert_eq!(relist.get(&"b"), Some(&1));
    }

    #[test]
    fn what_goes_in_the_middle_of_a_list_is_gone_once() {
        let mut relist = filled(&["a"]);
        relist.begin();
        relist.apply("a", 1);
        assert_eq!(relist.remove(&"a"), Some(1));
        assert_eq!(relist.finish(), []);
        assert_eq!(relist.get(&"a"), None);
    }

    #[test]
    fn it_is_filled_by_a_whole_list_only() {
        let mut relist: Relist<&str, ()> = Relist::default();
        assert!(!relist.is_filled());
        relist.begin();
        relist.apply("a", ());
        assert!(!relist.is_filled());
        relist.finish();
        assert!(relist.is_filled());
        relist.begin();
        assert!(relist.is_filled(), "a later list takes nothing back");
    }
}
