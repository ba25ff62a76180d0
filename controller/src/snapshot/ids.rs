//! Numbers of Connectors.

use std::collections::{HashSet, VecDeque};

use aws_lc_rs::digest::{SHA256, digest};
use connectors::ConnectorId;

use crate::grants::CONNECTOR_IDS;

/// Ids of deleted Connectors that are remembered, so that they are not given out again.
const MAX_RETIRED: usize = 1 << 20;

/// Gives out ids below [`CONNECTOR_IDS`]: never 0, never one in use, never one of the last
/// [`MAX_RETIRED`] that were in use.
///
/// An id starts from a hash of the object's uid, so that the replicas of the controller, and
/// one that was restarted, give the same id to the same Connector, unless two uids collide.
#[derive(Debug, Default)]
pub(super) struct Ids {
    taken: HashSet<u32>,
    retired: VecDeque<u32>,
}

impl Ids {
    /// An id for the object of this uid.
    pub(super) fn take(&mut self, uid: &str) -> ConnectorId {
        let hash = digest(&SHA256, uid.as_bytes());
        let start = hash
            .as_ref()
            .first_chunk()
            .map_or(1, |it| u32::from_be_bytes(*it));
        ConnectorId(self.next_free(start))
    }

    /// Gives an id back.
    pub(super) fn retire(&mut self, id: ConnectorId) {
        self.retired.push_back(id.0);
        if self.retired.len() > MAX_RETIRED
            && let Some(oldest) = self.retired.pop_front()
        {
            self.taken.remove(&oldest);
        }
    }

    fn next_free(&mut self, start: u32) -> u32 {
        let mut id = start % CONNECTOR_IDS;
        while id == 0 || !self.taken.insert(id) {
            id = (id + 1) % CONNECTOR_IDS;
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_leads_to_the_same_id_everywhere() {
        let (mut one, mut other) = (Ids::default(), Ids::default());
        other.take("another");
        assert_eq!(one.take("a"), other.take("a"));
    }

    #[test]
    fn ids_are_neither_shared_nor_used_again() {
        let mut ids = Ids::default();
        let first = ids.take("a");
        let second = ids.take("a");
        ids.retire(first);
        let third = ids.take("a");
        assert!(first != second && second != third && first != third);
    }

    #[test]
    fn zero_and_what_is_too_large_are_left_out() {
        let mut ids = Ids::default();
        assert_eq!(ids.next_free(u32::MAX), CONNECTOR_IDS - 1);
        assert_eq!(ids.next_free(u32::MAX), 1);
        assert_eq!(ids.next_free(0), 2);
    }
}
