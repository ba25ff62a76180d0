//! Workloads that are there before they can be served.

use std::path::Path;

use proxy_common::maps::POLICY_ANY;

use super::{Node, NodeError};
use crate::{limits, workload::PolicyId};

impl Node {
    /// Has a workload's connections to Connectors refused until it is [enrolled](Self::enrol), or
    /// left alone where they fail open; everything else goes out as before. `None`: it is not
    /// known yet what it is granted, so this is about the Connectors of all policies. `cgroup` is
    /// the directory of its cgroup, at which its DNS answers are looked at.
    ///
    /// Again with another policy replaces that, [`withdraw`](Self::withdraw) ends it. A workload
    /// that is enrolled stays so, and so does for a while one that a replaced agent still serves:
    /// `false`, to be tried again, since the listeners there close one day. Not for the cgroup of this process: its own upstream connections would be refused.
    pub fn pend(
        &mut self,
        cgroup_id: u64,
        policy: Option<PolicyId>,
        cgroup: &Path,
    ) -> Result<bool, NodeError> {
        self.check_writer()?;
        let left_served =
            self.since.elapsed() < limits::SUCCESSION && self.datapath.is_left_served(cgroup_id);
        if left_served || self.enrolled.contains_key(&cgroup_id) {
            return Ok(false);
        }
        // To refuse comes first: what follows needs descriptors and room, of which there may be
        // none.
        let id = policy.map_or(POLICY_ANY, |policy| policy.0);
        self.datapath.pend(cgroup_id, id)?;
        if policy.is_none() && !self.any_policy {
            // From now on: to add and remove it all for each pod that starts would cost more.
            self.any_policy = true;
            let updated = self.update_destinations();
            self.any_policy = updated.is_ok();
            updated?;
        }
        self.datapath.learn(cgroup_id, cgroup)?;
        Ok(true)
    }
}
