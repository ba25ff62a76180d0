//! The states of nodes, on their way from whoever works them out to the streams that send
//! them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::snapshot::NodeState;

/// A node's state, as far as it is known.
pub type Known = Option<Arc<NodeState>>;

/// The newest state of every node. A stream that is slow misses the states in between, and
/// nothing queues up for it.
#[derive(Default)]
pub struct Nodes(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    states: HashMap<String, watch::Sender<Known>>,
    /// The whole cluster has been looked at: a node that is not in `states` has nothing.
    complete: bool,
}

impl Nodes {
    /// Replaces the state of a node.
    pub fn publish(&self, node: &str, state: Arc<NodeState>) {
        let mut inner = self.lock();
        let sender = inner.states.entry(node.to_owned()).or_default();
        sender.send_if_modified(|known| {
            let changes = known.as_deref() != Some(&*state);
            if changes {
                *known = Some(state);
            }
            changes
        });
    }

    /// From now on a node without a state has nothing to know. Until then its agent waits,
    /// because an empty state would have it take away what its pods are granted.
    pub fn complete(&self) {
        let mut inner = self.lock();
        inner.complete = true;
        for sender in inner.states.values() {
            sender.send_if_modified(|known| {
                let waits = known.is_none();
                if waits {
                    *known = Some(Arc::default());
                }
                waits
            });
        }
    }

    /// Whether [`Self::complete`] was called.
    pub fn is_complete(&self) -> bool {
        self.lock().complete
    }

    /// The state of a node, now and whenever it changes.
    pub fn subscribe(&self, node: &str) -> watch::Receiver<Known> {
        let mut inner = self.lock();
        let complete = inner.complete;
        let sender = inner
            .states
            .entry(node.to_owned())
            .or_insert_with(|| watch::Sender::new(complete.then(Arc::default)));
        sender.subscribe()
    }

    /// Forgets the nodes that are not kept, unless somebody listens. Returns those that are
    /// forgotten.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Vec<String> {
        let gone =
            |node: &str, sender: &watch::Sender<Known>| !keep(node) && sender.receiver_count() == 0;
        let mut inner = self.lock();
        let removed = inner.states.extract_if(|node, sender| gone(node, sender));
        removed.map(|(node, _)| node).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_waits_until_the_cluster_is_known() {
        let nodes = Nodes::default();
        let early = nodes.subscribe("a");
        assert!(early.borrow().is_none());
        nodes.complete();
        assert!(early.borrow().is_some() && nodes.subscribe("b").borrow().is_some());
    }

    #[test]
    fn a_node_is_forgotten_once_nobody_listens() {
        let nodes = Nodes::default();
        for node in ["gone", "heard", "kept"] {
            nodes.publish(node, Arc::default());
        }
        let agent = nodes.subscribe("heard");
        assert_eq!(nodes.retain(|node| node == "kept"), ["gone"]);
        drop(agent);
        assert_eq!(nodes.retain(|node| node == "kept"), ["heard"]);
    }

    #[test]
    fn the_same_state_wakes_nobody() {
        let nodes = Nodes::default();
        let mut agent = nodes.subscribe("a");
        nodes.publish("a", Arc::default());
        assert!(agent.has_changed().expect("the sender lives"));
        agent.mark_unchanged();
        nodes.publish("a", Arc::default());
        nodes.complete();
        assert!(!agent.has_changed().expect("the sender lives"));
    }
}
