//! A limit for each of many, under which the newest wins.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Places, some for each key. Whoever comes when all of a key are taken gets that of the one
/// who has been there longest.
pub(super) struct Newest<K> {
    limit: usize,
    inner: Mutex<Inner<K>>,
}

struct Inner<K> {
    next: u64,
    places: HashMap<K, VecDeque<(u64, oneshot::Sender<()>)>>,
}

/// A place, which is free again when this is dropped.
pub(super) struct Place<K: Eq + Hash> {
    newest: Arc<Newest<K>>,
    key: K,
    number: u64,
}

/// Ready when somebody newer has the place, or it was given back.
pub(super) type Lost = oneshot::Receiver<()>;

impl<K: Clone + Eq + Hash> Newest<K> {
    /// With so many places for each key.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let places = HashMap::new();
        Arc::new(Self {
            limit,
            inner: Mutex::new(Inner { next: 0, places }),
        })
    }

    /// Takes a place.
    pub(super) fn enter(self: &Arc<Self>, key: K) -> (Place<K>, Lost) {
        let (keep, lost) = oneshot::channel();
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        let places = inner.places.entry(key.clone()).or_default();
        if places.len() >= self.limit {
            places.pop_front();
        }
        places.push_back((number, keep));
        drop(inner);
        let newest = Arc::clone(self);
        (
            Place {
                newest,
                key,
                number,
            },
            lost,
        )
    }
}

impl<K> Newest<K> {
    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        // Nothing panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut inner = self.newest.lock();
        if let Some(places) = inner.places.get_mut(&self.key) {
            places.retain(|(number, _)| *number != self.number);
            if places.is_empty() {
                inner.places.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_for_the_newest_of_its_key() {
        let newest = Newest::new(2);
        let (_other, mut of_other) = newest.enter("other");
        let (_one, mut first) = newest.enter("key");
        let (two, mut second) = newest.enter("key");
        assert!(is_kept(&mut first));
        let (_three, mut third) = newest.enter("key");
        assert!(!is_kept(&mut first), "it is pushed out");
        // One that is given back makes room as well.
        drop(two);
        let (_four, mut fourth) = newest.enter("key");
        for kept in [&mut third, &mut fourth, &mut of_other] {
            assert!(is_kept(kept));
        }
        assert!(!is_kept(&mut second));
    }

    fn is_kept(lost: &mut Lost) -> bool {
        lost.try_recv() == Err(oneshot::error::TryRecvError::Empty)
    }

    #[test]
    fn nothing_is_kept_of_those_who_went() {
        let newest = Newest::new(2);
        for key in 0..100 {
            drop(newest.enter(key));
        }
        assert!(newest.lock().places.is_empty());
    }
}
