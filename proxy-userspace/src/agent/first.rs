//! The beginning, until it is an agent's own.

use anyhow::Result;
use tokio::time::Instant;

use super::{pods::Pods, snapshot::Snapshot};
use crate::{limits, node::Node};

/// The pods that were there when the agent started: until they are served it is not ready,
/// and what a predecessor had enrolled stays.
pub(super) struct First {
    since: Instant,
    served: bool,
}

impl First {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            served: false,
        }
    }

    pub(super) fn are_served(&self) -> bool {
        self.served
    }

    /// One pod that cannot be served does not keep the agent from being ready for ever, but an
    /// agent that cannot serve any is never ready, lest it replaces one that can.
    pub(super) fn look(&mut self, pods: &Pods, snapshot: &Snapshot, node: &mut Node) -> Result<()> {
        if self.served {
            return Ok(());
        }
        let patient = self.since.elapsed() < limits::FIRST_PODS;
        if pods.is_settled(snapshot) || !patient && pods.enrolled() > 0 {
            node.forget_strangers(|cgroup_id| pods.is_wanted(cgroup_id, snapshot))?;
            self.served = true;
        }
        Ok(())
    }
}
