//! Who is calling: cgroups as identities, network namespaces as places.

mod cgroup;
mod netns;
pub mod pods;

pub use cgroup::{Cgroup, CgroupError};
pub use netns::{NetNs, NetNsError};

use std::sync::atomic::{AtomicU32, Ordering};

/// Number of one distinct set of granted Connectors. 0 grants nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub u32);

/// Something whose connections Postern may redirect.
#[derive(Debug)]
pub struct Workload {
    /// Id of its own cgroup.
    pub cgroup_id: u64,
    /// How messages call it: a pod's name, or the command of `postern run`.
    pub name: String,
    policy: AtomicU32,
}

impl Workload {
    /// A workload that is granted `policy`.
    pub fn new(cgroup_id: u64, name: String, policy: PolicyId) -> Self {
        Self {
            cgroup_id,
            name,
            policy: AtomicU32::new(policy.0),
        }
    }

    /// What it is granted now.
    pub fn policy(&self) -> PolicyId {
        PolicyId(self.policy.load(Ordering::Relaxed))
    }

    /// Changes what it is granted, for connections that are made from now on.
    pub fn set_policy(&self, policy: PolicyId) {
        self.policy.store(policy.0, Ordering::Relaxed);
    }
}
