//! What fits into one message to a node.
//!
//! A message that is larger than agents take would end the stream, for all workloads of the
//! node. So the largest Connectors go without what makes them large, and the others work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use connectors::ConnectorId;
use tracing::error;

use super::catalog::Entry;

/// Names that are logged at once.
const TOLD: usize = 20;

/// What does not fit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Sent without credential and certificates, and not usable.
    pub(super) stripped: BTreeSet<ConnectorId>,
    /// Not sent at all, because there is no room even for their addresses.
    pub(super) dropped: BTreeSet<ConnectorId>,
}

impl LeftOut {
    /// Says what is left out. `connectors` has all of them.
    pub(super) fn tell(&self, connectors: &BTreeMap<ConnectorId, Arc<Entry>>) {
        let names = |ids: &BTreeSet<ConnectorId>| {
            let found = ids.iter().filter_map(|id| connectors.get(id));
            let mut names: Vec<String> = found
                .map(|entry| entry.connector.to_string())
                .take(TOLD)
                .collect();
            if ids.len() > TOLD {
                names.push(format!("{} more", ids.len() - TOLD));
            }
            names.join(", ")
        };
        if !self.stripped.is_empty() {
            error!(
                "a node is granted more than one message holds; these Connectors are refused \
                 there, because they are the largest: {}",
                names(&self.stripped)
            );
        }
        if !self.dropped.is_empty() {
            error!(
                "a node is granted more addresses than one message holds; it does not know \
                 these Connectors: {}",
                names(&self.dropped)
            );
        }
    }
}

/// Makes Connectors fit into `room` bytes, the largest first.
pub(super) fn fit(connectors: &mut BTreeMap<ConnectorId, Arc<Entry>>, room: usize) -> LeftOut {
    let mut left_out = LeftOut::default();
    let mut total: usize = connectors.values().map(|it| it.size).sum();
    if total <= room {
        return left_out;
    }
    for id in by_size(connectors) {
        if total <= room {
            return left_out;
        }
        if let Some(entry) = connectors.get_mut(&id) {
            let stripped = entry.stripped();
            if stripped.size < entry.size {
                total -= entry.size - stripped.size;
                *entry = Arc::new(stripped);
                left_out.stripped.insert(id);
            }
        }
    }
    for id in by_size(connectors) {
        if total <= room {
            break;
        }
        if let Some(entry) = connectors.remove(&id) {
            total -= entry.size;
            left_out.stripped.remove(&id);
            left_out.dropped.insert(id);
        }
    }
    left_out
}

/// The largest first; the same on every replica.
fn by_size(connectors: &BTreeMap<ConnectorId, Arc<Entry>>) -> Vec<ConnectorId> {
    let mut ids: Vec<_> = connectors.iter().map(|(id, it)| (it.size, *id)).collect();
    ids.sort_unstable_by(|one, other| other.cmp(one));
    ids.into_iter().map(|(_, id)| id).collect()
}
