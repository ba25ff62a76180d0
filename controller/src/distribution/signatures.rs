//! How often nodes have their authority signed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::limits;
use crate::bucket::Bucket;

/// A bucket for each node that had a signature of late.
///
/// An agent that wants what it cannot get, such as an older one that does not know what stands in
/// for Connectors without an answer, asks again and again. It keeps the authority that it has.
#[derive(Debug, Default)]
pub(super) struct Signatures(Mutex<HashMap<String, Bucket>>);

impl Signatures {
    /// Whether a node may have another one.
    pub(super) fn take(&self, node: &str) -> bool {
        self.take_at(node, Instant::now())
    }

    fn take_at(&self, node: &str, now: Instant) -> bool {
        // Nothing panics while it holds the lock.
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(node) {
            return bucket.take(now).is_ok();
        }
        if buckets.len() >= limits::SIGNED_NODES {
            buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        let (interval, burst) = limits::SIGNATURE_RATE;
        let mut bucket = Bucket::every(interval, burst, now);
        let taken = bucket.take(now).is_ok();
        buckets.insert(node.to_owned(), bucket);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_own_and_those_that_are_full_are_forgotten() {
        let signatures = Signatures::default();
        let (interval, burst) = limits::SIGNATURE_RATE;
        let start = Instant::now();
        for _ in 0..burst.get() {
            assert!(signatures.take_at("busy", start));
        }
        assert!(!signatures.take_at("busy", start));
        for node in 0..limits::SIGNED_NODES {
            assert!(signatures.take_at(&format!("node-{node}"), start));
        }
        let later = start + interval;
        assert!(signatures.take_at("busy", later) && !signatures.take_at("busy", later));
        assert!(signatures.take_at("newcomer", later));
        let known = signatures.0.lock().expect("nobody panics").len();
        assert_eq!(known, 2, "the busy one and the newcomer");
    }
}
